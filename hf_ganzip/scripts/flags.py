# SPDX-License-Identifier: Apache-2.0
"""Flags that the scripts in ``examples/`` share, and help texts that show every default."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping
from typing import Any

from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from ..evaluation.validation import VALIDATION_METRICS
from ..training.run_config import LR_SCHEDULERS, WEIGHTS, RunConfig


_IN_EXTRA = ("tensorboard", "trackio")  # hf_ganzip[track]
_RUN_HELP = {
    "train_batch_size": "images per process and micro-batch",
    "lr_scheduler": "learning rate over the steps, as in diffusers; linear_second_half: constant, then to zero",
    "lr_warmup_steps": "steps over which the learning rate rises from 0, for schedulers that do",
    "max_grad_norm": "gradients of a network are scaled down to this norm; 0 = as they are",
    "logging_steps": "steps between lines of the log",
    "checkpointing_steps": "steps between checkpoints",
    "checkpoints_total_limit": "checkpoints that stay, the newest; none: all",
    "validation_steps": "steps between sample grids, and figures where there are some",
    "resume_from_checkpoint": 'a checkpoint folder or "latest"',
}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows the default of every flag; where a flag that is not given leaves an option to a config, the config's."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.required or not action.help or "default: " in action.help or action.default is argparse.SUPPRESS:
            return action.help
        shown = getattr(action, "shown", None) if action.default is None else action.default
        listed = " ".join(map(str, shown)) if isinstance(shown, (list, tuple)) else str(shown)
        return f"{action.help} (default: {'none' if shown in (None, '') else listed.replace('%', '%%')})"


def make_parser(description: str) -> argparse.ArgumentParser:
    """Parser whose help shows the description as it is, and defaults."""
    return argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)


def config_flags(
    parser: Any, config: type, helps: Mapping[str, str], presets: Iterable[Mapping[str, Any]] = (), **choices: Any
) -> None:
    """A flag for each of these options of a config class; not given, it leaves the option to the preset or the class.

    Args:
        parser: Or a group of one.
        config: Dataclass.
        helps: Option -> help.
        presets: Options that one of them has are shown as the preset's.
        **choices: Option -> allowed values.
    """
    in_presets = {name for preset in presets for name in preset}
    for name, text in helps.items():
        field = config.__dataclass_fields__[name]
        types = {"int": {"type": int}, "float": {"type": float}, "bool": {"action": "store_true", "default": None}}
        kind = types.get(field.type.removesuffix(" | None"), {"choices": choices.get(name)})
        action = parser.add_argument(f"--{name}", help=text, **kind)
        action.shown = "the preset's" if name in in_presets else field.default


def run_flags(
    parser: argparse.ArgumentParser, config: type[RunConfig], presets: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Flags of every training script: those of :class:`.RunConfig` with its defaults, and of trackers."""
    add, presets = parser.add_argument, list(presets)
    add("--output_dir", required=True, help="checkpoints, grids, log and final models")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    add("--mixed_precision", choices=["no", "bf16"], default=precision, help="of networks; penalties stay float32")
    add("--seed", type=int, default=0, help="of networks, noise and the order of images")
    length = parser.add_mutually_exclusive_group()
    config_flags(length, config, {"max_train_steps": "optimizer steps of each network"}, presets)
    config_flags(length, config, {"num_train_epochs": "passes over the images, in place of --max_train_steps"})
    config_flags(parser, config, _RUN_HELP, presets, lr_scheduler=LR_SCHEDULERS)
    config_flags(parser, config, {"gradient_checkpointing": "less memory, more time; for models that can (UNets)"})
    add(
        "--report_to",
        type=tracker,
        help="tensorboard, trackio, wandb, another that Accelerate knows, or all installed",
    )
    add("--smoke", action="store_true", help="tiny model, random images, 4 steps; no data needed")


def tracker(name: str) -> str:
    """The name, if a package for it is installed.

    Raises:
        argparse.ArgumentTypeError: It is not, or Accelerate knows no such tracker.
    """
    known, installed = [kind.value for kind in LoggerType], [kind.value for kind in get_available_trackers()]
    if name not in known:
        raise argparse.ArgumentTypeError(f"{name!r} is no tracker; allowed are {', '.join(sorted(known))}")
    if name == "all" and not installed:
        raise argparse.ArgumentTypeError('no tracker is installed; pip install "hf_ganzip[track]", or wandb')
    if name != "all" and name not in installed:
        package = '"hf_ganzip[track]"' if name in _IN_EXTRA else name.replace("_", "-")
        raise argparse.ArgumentTypeError(f"{name} is not installed; pip install {package}")
    return name


def data_flags(parser: argparse.ArgumentParser) -> None:
    """Where labelled images come from."""
    add = parser.add_argument
    add(
        "--dataset_name",
        help="`datasets` id or parquet file with an image column, and a label column where labels matter",
    )
    add("--train_data_dir", help="folder of images, or of MNIST-type idx files")
    image_column_flag(parser)
    add("--label_column", default="label", help="column of the labels")


def image_column_flag(parser: argparse.ArgumentParser) -> None:
    """The column of a data set that holds the images."""
    parser.add_argument("--image_column", help="default: image, or else the only column that holds images")


def loader_flags(parser: argparse.ArgumentParser, config: type[RunConfig]) -> None:
    """How batches are read."""
    config_flags(parser, config, {"dataloader_num_workers": "processes that read batches; 0 = the training's own"})


def validation_flags(parser: argparse.ArgumentParser) -> None:
    """What the samples of a training are measured against, and how."""
    add = parser.add_argument
    add("--validation_data", help="real images that samples are measured against; none: sample grids only")
    add("--num_validation_images", type=int, default=2500, help="samples that are measured")
    add(
        "--validation_weights",
        nargs="+",
        choices=WEIGHTS,
        default=list(WEIGHTS),
        help="what is measured and shown in grids: the average of the weights, which is saved, or those just trained; "
        "one of them takes half the time",
    )
    add("--validation_metrics", nargs="+", default=list(VALIDATION_METRICS), help="names of metrics")
    add(
        "--validation_k",
        type=int,
        help="nearest neighbours, of metrics that have them; default: that of each, 3 of precision and recall",
    )
    add("--extractor", default="fashion_mnist", help="feature network: fashion_mnist, inception_v3, vgg16:WEIGHTS ...")


def hub_flags(parser: argparse.ArgumentParser) -> None:
    """Whether and where the final model is uploaded."""
    add = parser.add_argument
    add("--push_to_hub", action="store_true", help="upload the final model")
    add("--hub_model_id", help="repository for --push_to_hub; default: the name of --output_dir")
    add("--hub_token", help="for --push_to_hub, not logged; default: that of the login")
