# SPDX-License-Identifier: Apache-2.0
"""Train a StyleGAN2 on small images.

    accelerate launch examples/train_stylegan2.py --dataset_name zalando-datasets/fashion_mnist --output_dir out
    accelerate launch examples/train_stylegan2.py --train_data_dir FOLDER --output_dir out --resume_from_checkpoint latest

Writes checkpoints, sample grids (10 latents per class, the same each time), log.jsonl, and at the end the averaged
generator and the discriminator as diffusers folders. CPU smoke run: --smoke (about half a minute).
"""

import argparse
import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs, ProjectConfiguration, set_seed
from torch.utils.data import TensorDataset

from hf_ganzip.models import StyleGAN2Discriminator, StyleGAN2Generator
from hf_ganzip.training.data import load_images
from hf_ganzip.training.gan_loop import GANTrainingConfig, train_gan


def parse_args(input_args=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_name", help="`datasets` id or parquet file with image and label columns")
    add("--train_data_dir", help="folder of images, or of MNIST-type idx files")
    add("--image_column", default="image")
    add("--label_column", default="label")
    add("--output_dir", required=True, help="checkpoints, grids, log and final models")
    add("--resolution", type=int, default=32, help="side in pixels; smaller images are centred on black")
    add("--z_dim", type=int, default=128)
    add("--w_dim", type=int, default=128)
    add("--mapping_layers", type=int, default=2)
    add("--generator_channels", type=int, nargs="+", default=[128, 128, 64, 32], help="one per resolution from 4")
    add("--discriminator_channels", type=int, nargs="+", default=[128, 128, 64, 32])
    add("--mbstd_group_size", type=int, default=8)
    add(
        "--class_group_size", type=int, default=8, help="groups of one class in a batch; 1 = mixed (no labels: always)"
    )
    add("--max_train_steps", type=int, default=22_000)
    add("--train_batch_size", type=int, default=32, help="per process")
    add("--gradient_accumulation_steps", type=int, default=1)
    add("--learning_rate", type=float, default=0.0025)
    add("--discr_learning_rate", type=float, default=0.0025)
    add("--r1_gamma", type=float, default=0.3)
    add("--r1_every", type=int, default=16, help="steps between R1 penalties")
    add("--ema_images", type=float, default=20_000, help="half-life of the averaged generator in images")
    add("--mixed_precision", choices=["no", "bf16"], default=os.environ.get("ACCELERATE_MIXED_PRECISION", "no"))
    add("--seed", type=int, default=0)
    add("--checkpointing_steps", type=int, default=1000)
    add("--checkpoints_total_limit", type=int, default=2)
    add("--validation_steps", type=int, default=1000, help="steps between sample grids")
    add("--resume_from_checkpoint", help='a checkpoint folder or "latest"')
    add("--report_to", help="tensorboard, trackio or wandb")
    add("--smoke", action="store_true", help="tiny model, random images, 4 steps; no data needed")
    args = parser.parse_args(input_args)
    if not args.smoke and bool(args.dataset_name) == bool(args.train_data_dir):
        parser.error("give one of --dataset_name and --train_data_dir")
    if args.smoke:
        args.generator_channels = args.discriminator_channels = [8, 8, 8, 4]
        args.max_train_steps, args.checkpointing_steps, args.validation_steps = 4, 2, 2
        args.train_batch_size, args.mbstd_group_size, args.class_group_size = 8, 4, 4
    return args


def smoke_images(resolution: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 1, resolution, resolution), generator=generator, dtype=torch.uint8)
    return TensorDataset(images, torch.arange(64) % 2)


def main(args: argparse.Namespace) -> None:
    accelerator = Accelerator(
        mixed_precision="no",  # the loop applies --mixed_precision itself: R1 stays in float32
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=args.report_to,
        project_config=ProjectConfiguration(project_dir=args.output_dir, logging_dir=f"{args.output_dir}/logs"),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    set_seed(args.seed)
    if args.report_to:
        accelerator.init_trackers(
            "train_stylegan2", {k: v for k, v in vars(args).items() if isinstance(v, (int, float, str))}
        )
    if args.smoke:
        dataset = smoke_images(args.resolution)
    else:
        dataset = load_images(
            args.dataset_name or args.train_data_dir,
            resolution=args.resolution,
            image_column=args.image_column,
            label_column=args.label_column,
        )
    images, labels = dataset.tensors
    num_classes = int(labels.max()) + 1 if labels.any() else 0
    generator = StyleGAN2Generator(
        resolution=args.resolution,
        image_channels=images.shape[1],
        z_dim=args.z_dim,
        w_dim=args.w_dim,
        num_classes=num_classes,
        mapping_layers=args.mapping_layers,
        channels=tuple(args.generator_channels),
    )
    discriminator = StyleGAN2Discriminator(
        resolution=args.resolution,
        image_channels=images.shape[1],
        num_classes=num_classes,
        channels=tuple(args.discriminator_channels),
        mapping_layers=args.mapping_layers,
        mbstd_group_size=args.mbstd_group_size,
    )
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    config = GANTrainingConfig(**{k: v for k, v in vars(args).items() if k in GANTrainingConfig.__dataclass_fields__})
    accelerator.print(
        f"{len(images)} images {tuple(images.shape[1:])}, {num_classes} classes; "
        f"generator {generator.num_parameters():,} parameters, discriminator {discriminator.num_parameters():,}"
    )
    average = train_gan(generator, discriminator, dataset, config, accelerator)
    if accelerator.is_main_process:
        average.save_pretrained(Path(args.output_dir, "generator"))
        accelerator.unwrap_model(discriminator).save_pretrained(Path(args.output_dir, "discriminator"))
    accelerator.end_training()


if __name__ == "__main__":
    main(parse_args())
