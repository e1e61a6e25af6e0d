# SPDX-License-Identifier: Apache-2.0
"""What the tests of compare share: small grey models, a quantized copy, quick options."""

import copy

from diffusers import DDIMPipeline, DDIMScheduler

import hf_ganzip as gz

from ..conftest import perturbed, tiny_generator, tiny_unet


QUICK = {"bootstrap": 40, "progress": False, "batch_size": 4, "num_images": 8}
DRAWN = QUICK | {"steps": 3}


def grey_unet(**changes):
    return perturbed(tiny_unet(sample_size=16, in_channels=1, out_channels=1, **changes))


def grey_pipeline(unet=None):
    return DDIMPipeline(grey_unet() if unet is None else unet, DDIMScheduler())


def grey_generator(**changes):
    return perturbed(tiny_generator(image_channels=1, **changes))


def quantized(model, bits=4, **options):
    model = copy.deepcopy(model)
    gz.quantize_(model, bits=bits, **options)
    return model


def figures(report):
    return {each.name: each for each in report.figures if each.group != "cost"}
