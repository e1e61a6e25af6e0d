# SPDX-License-Identifier: Apache-2.0
"""What all training scripts in ``examples/`` share: the Accelerator, data, validation, reports."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs, ProjectConfiguration, set_seed
from diffusers import ModelMixin
from torch.utils.data import TensorDataset

from ..assets import resolve
from ..evaluation.plotting import save_training_curves
from ..evaluation.validation import Validator
from ..images import load_images
from ..training.logs import read_log
from ..training.run import check_unused
from ..training.run_config import RunConfig


_SMOKE_IMAGES = 64
_RUN_ONLY = (
    "output_dir",
    "resume_from_checkpoint",
    "logging_steps",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "validation_steps",
    "validation_weights",
    "dataloader_num_workers",
    "gradient_checkpointing",
)
_UNTRACKED = ("hub_token",)


def make_validator(
    args: argparse.Namespace, accelerator: Accelerator, resolution: int, dense: ModelMixin | None = None
) -> Validator | None:
    """Figures during training by the flags of :func:`.validation_flags`, at the ``resolution`` of the training images;
    None without data, or on any but process 0.
    """
    if not args.validation_data or not accelerator.is_main_process:
        return None
    return Validator(
        args.validation_data,
        resolution=resolution,
        metrics=args.validation_metrics,
        num_samples=args.num_validation_images,
        seed=args.seed,
        extractor=args.extractor,
        options={} if args.validation_k is None else {"k": args.validation_k},
        dense=dense,
    )


def check_data_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a message unless ``--smoke`` or exactly one source of images is given."""
    if not args.smoke and bool(args.dataset_name) == bool(args.train_data_dir):
        parser.error("give one of --dataset_name and --train_data_dir")


def apply_smoke(args: argparse.Namespace) -> None:
    """The numbers of ``--smoke`` that all training scripts share."""
    args.max_train_steps, args.checkpointing_steps, args.validation_steps = 4, 2, 2
    args.num_train_epochs = None


def given(args: argparse.Namespace, config: type) -> dict[str, Any]:
    """Flags that were given, or have defaults, and are options of a config class."""
    names = config.__dataclass_fields__
    return {name: value for name, value in vars(args).items() if name in names and value is not None}


def recorded(config: RunConfig) -> dict[str, Any]:
    """Options of a training as JSON types, without its lengths (but one) and those that change nothing learned."""
    left_out = {*_RUN_ONLY, "num_train_epochs" if config.num_train_epochs is None else "max_train_steps"}
    options = json.loads(json.dumps(dataclasses.asdict(config)))
    return {name: value for name, value in options.items() if name not in left_out}


def load_data(args: argparse.Namespace, resolution: int) -> TensorDataset:
    """Images and labels by the flags of :func:`.data_flags`; random ones with ``--smoke``.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    if args.smoke:
        return smoke_images(resolution)
    if args.train_data_dir and not Path(resolve(args.train_data_dir)).exists():
        raise FileNotFoundError(
            f"--train_data_dir is {args.train_data_dir}; there is no such folder. A `datasets` id goes to "
            "--dataset_name."
        )
    return load_images(
        args.dataset_name or args.train_data_dir,
        resolution=resolution,
        image_column=args.image_column,
        label_column=args.label_column,
    )


def make_accelerator(args: argparse.Namespace, name: str, **options) -> Accelerator:
    """Accelerator with trackers under this project name; seeds everything and makes the output folder.

    Raises:
        FileExistsError: The output folder holds a run that is not continued.
    """
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    if not args.resume_from_checkpoint:
        check_unused(Path(args.output_dir))
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
        told = {k: v for k, v in vars(args).items() if isinstance(v, (int, float, str)) and k not in _UNTRACKED}
        accelerator.init_trackers(name, told)
    return accelerator


def write_report(output: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    """``report.json`` with options and logs, ``curves.png`` of validations, if there are any; returns their figures."""
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
