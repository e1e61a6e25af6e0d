# SPDX-License-Identifier: Apache-2.0
"""torch.compile of packed models: called again and again, eager before and after, with and without gradients, other
batch sizes.
"""

import itertools

import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.families import example_inputs

from ..conftest import TINY, tiny_generator
from ..tiny_diffusion import FAMILIES


# 2.7 breaks the graph at every packed weight, and cannot compile compute="packed" at all.
OLD = torch.__version__ < "2.13"
COMPUTE = ["dequantized"] if OLD else ["packed", "dequantized"]
ALL = FAMILIES | TINY
del ALL["UNet2DModel"]  # TINY has it


def check(model, inputs, **options):
    torch._dynamo.reset()
    compiled = torch.compile(model, **options)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            for args, kwargs in inputs:
                expected = model(*args, **kwargs)[0]
                for _ in range(3):
                    torch.testing.assert_close(compiled(*args, **kwargs)[0], expected, rtol=1e-4, atol=1e-4)
                assert torch.equal(model(*args, **kwargs)[0], expected)


def of_two_sizes(model):
    """The example inputs of a model, and a batch of twice the size."""
    args, kwargs = example_inputs(model)
    count = len(args[0])

    def twice(value):
        return torch.cat([value, value]) if isinstance(value, torch.Tensor) and value.shape[:1] == (count,) else value

    kwargs |= {"return_dict": False}
    return (args, kwargs), (tuple(map(twice, args)), {name: twice(value) for name, value in kwargs.items()})


@pytest.mark.parametrize("compute", COMPUTE)
@pytest.mark.parametrize(
    "method", ["aciq", *(pytest.param(name, marks=pytest.mark.process) for name in ("codebook", "outlier_splitting"))]
)
def test_without_graph_breaks(method, compute):
    model = tiny_generator()
    gz.quantize_(model, gz.QuantizeConfig(method, bits=4, compute=compute))
    check(model, of_two_sizes(model)[:1], fullgraph=not OLD, backend="eager")


SINGLE = {
    # once: TypeError: Multiple dispatch failed for aten.convolution, on the second call
    "one pixel": (lambda: nn.Conv2d(8, 8, 1), (2, 8, 4, 4), {}),
    "rotated, low rank": (lambda: nn.Linear(128, 64), (2, 128), {"bits": 3, "svd_rank": 1, "hadamard": True}),
}


@pytest.mark.parametrize("compute", COMPUTE)
@pytest.mark.parametrize("name", SINGLE)
def test_single_layers(name, compute):
    make, shape, options = SINGLE[name]
    model = nn.Sequential(make()).eval()
    gz.quantize_(model, compute=compute, headroom=0, **options)
    check(model, [((torch.randn(shape),), {})], fullgraph=not OLD, backend="aot_eager")


def every_architecture():
    """With two sizes of batches; and with one by the default backend, which takes minutes. Dequantized weights are
    tensors like any others: of all architectures they are compiled in the slow lane only.
    """
    for name, compute in itertools.product(ALL, COMPUTE):
        quick = compute == COMPUTE[0] or name in ("generator", "unet")
        yield pytest.param(name, "aot_eager", 2, compute, marks=pytest.mark.process if quick else pytest.mark.slow)
        quick = name == "unet"
        yield pytest.param(name, "inductor", 1, compute, marks=pytest.mark.process if quick else pytest.mark.slow)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, when inductor is imported
@pytest.mark.parametrize("name, backend, sizes, compute", list(every_architecture()))
def test_every_architecture(name, backend, sizes, compute):
    model = ALL[name]().eval()
    gz.quantize_(model, gz.QuantizeConfig(bits=4, compute=compute))
    check(model, of_two_sizes(model)[:sizes], backend=backend)
