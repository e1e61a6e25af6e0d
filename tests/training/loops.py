# SPDX-License-Identifier: Apache-2.0
"""Every training loop on tiny networks and few images: (networks ..., average where the loop has one)."""

import torch

from hf_ganzip.models import UGATITDiscriminator, UGATITGenerator
from hf_ganzip.pruning import PruneConfig, prune_
from hf_ganzip.training.diffusion_loop import DiffusionTrainingConfig, train_diffusion
from hf_ganzip.training.distillation_config import DistillationConfig
from hf_ganzip.training.distillation_loop import train_distilled
from hf_ganzip.training.feature_quantization import FQConfig, add_feature_quantizers
from hf_ganzip.training.gan_loop import GANTrainingConfig, train_gan
from hf_ganzip.training.translation_loop import (
    Discriminators,
    Generators,
    TranslationConfig,
    enlarged,
    train_translation,
)

from ..conftest import tiny_discriminator, tiny_generator, tiny_stylegan3, tiny_unet
from .conftest import cpu_accelerator, images


def train_tiny_gan(folder, steps, accumulation=1, classes=2, validate=None, fq=None, generator=None, **options):
    """Train tiny networks on batches of 8, 5 micro-steps an epoch; (generator, discriminator, average)."""
    torch.manual_seed(1)
    networks = {"resolution": 8, "channels": (8, 4), "num_classes": classes if classes > 1 else 0}
    generator = (generator or tiny_generator(**networks)).train()
    discriminator = tiny_discriminator(**networks).train()
    if fq is not None:
        add_feature_quantizers(discriminator, {"b8": fq})
    accelerator = cpu_accelerator(gradient_accumulation_steps=accumulation)
    options = {"train_batch_size": 8, "r1_every": 2, "validation_steps": 1000, "checkpointing_steps": 4} | options
    config = GANTrainingConfig(output_dir=str(folder), max_train_steps=steps, **options)
    average = train_gan(generator, discriminator, images(classes=classes), config, accelerator, validate)
    return generator, discriminator, average


def networks_to_distill(family="stylegan2"):
    torch.manual_seed(1)
    build = {"stylegan2": tiny_generator, "stylegan3": tiny_stylegan3}[family]
    teacher, student = build(), build()
    student.load_state_dict(teacher.state_dict())
    prune_(student, PruneConfig("magnitude", 0.5, criterion_options={"samples": 4}))
    torch.manual_seed(2)
    discriminator = tiny_discriminator(channels=(8, 8, 4), mbstd_group_size=1)
    return student, teacher, discriminator


def distance(first, second):
    return (first - second).square().mean(dim=(1, 2, 3))


def train_distillation(folder, steps, family="stylegan2", made=None, side=None, **options):
    """Train tiny networks on batches of 8, 6 steps an epoch; (student, discriminator, average)."""
    student, teacher, discriminator = made or networks_to_distill(family)
    functions = {name: options.pop(name, None) for name in ("validate", "mask")}
    functions["perceptual"] = options.pop("perceptual", distance)
    options = {"train_batch_size": 8, "relation_batch": 2, "r1_every": 2, "path_every": 2} | options
    options = {"checkpointing_steps": 4, "validation_steps": 1000} | options
    config = DistillationConfig(str(folder), max_train_steps=steps, **options)
    data = images(side or teacher.config.resolution, 48, classes=3)
    average = train_distilled(student, teacher, discriminator, data, config, cpu_accelerator(), **functions)
    return student, discriminator, average


def train_noise_predictor(folder, steps, accumulation=1, model=None, teacher=None, validate=None, **options):
    """Train a tiny UNet on batches of 8, 5 steps an epoch; (UNet, average)."""
    torch.manual_seed(1)
    model = model or tiny_unet()
    accelerator = cpu_accelerator(gradient_accumulation_steps=accumulation)
    options = {"train_batch_size": 8, "checkpointing_steps": 4, "validation_steps": 1000} | options
    config = DiffusionTrainingConfig(str(folder), max_train_steps=steps, **options)
    return model, train_diffusion(model, images(), config, accelerator, teacher, validate)


SIZE = 32


def translators(quantized=False):
    torch.manual_seed(0)
    options = {"resolution": SIZE, "base_channels": 4, "num_blocks": 1, "light": True}
    generators = Generators(UGATITGenerator(**options), UGATITGenerator(**options))
    found = {
        f"{kind}_{side}": UGATITDiscriminator(base_channels=4, num_layers=layers)
        for side in "ab"
        for kind, layers in (("global", 5), ("local", 4))
    }
    if quantized:
        for side in "ab":
            add_feature_quantizers(found[f"global_{side}"], {"model.5": FQConfig(4, preset="official")})
    return generators, Discriminators(**found)


def train_translators(folder, steps, quantized=False, **options):
    """Train tiny translators on batches of 2, 3 steps an epoch; (generators, discriminators)."""
    generators, discriminators = translators(quantized)
    options = {"train_batch_size": 2, "checkpointing_steps": 2, "validation_steps": 1000} | options
    config = TranslationConfig(str(folder), max_train_steps=steps, **options)
    pixels = images(enlarged(SIZE), 14).tensors[0]
    train_translation(generators, discriminators, pixels[:7], pixels[7:], config, cpu_accelerator())
    return generators, discriminators
