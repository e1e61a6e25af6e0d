# SPDX-License-Identifier: Apache-2.0
"""What the GAN training scripts in ``examples/`` share: flags, set-up and the final folders."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs, ProjectConfiguration, set_seed
from diffusers import ModelMixin
from torch import nn
from torch.utils.data import TensorDataset

from ..evaluation.validation import VALIDATION_METRICS, Validator
from ..plotting import save_training_curves
from .data import load_images
from .feature_quantization import FQConfig, add_feature_quantizers
from .feature_quantizer import PRESETS
from .gan_loop import GANTrainingConfig, train_gan
from .run import read_log
from .standing_statistics import set_standing_statistics_


_SMOKE_IMAGES = 64


def data_flags(parser: argparse.ArgumentParser) -> None:
    """Where labelled images come from."""
    add = parser.add_argument
    add(
        "--dataset_name",
        help="`datasets` id or parquet file with an image column, and a label column where labels matter",
    )
    add("--train_data_dir", help="folder of images, or of MNIST-type idx files")
    add("--image_column", default="image")
    add("--label_column", default="label")


def run_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every training script: those of :class:`.RunConfig` and of trackers."""
    add = parser.add_argument
    add("--output_dir", required=True, help="checkpoints, grids, log and final models")
    add("--mixed_precision", choices=["no", "bf16"], default=os.environ.get("ACCELERATE_MIXED_PRECISION", "no"))
    add("--seed", type=int, default=0)
    add("--checkpointing_steps", type=int, default=1000)
    add("--checkpoints_total_limit", type=int, default=2)
    add(
        "--validation_steps",
        type=int,
        default=1000,
        help="steps between sample grids, and figures where there are some",
    )
    add("--resume_from_checkpoint", help='a checkpoint folder or "latest"')
    add("--report_to", help="tensorboard, trackio or wandb")
    add("--smoke", action="store_true", help="tiny model, random images, 4 steps; no data needed")


def validation_flags(parser: argparse.ArgumentParser) -> None:
    """What the samples of a training are measured against, and how."""
    add = parser.add_argument
    add("--validation_data", help="real images that samples are measured against; none: sample grids only")
    add("--num_validation_images", type=int, default=2500)
    add("--validation_metrics", nargs="+", default=list(VALIDATION_METRICS))
    add(
        "--validation_k",
        type=int,
        default=3,
        help="nearest neighbours of precision, recall, density and coverage (5 in the paper's code)",
    )
    add("--extractor", default="fashion_mnist", help="feature network: fashion_mnist, inception, vgg16:WEIGHTS ...")


def make_validator(
    args: argparse.Namespace, accelerator: Accelerator, dense: ModelMixin | None = None
) -> Validator | None:
    """Figures during training by the flags of :func:`validation_flags`; None without data, and on all processes but the first."""
    if not args.validation_data or not accelerator.is_main_process:
        return None
    return Validator(
        args.validation_data,
        metrics=args.validation_metrics,
        num_samples=args.num_validation_images,
        seed=args.seed,
        extractor=args.extractor,
        options={"k": args.validation_k},
        dense=dense,
    )


def gan_parser(description: str) -> argparse.ArgumentParser:
    """Parser with the flags for data and for :class:`.GANTrainingConfig`; defaults are those of the config."""
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
    if not args.smoke and bool(args.dataset_name) == bool(args.train_data_dir):
        parser.error("give one of --dataset_name and --train_data_dir")
    if args.smoke:
        args.max_train_steps, args.checkpointing_steps, args.validation_steps = 4, 2, 2
        args.train_batch_size, args.class_group_size = 8, 4
        args.num_validation_images = 40
    return args


def make_accelerator(args: argparse.Namespace, name: str, **options) -> Accelerator:
    """Accelerator with trackers under this project name; seeds everything and makes the output folder."""
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(
        mixed_precision="no",  # the loops apply --mixed_precision themselves: penalties stay in float32
        log_with=args.report_to,
        project_config=ProjectConfiguration(project_dir=args.output_dir, logging_dir=f"{args.output_dir}/logs"),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        **options,
    )
    set_seed(args.seed)
    if args.report_to:
        accelerator.init_trackers(name, {k: v for k, v in vars(args).items() if isinstance(v, (int, float, str))})
    return accelerator


def start(args: argparse.Namespace, name: str) -> tuple[Accelerator, TensorDataset, int]:
    """Accelerator with trackers, images and labels, and the number of classes (0 without labels)."""
    accelerator = make_accelerator(args, name, gradient_accumulation_steps=args.gradient_accumulation_steps)
    if args.smoke:
        dataset = smoke_images(args.resolution)
    else:
        dataset = load_images(
            args.dataset_name or args.train_data_dir,
            resolution=args.resolution,
            image_column=args.image_column,
            label_column=args.label_column,
        )
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
    given = {**vars(args), **options}
    config = GANTrainingConfig(**{k: v for k, v in given.items() if k in GANTrainingConfig.__dataclass_fields__})
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
        write_report(Path(args.output_dir), {key: value for key, value in vars(config).items() if key != "output_dir"})
    accelerator.end_training()


def write_report(output: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    """``report.json`` with options and logs, ``curves.png`` of the validations where there were some; returns their figures."""
    figures = read_log(output / "figures.jsonl")
    report = {"options": options, "log": read_log(output / "log.jsonl"), "figures": figures}
    (output / "report.json").write_text(json.dumps(report, indent=1))
    if figures:
        save_training_curves(figures, output / "curves.png")
    return figures


def smoke_images(resolution: int) -> TensorDataset:
    """Random grey images of two classes."""
    generator = torch.Generator().manual_seed(0)
    shape = (_SMOKE_IMAGES, 1, resolution, resolution)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return TensorDataset(images, torch.arange(_SMOKE_IMAGES) % 2)
