# SPDX-License-Identifier: Apache-2.0
"""What the scripts in ``examples/`` that train a GAN share: flags, set-up and the final folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from accelerate import Accelerator
from torch import nn
from torch.utils.data import TensorDataset

from ..training.feature_quantization import FQConfig, add_feature_quantizers
from ..training.feature_quantizer import PRESETS
from ..training.gan_loop import GANTrainingConfig, train_gan
from ..training.losses import LOSSES
from ..training.standing_statistics import set_standing_statistics_
from . import shared
from .flags import config_flags, data_flags, loader_flags, make_parser, run_flags, validation_flags


_GAN_HELP = {
    "class_group_size": "groups of one class in a batch; 1 = mixed (no labels: always)",
    "learning_rate": "of the generator",
    "discr_learning_rate": "of the discriminator",
    "loss": "of both networks",
    "adam_beta2": "decay of Adam's squared gradients; that of its gradients is 0",
    "discriminator_steps": "of the discriminator per step of the generator",
    "r1_gamma": "weight of the R1 penalty",
    "r1_every": "steps between R1 penalties; 0 = none",
    "diffaugment": "color,translation,cutout or some of them: DiffAugment",
    "ema_images": "half-life of the averaged generator in images",
    "ema_rampup": "the half-life is at most this share of the images seen; 0 = no ramp-up",
}


def gan_parser(description: str) -> argparse.ArgumentParser:
    """Parser with flags for data and for :class:`.GANTrainingConfig`; defaults are those of the bundled StyleGAN2."""
    parser = make_parser(description)
    data_flags(parser)
    run_flags(parser, GANTrainingConfig)
    loader_flags(parser, GANTrainingConfig)
    validation_flags(parser)
    config_flags(parser, GANTrainingConfig, _GAN_HELP, loss=sorted(LOSSES))
    add = parser.add_argument
    add("--resolution", type=int, default=32, help="side in pixels; smaller images are centred on black")
    add("--gradient_accumulation_steps", type=int, default=1, help="micro-batches per optimizer step")
    add("--fq", nargs="+", metavar="MODULE", help="quantize the features that these discriminator modules put out")
    add("--fq_codes", type=int, default=64, help="codes of each (K)")
    add("--fq_preset", choices=sorted(PRESETS), default="paper", help="see FeatureQuantizer")
    add("--fq_weight", type=float, help="of its loss; default: the preset's")
    add("--fq_decay", type=float, help="of its averages; default: the preset's")
    add(
        "--fq_feed",
        choices=["quantized", "continuous"],
        help="what the next layer gets; default: the preset's (paper: quantized, which made training worse here)",
    )
    add("--fq_share", type=float, default=1.0, help="of the positions, drawn in every pass, that codebooks look at")
    parser.set_defaults(max_train_steps=22_000, class_group_size=8, r1_gamma=0.3)
    return parser


def style_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of a StyleGAN and its discriminator, whatever its layers."""
    add = parser.add_argument
    add("--z_dim", type=int, default=128, help="length of latents")
    add("--w_dim", type=int, default=128, help="length of styles")
    add("--mapping_layers", type=int, default=2, help="from latents to styles")
    add("--mbstd_group_size", type=int, default=8, help="images whose spread the discriminator sees together")


def parse_gan_args(parser: argparse.ArgumentParser, input_args=None) -> argparse.Namespace:
    """Parse, check the data flags and apply ``--smoke``."""
    args = parser.parse_args(input_args)
    shared.check_data_flags(parser, args)
    if args.smoke:
        shared.apply_smoke(args)
        args.train_batch_size, args.class_group_size = 8, 4
        args.num_validation_images = 150  # more than features have dimensions
    return args


def start(args: argparse.Namespace, name: str) -> tuple[Accelerator, TensorDataset, int]:
    """Accelerator with trackers, images and labels, and the number of classes (0 without labels)."""
    accelerator = shared.make_accelerator(args, name, gradient_accumulation_steps=args.gradient_accumulation_steps)
    dataset = shared.load_data(args, args.resolution)
    labels = dataset.tensors[1]
    return accelerator, dataset, int(labels.max()) + 1 if labels.any() else 0


def train(
    args: argparse.Namespace,
    generator: nn.Module,
    discriminator: nn.Module,
    dataset: TensorDataset,
    accelerator: Accelerator,
    **options,
) -> None:
    """Train by the flags and ``options`` of :class:`.GANTrainingConfig`; writes ``generator`` and ``discriminator``."""
    if args.fq:
        chosen = FQConfig(
            args.fq_codes,
            preset=args.fq_preset,
            weight=args.fq_weight,
            decay=args.fq_decay,
            feed=args.fq_feed,
            share=args.fq_share,
            accumulate="step",  # real and generated images of a step see the same codes
        )
        add_feature_quantizers(discriminator, dict.fromkeys(args.fq, chosen))
    config = GANTrainingConfig(**shared.given(args, GANTrainingConfig), **options)
    images = dataset.tensors[0]
    accelerator.print(
        f"{len(images)} images {tuple(images.shape[1:])}, {generator.config.num_classes} classes; "
        f"generator {generator.num_parameters():,} parameters, discriminator {discriminator.num_parameters():,}"
    )
    validator = shared.make_validator(args, accelerator, images.shape[-1])
    average = train_gan(generator, discriminator, dataset, config, accelerator, validator)
    if accelerator.is_main_process:
        if getattr(args, "standing_statistics", 0):
            set_standing_statistics_(average, args.standing_statistics, seed=args.seed)
        average.save_pretrained(Path(args.output_dir, "generator"))
        accelerator.unwrap_model(discriminator).save_pretrained(Path(args.output_dir, "discriminator"))
        shared.write_report(Path(args.output_dir), shared.recorded(config))
    accelerator.end_training()
