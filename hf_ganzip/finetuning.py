# SPDX-License-Identifier: Apache-2.0
"""What the fine-tuning scripts in ``examples/`` share: flags, the compressed start, validation, and the final folder with its figures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from diffusers import ModelMixin
from huggingface_hub import HfApi
from torch.utils.data import TensorDataset

from .evaluation.validation import Validator
from .publishing import push_to_hub
from .recipes import compress, load_model, read_recipe
from .record import Step, record_step
from .training.data import load_images
from .training.script import (
    data_flags,
    make_accelerator,
    make_validator,
    run_flags,
    smoke_images,
    validation_flags,
    write_report,
)


_START = "start"  # folder of the compressed model before training


def finetune_parser(description: str) -> argparse.ArgumentParser:
    """Parser with the flags that all fine-tuning scripts have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    data_flags(parser)
    run_flags(parser)
    add = parser.add_argument
    add("--pretrained_model_name_or_path", help="folder or Hub id of the model: full, or already compressed")
    add("--revision", help="of the Hub id")
    add("--recipe", help="YAML file with prune and refine steps that come before training")
    add("--max_train_steps", type=int, help="optimizer steps of each network")
    add("--train_batch_size", type=int, help="per process and micro-batch")
    add("--gradient_accumulation_steps", type=int, default=1)
    add("--learning_rate", type=float)
    add("--no_flip", dest="random_flip", action="store_false", default=None, help="do not mirror training images")
    validation_flags(parser)
    add("--push_to_hub", action="store_true", help="upload the final model")
    add("--hub_model_id", help="repository for --push_to_hub; default: the name of --output_dir")
    return parser


def parse_finetune_args(parser: argparse.ArgumentParser, input_args: Any = None) -> argparse.Namespace:
    """Parse, check what belongs together and apply ``--smoke``."""
    args = parser.parse_args(input_args)
    if args.smoke:
        args.max_train_steps, args.checkpointing_steps, args.validation_steps = 4, 2, 2
        args.train_batch_size, args.num_validation_images = 8, 8
        return args
    if not args.pretrained_model_name_or_path:
        parser.error("give --pretrained_model_name_or_path (or --smoke)")
    if bool(args.dataset_name) == bool(args.train_data_dir):
        parser.error("give one of --dataset_name and --train_data_dir")
    return args


def chosen(args: argparse.Namespace, config: type, preset: dict[str, Any]) -> dict[str, Any]:
    """Options of a config class: the preset, changed by the flags that were given."""
    names = config.__dataclass_fields__
    return {**preset, **{name: value for name, value in vars(args).items() if name in names and value is not None}}


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

    def full_model(self, source: str | None = None) -> ModelMixin:
        """The model that was named, as it is."""
        if self.args.smoke:
            set_seed(self.args.seed)
            return self.smoke_model()
        return load_model(source or self.args.pretrained_model_name_or_path, revision=self.args.revision)

    def student(self) -> ModelMixin:
        """The model to train: the full one after the recipe. It is kept in ``output_dir/start``, so that a resumed run need not score again."""
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

    def images(self, resolution: int, channels: int) -> TensorDataset:
        """Training images of the model's size."""
        if self.args.smoke:
            dataset = smoke_images(resolution)
            return TensorDataset(dataset.tensors[0].expand(-1, channels, -1, -1), dataset.tensors[1])
        dataset = load_images(
            self.args.dataset_name or self.args.train_data_dir,
            resolution=resolution,
            image_column=self.args.image_column,
            label_column=self.args.label_column,
        )
        found = dataset.tensors[0].shape[1]
        if found != channels:
            raise ValueError(f"the images have {found} channels; the model makes {channels}.")
        return dataset

    def validator(self, dense: ModelMixin | None = None) -> Validator | None:
        """Figures during training, if ``--validation_data`` is given; with the ``dense`` model also the likeness to its images."""
        return make_validator(self.args, self.accelerator, dense)

    def publish(self, model: ModelMixin) -> None:
        """Upload the final model; without a namespace in ``--hub_model_id`` to that of whoever is logged in."""
        name = self.args.hub_model_id or self.output.resolve().name
        if "/" not in name:
            name = f"{HfApi().whoami()['name']}/{name}"
        found = push_to_hub(model, name, datasets=[self.args.dataset_name] if self.args.dataset_name else ())
        print(found)

    def finish(self, model: ModelMixin, folder: str, options: dict[str, Any]) -> None:
        """Record the step, save the model, plot the log, and upload where asked."""
        if self.accelerator.is_main_process:
            options = {key: value for key, value in options.items() if key != "output_dir"}
            figures = write_report(self.output, options)
            last = {"figures": figures[-1]} if figures else {}
            record_step(model, Step("finetune", json.loads(json.dumps(options)) | last))
            model.save_pretrained(self.output / folder)
            if self.args.push_to_hub:
                self.publish(model)
        self.accelerator.end_training()
