# SPDX-License-Identifier: Apache-2.0
"""Small models to prune."""

import copy
import functools

import torch

from hf_ganzip.pruning import PruneConfig, prune_
from hf_ganzip.pruning.rules import rule_of

from ..conftest import randomized, tiny_biggan, tiny_generator, tiny_stylegan3, tiny_unet
from ..tiny_diffusion import conditional_unet, xl_unet


GENERATORS = {
    "stylegan2": lambda **c: tiny_generator(resolution=16, channels=((16, 12), (12, 10), 8), **c),
    "stylegan2 resnet": lambda **c: tiny_generator(architecture="resnet", **c),
    "stylegan2 orig": lambda **c: tiny_generator(architecture="orig", **c),
    "stylegan3": tiny_stylegan3,
    "biggan": lambda **c: tiny_biggan(attention_blocks=(), **c),
    "biggan without sharing": lambda **c: tiny_biggan(attention_blocks=(), shared_dim=0, hierarchical=False, **c),
}


class KeepFirst:
    """Scores that keep the first channels."""

    def __call__(self, model, sets):
        return {channels.name: -torch.arange(channels.width, dtype=torch.float32) for channels in sets}


conditional = functools.partial(conditional_unet, attention_head_dim=2)
UNETS = {
    "unet": tiny_unet,
    "one head": lambda: tiny_unet(attention_head_dim=None),
    "classes": lambda: tiny_unet(num_class_embeds=3),
    "scale and shift": lambda: tiny_unet(resnet_time_scale_shift="scale_shift"),
    "conditional": conditional,
    "stable diffusion xl": xl_unet,
    "linear projection": lambda: conditional(use_linear_projection=True),
}


ALL = GENERATORS | UNETS


@functools.cache
def halved(name):
    """A model with half of its channels, its report, and the model and the channel sets of before; to be copied, not
    changed.
    """
    model = randomized(ALL[name]())
    dense = copy.deepcopy(model)
    return model, prune_(model, PruneConfig("random", 0.5)), dense, rule_of(dense).sets(dense)


def images(count=4, channels=3):
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
