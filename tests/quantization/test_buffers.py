# SPDX-License-Identifier: Apache-2.0
"""Memory that is lent to unpacked weights."""

import threading

import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.quantization import buffers


def two_layers() -> tuple[nn.Module, nn.Module]:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    gz.quantize_(model, bits=4)
    return model[0], model[1]


def test_memory_goes_from_one_weight_to_the_next():
    addresses = {layer.weight.data_ptr() for layer in (*two_layers(), *two_layers())}
    assert len(addresses) == 1
    assert addresses.pop() % 64 == 0  # kernels differ for memory that is not aligned


def test_nothing_that_lives_is_overwritten():
    """The weight itself, a view of it, and what a backward pass keeps."""
    first, second = two_layers()
    expected = first.weight.clone()
    for kept in (first.weight, first.weight.transpose(0, 1)[1:].detach()):
        before = kept.clone()
        assert torch.equal(second.weight, second.dequantized_weight())
        assert torch.equal(kept, before)
        del kept
    x = torch.randn(1, 8, 7, 7, requires_grad=True)
    output = first(x)
    assert not torch.equal(second.weight, expected)
    (slope,) = torch.autograd.grad(output.sum(), x)
    (exact,) = torch.autograd.grad(nn.functional.conv2d(x, expected, first.bias).sum(), x)
    torch.testing.assert_close(slope, exact)


def test_large_weights_and_other_threads_have_their_own_memory(monkeypatch):
    first, second = two_layers()
    here, found = first.weight, []
    thread = threading.Thread(target=lambda: found.append(second.weight))
    thread.start()
    thread.join()
    assert found[0].data_ptr() != here.data_ptr() and torch.equal(found[0], second.weight)
    del here
    monkeypatch.setattr(buffers, "_KEPT", 4 * first.weight.numel() - 1)
    one = first.weight
    assert one.data_ptr() != second.weight.data_ptr() and torch.equal(one, first.dequantized_weight())
