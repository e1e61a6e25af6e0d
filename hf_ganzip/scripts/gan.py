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
from ..training.standing_statistics import set_standing_statistics_
from .shared import (
    apply_smoke,
    check_data_flags,
    data_flags,
    given,
    load_data,
    make_accelerator,
    make_validator,
    recorded,
    run_flags,
    validation_flags,
    write_report,
)


def gan_parser(description: str) -> argparse.ArgumentParser:
    """Parser with the flags for data and for :class:`.GANTrainingConfig`; defaults are those of the bundled StyleGAN2."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    data_flags(parser)
    run_flags(parser)
    validation_flags(parser)
    add = parser.add_argument
    add("--resolution", type=int, default=32, help="side in pixels; smaller images are centred on black")
    add(
        "--class_group_size", type=int, default=8, help="groups of one class in a batch; 1 = mixed (no labels: always)"
    )
    add("--max_train_steps", type=int, default=22_000)
    add("--train_batch_size", type=int, default=32, help="per process and discriminator step")
    add("--gradient_accumulation_steps", type=int, default=1)
    add("--learning_rate", type=float, default=0.0025)
    add("--discr_learning_rate", type=float, default=0.0025)
    add("--loss", choices=["logistic", "hinge"], default="logistic")
    add("--adam_beta2", type=float, default=0.99)
    add("--discriminator_steps", type=int, default=1, help="of the discriminator per step of the generator")
    add("--r1_gamma", type=float, default=0.3)
    add("--r1_every", type=int, default=16, help="steps between R1 penalties; 0 = none")
    add("--diffaugment", default="", help="color,translation,cutout or some of them: DiffAugment")
    add("--ema_images", type=float, default=20_000, help="half-life of the averaged generator in images")
    add("--fq", nargs="+", metavar="MODULE", help="quantize the features that these discriminator modules put out")
    add("--fq_codes", type=int, default=64, help="codes of each (K)")
    add("--fq_preset", choices=sorted(PRESETS), default="official", help="see FeatureQuantizer")
    add("--fq_weight", type=float, help="of its loss; default: the preset's")
    add("--fq_decay", type=float, help="of its averages; default: the preset's")
    add("--fq_feed", choices=["quantized", "continuous"], help="what the next layer gets; default: the preset's")
    return parser


def parse_gan_args(parser: argparse.ArgumentParser, input_args=None) -> argparse.Namespace:
    """Parse, check the data flags and apply ``--smoke``."""
    args = parser.parse_args(input_args)
    check_data_flags(parser, args)
    if args.smoke:
        apply_smoke(args)
        args.train_batch_size, args.class_group_size = 8, 4
        args.num_validation_images = 40
    return args


def start(args: argparse.Namespace, name: str) -> tuple[Accelerator, TensorDataset, int]:
    """Accelerator with trackers, images and labels, and the number of classes (0 without labels)."""
    accelerator = make_accelerator(args, name, gradient_accumulation_steps=args.gradient_accumulation_steps)
    dataset = load_data(args, args.resolution)
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
    """Train with the flags and ``options`` as :class:`.GANTrainingConfig`; writes ``generator`` and ``discriminator``."""
    if args.fq:
        chosen = FQConfig(
            args.fq_codes,
            preset=args.fq_preset,
            weight=args.fq_weight,
            decay=args.fq_decay,
            feed=args.fq_feed,
            accumulate="step",  # real and generated images of a step see the same codes
        )
        add_feature_quantizers(discriminator, dict.fromkeys(args.fq, chosen))
    config = GANTrainingConfig(**given(args, GANTrainingConfig), **options)
    images = dataset.tensors[0]
    accelerator.print(
        f"{len(images)} images {tuple(images.shape[1:])}, {generator.config.num_classes} classes; "
        f"generator {generator.num_parameters():,} parameters, discriminator {discriminator.num_parameters():,}"
    )
    average = train_gan(generator, discriminator, dataset, config, accelerator, make_validator(args, accelerator))
    if accelerator.is_main_process:
        if getattr(args, "standing_statistics", 0):
            set_standing_statistics_(average, args.standing_statistics, seed=args.seed)
        average.save_pretrained(Path(args.output_dir, "generator"))
        accelerator.unwrap_model(discriminator).save_pretrained(Path(args.output_dir, "discriminator"))
        write_report(Path(args.output_dir), recorded(config))
    accelerator.end_training()
