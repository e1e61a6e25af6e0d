# SPDX-License-Identifier: Apache-2.0
"""Train a StyleGAN2 on small images.

    accelerate launch examples/train_stylegan2.py --dataset_name zalando-datasets/fashion_mnist --output_dir out
    accelerate launch examples/train_stylegan2.py --train_data_dir FOLDER --output_dir out --resume_from_checkpoint
    latest

Writes checkpoints, sample grids (10 latents per class, the same each time), log.jsonl, and at the end the averaged
generator and the discriminator as diffusers folders. CPU smoke run: --smoke (about half a minute).
"""

import argparse

from hf_ganzip.models import StyleGAN2Discriminator, StyleGAN2Generator
from hf_ganzip.scripts.gan import gan_parser, parse_gan_args, start, style_flags, train


def parse_args(input_args=None) -> argparse.Namespace:
    parser = gan_parser(__doc__)
    style_flags(parser)
    add = parser.add_argument
    add("--generator_channels", type=int, nargs="+", default=[128, 128, 64, 32], help="one per resolution from 4")
    add("--discriminator_channels", type=int, nargs="+", default=[128, 128, 64, 32], help="likewise")
    args = parse_gan_args(parser, input_args)
    if args.smoke:
        args.generator_channels = args.discriminator_channels = [8, 8, 8, 4]
        args.mbstd_group_size = 4
    return args


def main(args: argparse.Namespace) -> None:
    accelerator, dataset, num_classes = start(args, "train_stylegan2")
    shared = {"resolution": args.resolution, "image_channels": dataset.tensors[0].shape[1], "num_classes": num_classes}
    shared |= {"mapping_layers": args.mapping_layers}
    generator = StyleGAN2Generator(
        z_dim=args.z_dim, w_dim=args.w_dim, channels=tuple(args.generator_channels), **shared
    )
    discriminator = StyleGAN2Discriminator(
        channels=tuple(args.discriminator_channels), mbstd_group_size=args.mbstd_group_size, **shared
    )
    train(args, generator, discriminator, dataset, accelerator)


if __name__ == "__main__":
    main(parse_args())
