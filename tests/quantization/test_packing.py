# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_ganzip.quantization.packing import pack, packed_size, unpack


pytestmark = pytest.mark.processor


@given(bits=st.integers(2, 8), numel=st.integers(0, 70), seed=st.integers(0, 2**16))
def test_unpacking_reverses_packing(bits, numel, seed):
    codes = torch.randint(0, 2**bits, (numel,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    codes[:1], codes[1:2] = 0, 2**bits - 1
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and packed.numel() == packed_size(numel, bits)
    assert torch.equal(unpack(packed, bits, numel), codes)
    before, (start, stop) = packed.clone(), sorted((seed % (numel + 1), seed // 71 % (numel + 1)))
    part = unpack(packed, bits, numel, start, stop)
    assert torch.equal(part, codes[start:stop])
    part.add_(1)  # a copy, also of 8 bits
    assert torch.equal(packed, before)


def test_b_bits_take_b_bits():
    assert [packed_size(8 * 1000, bits) for bits in range(2, 9)] == [1000 * bits for bits in range(2, 9)]


def test_layout_is_blocked_planes():
    # 3 bits = a plane of width 2 (v = 4, M = 2), then one of width 1 (v = 8, M = 1); code j * M + i is in byte i.
    codes = torch.tensor([1, 2, 3, 4, 5], dtype=torch.uint8)
    low, high = codes & 3, codes >> 2
    expected = [
        int(low[0]) | int(low[2]) << 2 | int(low[4]) << 4,
        int(low[1]) | int(low[3]) << 2,
        sum(int(bit) << j for j, bit in enumerate(high)),
    ]
    assert pack(codes, 3).tolist() == expected


def test_codes_bits_and_bytes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"a code is 4; allowed with 2 bits are 0..3"):
        pack(torch.tensor([4], dtype=torch.uint8), 2)

    for bits in (0, 1, 9):
        with pytest.raises(ValueError, match="allowed are 2 to 8"):
            packed_size(8, bits)
    with pytest.raises(ValueError, match="got 4 bytes; 10 codes of 3 bits take 5"):
        unpack(torch.zeros(4, dtype=torch.uint8), 3, 10)
