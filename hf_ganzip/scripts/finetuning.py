# SPDX-License-Identifier: Apache-2.0
"""What the fine-tuning scripts in ``examples/`` share: flags, the compressed start, validation, and the final folder
with its figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from diffusers import ModelMixin
from huggingface_hub import HfApi
from torch.utils.data import TensorDataset

from ..assets import ASSETS
from ..core.record import Step, record_step, recorded_steps
from ..evaluation.validation import Validator
from ..integration.opening import load_model
from ..publishing import push_to_hub
from ..recipes import compress, read_recipe
from ..training.logs import figures_of
from ..training.run_config import RunConfig
from .flags import config_flags, data_flags, hub_flags, loader_flags, make_parser, run_flags, validation_flags
from .shared import (
    apply_smoke,
    check_data_flags,
    given,
    load_data,
    make_accelerator,
    make_validator,
    recorded,
    write_report,
)


_START = "start"  # folder of the compressed model before training


def finetune_parser(
    description: str, config: type[RunConfig], presets: Iterable[Mapping[str, Any]] = ()
) -> argparse.ArgumentParser:
    """Parser with the flags that all fine-tuning scripts have; defaults are those of the presets or the config."""
    parser, presets = make_parser(description), list(presets)
    data_flags(parser)
    run_flags(parser, config, presets)
    loader_flags(parser, config)
    config_flags(parser, config, {"learning_rate": "of the network that is kept"}, presets)
    add = parser.add_argument
    add(
        "--pretrained_model_name_or_path",
        help="folder, bundled name or Hub id of the model: full, or already compressed",
    )
    add("--revision", help="of the Hub id; default: its main branch")
    add("--recipe", help="YAML file with prune and refine steps that come before training")
    add("--gradient_accumulation_steps", type=int, default=1, help="micro-batches per optimizer step")
    flip = add(
        "--no_flip", dest="random_flip", action="store_false", default=None, help="do not mirror training images"
    )
    flip.shown = "the preset's" if any("random_flip" in preset for preset in presets) else False
    validation_flags(parser)
    hub_flags(parser)
    return parser


def parse_finetune_args(
    parser: argparse.ArgumentParser, input_args: Any = None, from_scratch: bool = False
) -> argparse.Namespace:
    """Parse, check what belongs together and apply ``--smoke``; ``from_scratch`` takes neither model nor recipe."""
    args = parser.parse_args(input_args)
    if from_scratch and (args.pretrained_model_name_or_path or args.recipe):
        parser.error("this script starts from nothing; a finetune script takes a model and a recipe")
    if not (from_scratch or args.smoke or args.pretrained_model_name_or_path):
        parser.error("give --pretrained_model_name_or_path (or --smoke)")
    check_data_flags(parser, args)
    if args.smoke:
        apply_smoke(args)
        args.train_batch_size, args.num_validation_images = 8, 150
    return args


def hub_datasets(name: str | None) -> list[str]:
    """The name, if it is the Hub id of a data set rather than a local file or folder."""
    local = not name or Path(name).suffix == ".parquet" or Path(name).exists()
    return [] if local else [name]


class Finetuning:
    """Set-up and end of a fine-tuning script.

    Args:
        args: Of :func:`parse_finetune_args`.
        name: Of the project, for trackers.
        smoke_model: Makes the tiny model of ``--smoke``.
        **options: Of the Accelerator.

    Raises:
        FileNotFoundError: No such model, recipe or data.
        ValueError: Images or the recipe do not fit.
    """

    def __init__(self, args: argparse.Namespace, name: str, smoke_model: Callable[[], ModelMixin], **options: Any):
        self.args, self.output = args, Path(args.output_dir)
        self.accelerator = make_accelerator(args, name, **options)
        self.smoke_model = smoke_model

    def config(self, kind: type[RunConfig], preset: dict[str, Any]) -> RunConfig:
        """The preset, whose batch is shared out over processes and micro-batches, changed by the flags that were given.

        Raises:
            ValueError: The batch cannot be shared out evenly, or options do not fit.
        """
        options, flags = dict(preset), given(self.args, kind)
        if "train_batch_size" in preset and "train_batch_size" not in flags:
            processes, micro = self.accelerator.num_processes, self.args.gradient_accumulation_steps
            if preset["train_batch_size"] % (processes * micro):
                raise ValueError(
                    f"the preset's batch of {preset['train_batch_size']} cannot be shared out over {processes} "
                    f"processes and --gradient_accumulation_steps {micro}; give --train_batch_size."
                )
            options["train_batch_size"] //= processes * micro
        return kind(**options | flags)

    def full_model(self, source: str | None = None) -> ModelMixin:
        """The model that was named, or another source, as it is; ``--revision`` belongs to the former."""
        if self.args.smoke:
            set_seed(self.args.seed)
            return self.smoke_model()
        named = self.args.pretrained_model_name_or_path
        if source in (None, named):
            return load_model(named, revision=self.args.revision)
        return load_model(source)

    def student(self) -> ModelMixin:
        """The model to train: the full one after the recipe. It is kept in ``output_dir/start``, so that a resumed run
        need not score again.
        """
        folder = self.output / _START
        if self.accelerator.is_main_process and not (self.args.resume_from_checkpoint and folder.is_dir()):
            model = self.full_model()
            if self.args.recipe:
                model, reports = compress(model, read_recipe(self.args.recipe))
                for report in reports:
                    print(report)
            model.save_pretrained(folder)
        self.accelerator.wait_for_everyone()
        model = load_model(folder)
        if getattr(model, "is_quantized", False):
            raise ValueError("the model is quantized and cannot be trained; fine-tune first, or dequantize_ it.")
        return model

    def teacher(self, student: ModelMixin) -> ModelMixin:
        """What the student learns from: ``--teacher``, the model before the recipe, or that from which the student's
        record says it was pruned.

        Raises:
            ValueError: There is none of these.
            ConnectionError: The Hub has no model of the recorded name, or cannot be reached.
        """
        if self.args.smoke or self.args.teacher or self.args.recipe:
            return self.full_model(self.args.teacher)
        named = self.args.pretrained_model_name_or_path
        bases = [step["base_model"] for step in recorded_steps(student) if step["name"] == "prune"]
        if not bases:
            raise ValueError(
                f"a model does not learn from itself, and {named} is not pruned: give --recipe or --teacher."
            )
        base, _, revision = bases[0].partition("@")
        folders = [Path(named).parent / base, Path(base)] if base else []
        found = [
            each for each in folders if (each / "config.json").is_file() and each.resolve() != Path(named).resolve()
        ]
        if not (found or base in ASSETS or "/" in base):
            raise ValueError(
                f"--teacher: the record of {named} says that it was pruned from {base or 'a model without a name'!r}, "
                "which is no other folder here or beside it, no bundled name and no Hub id; give --teacher."
            )
        return load_model(found[0]) if found else load_model(base, revision=revision or None)

    def images(self, resolution: int, channels: int) -> TensorDataset:
        """Training images of the model's size."""
        dataset = load_data(self.args, resolution)
        if self.args.smoke:
            return TensorDataset(dataset.tensors[0].expand(-1, channels, -1, -1), dataset.tensors[1])
        found = dataset.tensors[0].shape[1]
        if found != channels:
            raise ValueError(f"the images have {found} channels; the model makes {channels}.")
        return dataset

    def validator(self, resolution: int, dense: ModelMixin | None = None) -> Validator | None:
        """Figures during training, with ``--validation_data``; with the ``dense`` model also likeness to its images."""
        return make_validator(self.args, self.accelerator, resolution, dense)

    def publish(self, model: ModelMixin) -> None:
        """Upload the final model; without a namespace in ``--hub_model_id`` to that of whoever is logged in."""
        name, token = self.args.hub_model_id or self.output.resolve().name, self.args.hub_token
        if "/" not in name:
            name = f"{HfApi(token=token).whoami()['name']}/{name}"
        found = push_to_hub(model, name, datasets=hub_datasets(self.args.dataset_name), token=token)
        print(found)

    def finish(
        self, model: ModelMixin, folder: str, config: RunConfig, step: str = "finetune", **options: Any
    ) -> None:
        """Record the step with all options of its config, save the model, plot the log, and upload where asked."""
        if self.accelerator.is_main_process:
            options = recorded(config) | options
            figures = write_report(self.output, options)
            last = {"figures": figures_of(figures[-1])} if figures else {}
            record_step(model, Step(step, options | last))
            model.save_pretrained(self.output / folder)
            if self.args.push_to_hub:
                self.publish(model)
        self.accelerator.end_training()
