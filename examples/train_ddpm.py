# SPDX-License-Identifier: Apache-2.0
"""Train a small diffusion model (DDPM) from scratch.

    accelerate launch examples/train_ddpm.py --dataset_name zalando-datasets/fashion_mnist --output_dir out
    accelerate launch ... --resume_from_checkpoint latest

Writes checkpoints, sample grids, log.jsonl, and at the end `unet` and a `pipeline` that
DDPMPipeline.from_pretrained opens. CPU smoke run: --smoke.
"""

import argparse
import sys
from pathlib import Path

from diffusers import UNet2DModel

from hf_ganzip.scripts.finetuning import Finetuning, finetune_parser, parse_finetune_args
from hf_ganzip.training.diffusion_loop import DiffusionTrainingConfig


sys.path.insert(0, str(Path(__file__).parent))

from finetune_ddpm import diffusion_flags, finetune, smoke_unet


def parse_args(input_args=None) -> argparse.Namespace:
    parser = finetune_parser(__doc__, DiffusionTrainingConfig)
    diffusion_flags(parser)
    add = parser.add_argument
    add("--resolution", type=int, default=32, help="side in pixels; smaller images are centred on black")
    add("--image_channels", type=int, default=1, help="1 = grey, 3 = colour")
    add("--block_out_channels", type=int, nargs="+", default=[32, 64, 64], help="one width per resolution")
    add("--layers_per_block", type=int, default=1, help="residual layers of a resolution")
    add("--attention_levels", type=int, default=1, help="how many of the lowest resolutions have attention")
    add("--norm_num_groups", type=int, default=16, help="of group normalization")
    add("--num_classes", type=int, default=None, help="condition on this many classes; default: on none")
    parser.set_defaults(
        max_train_steps=7000,
        train_batch_size=64,
        learning_rate=1e-3,
        lr_scheduler="cosine",
        ema_decay=0.999,
        ema_rampup=0.077,  # about (1 + n) / (10 + n) after n steps, as in diffusers' scripts
        random_flip=False,
        teacher=None,
    )
    return parse_finetune_args(parser, input_args, from_scratch=True)


def build(args: argparse.Namespace) -> UNet2DModel:
    """Attention at the lowest resolutions."""
    attention = min(args.attention_levels, len(args.block_out_channels))
    plain = len(args.block_out_channels) - attention
    return UNet2DModel(
        sample_size=args.resolution,
        in_channels=args.image_channels,
        out_channels=args.image_channels,
        block_out_channels=tuple(args.block_out_channels),
        layers_per_block=args.layers_per_block,
        down_block_types=(*("DownBlock2D",) * plain, *("AttnDownBlock2D",) * attention),
        up_block_types=(*("AttnUpBlock2D",) * attention, *("UpBlock2D",) * plain),
        norm_num_groups=args.norm_num_groups,
        attention_head_dim=None,
        num_class_embeds=args.num_classes,
    )


def main(args: argparse.Namespace) -> None:
    run = Finetuning(args, "train_ddpm", smoke_unet, gradient_accumulation_steps=args.gradient_accumulation_steps)
    finetune(args, run, smoke_unet() if args.smoke else build(args), {}, "train")


if __name__ == "__main__":
    main(parse_args())
