# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a pruned diffusion UNet by predicting noise, optionally also what the full network predicts.

    accelerate launch examples/finetune_ddpm.py --pretrained_model_name_or_path google/ddpm-cifar10-32 --recipe
    examples/recipes/diff-prune-ddpm.yaml \\
        --dataset_name uoft-cs/cifar10 --output_dir out
    accelerate launch ... --resume_from_checkpoint latest

Writes checkpoints, sample grids, log.jsonl, curves.png, and at the end `unet` and a `pipeline` that
DDPMPipeline.from_pretrained opens. CPU smoke run: --smoke.
"""

import argparse

from diffusers import UNet2DModel

from hf_ganzip.scripts.finetuning import Finetuning, finetune_parser, parse_finetune_args
from hf_ganzip.scripts.flags import config_flags
from hf_ganzip.training.average import RAMPUP
from hf_ganzip.training.diffusion_loop import DiffusionTrainingConfig, save_pipeline, train_diffusion


PRESETS = {  # values of Diff-Pruning and Singular Value Scaling
    "cifar10": {"train_batch_size": 128, "dropout": 0.1, "ema_rampup": 0.0},
    "celeba": {"train_batch_size": 96, "dropout": 0.1, "ema_rampup": 0.0},
}
PRESETS["ddpm"] = PRESETS["cifar10"] | {"ema_rampup": RAMPUP}


def parse_args(input_args=None) -> argparse.Namespace:
    parser = finetune_parser(__doc__, DiffusionTrainingConfig, PRESETS.values())
    diffusion_flags(parser, PRESETS.values())
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        default="ddpm",
        help="values of a published run, which flags change; ddpm: those of cifar10, but that the average ramps up",
    )
    parser.add_argument(
        "--teacher",
        help="folder, bundled name or Hub id; default: the model before the recipe or before it was pruned",
    )
    weight = {"distillation_weight": "of the teacher's prediction; 0.7 in Diff-Pruning's variant"}
    config_flags(parser, DiffusionTrainingConfig, weight)
    args = parse_finetune_args(parser, input_args)
    if args.teacher and not args.distillation_weight:
        parser.error("--teacher teaches nothing without --distillation_weight")
    return args


def diffusion_flags(parser: argparse.ArgumentParser, presets=()) -> None:
    helps = {
        "ema_decay": "of the averaged network, per step",
        "ema_rampup": "the average's half-life is at most this share of the images seen; 0 = no ramp-up",
        "dropout": "share of activations; none: the model's",
        "timesteps": "of the noise schedule",
    }
    config_flags(parser, DiffusionTrainingConfig, helps, presets)


def smoke_unet() -> UNet2DModel:
    return UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    )


def main(args: argparse.Namespace) -> None:
    run = Finetuning(args, "finetune_ddpm", smoke_unet, gradient_accumulation_steps=args.gradient_accumulation_steps)
    unet = run.student()
    finetune(args, run, unet, PRESETS[args.preset], "finetune")


def finetune(args: argparse.Namespace, run: Finetuning, unet: UNet2DModel, preset: dict, step: str) -> None:
    dataset = run.images(unet.config.sample_size, unet.config.in_channels)
    config = run.config(DiffusionTrainingConfig, preset)
    if config.distillation_weight:
        dense = teacher = run.teacher(unet)
    else:
        dense, teacher = run.full_model() if args.pretrained_model_name_or_path else None, None
    run.accelerator.print(f"{len(dataset)} images; network {unet.num_parameters():,} parameters")
    validator = run.validator(unet.config.sample_size, dense)
    average = train_diffusion(unet, dataset, config, run.accelerator, teacher, validator)
    if run.accelerator.is_main_process:
        save_pipeline(average, config, run.output / "pipeline")
    run.finish(average, "unet", config, step)


if __name__ == "__main__":
    main(parse_args())
