# SPDX-License-Identifier: Apache-2.0
"""StyleGAN: the step-by-step formulation of the paper."""

import math

import pytest
import torch
import torch.nn.functional as F

from ..conftest import tiny_stylegan
from .golden import close


pytestmark = pytest.mark.processor


def paper_synthesis(generator, ws, noise=True):
    """Figure 1b of the paper, one operation per line, on stored noise."""
    state = {key.removeprefix("synthesis."): value for key, value in generator.state_dict().items()}

    def convolution(x, name, gain=2**0.5):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight * gain / math.sqrt(weight[0].numel()), padding=weight.shape[2] // 2)

    def style_layer(x, name, w):
        if noise:
            x = x + state[f"{name}.noise_const"] * state[f"{name}.noise_strength"].view(1, -1, 1, 1)
        x = F.leaky_relu(x + state[f"{name}.bias"].view(1, -1, 1, 1), 0.2)
        x = x - x.mean(dim=(2, 3), keepdim=True)
        x = x / (x.square().mean(dim=(2, 3), keepdim=True) + 1e-8).sqrt()
        weight = state[f"{name}.affine.weight"]
        style = w @ (weight / math.sqrt(weight.shape[1])).T + state[f"{name}.affine.bias"]
        scale, shift = style.chunk(2, dim=1)
        return x * (scale[:, :, None, None] + 1) + shift[:, :, None, None]

    x = None
    for index, size in enumerate(generator.synthesis.block_resolutions):
        if x is None:
            x = state["b4.const"].expand(len(ws), -1, -1, -1)
        else:
            x = convolution(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), f"b{size}.conv0")
            kernel = torch.outer(*[torch.tensor([0.25, 0.5, 0.25])] * 2).expand(x.shape[1], 1, 3, 3)
            x = F.conv2d(x, kernel, padding=1, groups=x.shape[1])
        x = style_layer(x, f"b{size}.style0", ws[:, 2 * index])
        x = style_layer(convolution(x, f"b{size}.conv1"), f"b{size}.style1", ws[:, 2 * index + 1])
    return convolution(x, "torgb", gain=1) + state["torgb.bias"].view(1, -1, 1, 1)


@pytest.mark.parametrize("channels", [(16, 16, 8), ((12, 16), (10, 7), (5, 6))], ids=["widths", "pairs"])
@torch.no_grad()
def test_equals_the_papers_steps(channels):
    generator = tiny_stylegan(channels=channels)
    ws = torch.randn(3, generator.num_ws, 8)
    for mode in ("const", "none"):
        expected = paper_synthesis(generator, ws, noise=mode == "const")
        close(generator.synthesize(ws, noise_mode=mode), expected, 2e-5, relative=1e-4)
