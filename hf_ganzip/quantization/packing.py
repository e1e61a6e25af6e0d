# SPDX-License-Identifier: Apache-2.0
"""Dense storage of 2- to 8-bit codes: b bits take b bits, also 3, 5, 6 and 7.

A code is cut into bit planes of width 1, 2, 4 or 8 (low bits first: 3 = 2 + 1, 7 = 4 + 2 + 1), and the planes follow
one another. Within a plane of width w, v = 8 / w codes share a byte, and the plane is laid out in blocks: with M =
ceil(N / v) bytes, code j * M + i sits in byte i at bit w * j. Unpacking is therefore v shifted and masked copies.
"""

from __future__ import annotations

import torch
from torch import Tensor


PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


def packed_size(numel: int, bits: int) -> int:
    """Bytes that ``numel`` codes of ``bits`` bits take.

    Example:
        >>> packed_size(1000, 3)
        375
    """
    return sum(-(-numel * width // 8) for width in _planes(bits))


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack uint8 codes (any shape) below ``2**bits`` into a flat uint8 tensor of :func:`packed_size` bytes.

    Raises:
        ValueError: ``bits`` is not in 2..8 or a code does not fit.

    Example:
        >>> pack(torch.tensor([1, 2, 3, 0, 1], dtype=torch.uint8), bits=2).tolist()
        [29, 2]
    """
    planes = _planes(bits)
    codes = codes.flatten()
    if codes.numel() and int(codes.max()) >= 2**bits:
        raise ValueError(f"pack: a code is {int(codes.max())}; allowed with {bits} bits are 0..{2**bits - 1}.")
    packed, shift = [], 0
    for width in planes:
        packed.append(_pack_plane((codes >> shift) & (2**width - 1) if len(planes) > 1 else codes, width))
        shift += width
    return torch.cat(packed) if len(packed) > 1 else packed[0]


def unpack(packed: Tensor, bits: int, numel: int, start: int = 0, stop: int | None = None) -> Tensor:
    """Inverse of :func:`pack`: flat uint8 codes ``start`` to ``stop`` (None: ``numel``) of ``numel``.

    Raises:
        ValueError: ``packed`` has not :func:`packed_size` bytes.
    """
    if packed.numel() != packed_size(numel, bits):
        raise ValueError(
            f"unpack: got {packed.numel()} bytes; {numel} codes of {bits} bits take {packed_size(numel, bits)}."
        )
    codes, first, shift, stop = None, 0, 0, numel if stop is None else stop
    masks = _MASKS if packed.is_cpu and not torch.compiler.is_compiling() else _NUMBERS
    for width in PLANES[bits]:
        size = -(-numel * width // 8)
        values = _spread(_part(packed, first, size), width, start, stop)  # the bits above are still there
        if codes is None:
            codes = values.bitwise_and_(masks[width]) if width < 8 else values
        else:
            codes.add_(values, alpha=2**shift).bitwise_and_(masks[shift + width])  # modulo 256
        first, shift = first + size, shift + width
    return codes  # type: ignore[return-value]  # every number of bits has a plane


def _planes(bits: int) -> tuple[int, ...]:
    if bits not in PLANES:
        raise ValueError(f"bits is {bits!r}; allowed are 2 to 8.")
    return PLANES[bits]


def _pack_plane(values: Tensor, width: int) -> Tensor:
    if width == 8:
        return values.clone()
    per_byte = 8 // width
    size = -(-values.numel() // per_byte)
    missing = size * per_byte - values.numel()
    values = (torch.nn.functional.pad(values, (0, missing)) if missing else values).view(per_byte, size)
    packed = values[0].clone()
    for j in range(1, per_byte):
        packed |= values[j] << (width * j)
    return packed


def _spread(packed: Tensor, width: int, start: int, stop: int) -> Tensor:
    """Bytes whose lowest ``width`` bits are the values ``start`` to ``stop`` of a plane; a copy."""
    size = packed.numel()
    if torch.compiler.is_compiling():  # one expression, which is fused
        return torch.cat([packed >> down for down in range(0, 8, width)])[start:stop]
    if packed.is_cpu and not start and stop > size * (8 // width - 1):
        return _part((packed >> _DOWN[width]).view(-1), 0, stop)  # as many operations for eight pieces as for one
    found, written = packed.new_empty(stop - start), 0
    while start < stop:
        block, first = divmod(start, size)
        count = min(size - first, stop - start)
        piece = _part(packed, first, count)
        torch.bitwise_right_shift(piece, width * block, out=found.narrow(0, written, count))
        start, written = start + count, written + count
    return found


_DOWN = {width: torch.arange(0, 8, width, dtype=torch.uint8, device="cpu")[:, None] for width in (1, 2, 4, 8)}
_NUMBERS = [2**bits - 1 for bits in range(9)]
_MASKS = torch.tensor(_NUMBERS, dtype=torch.uint8, device="cpu").unbind()  # numbers become tensors in every call


def _part(values: Tensor, start: int, count: int) -> Tensor:
    # Each view costs as much as unpacking a thousand codes.
    return values if count == values.numel() else values.narrow(0, start, count)
