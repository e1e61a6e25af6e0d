# SPDX-License-Identifier: Apache-2.0
"""Train a StyleGAN3 (T) on small images.

    accelerate launch examples/train_stylegan3.py --dataset_name zalando-datasets/fashion_mnist --output_dir out

As train_stylegan2.py, with layers instead of resolutions; running magnitudes move in the discriminator's phase. On
small images most of the work is for the margin around them: at 32 x 32 a pass of the generator and back takes half the
time with --margin_size 4, and half of that with --mixed_precision bf16. CPU smoke run: --smoke.
"""

import argparse

from hf_ganzip.models import StyleGAN2Discriminator, StyleGAN3Generator
from hf_ganzip.scripts.gan import gan_parser, parse_gan_args, start, style_flags, train


def parse_args(input_args=None) -> argparse.Namespace:
    parser = gan_parser(__doc__)
    style_flags(parser)
    add = parser.add_argument
    add("--num_layers", type=int, default=6, help="of the generator, before the image")
    add("--margin_size", type=int, default=10, help="pixels beyond the image on every side")
    add("--channel_base", type=int, default=1024, help="of both networks: width times frequency, or times side")
    add("--channel_max", type=int, default=64, help="of both networks: largest width")
    args = parse_gan_args(parser, input_args)
    if args.smoke:
        args.z_dim, args.w_dim, args.channel_base, args.channel_max, args.margin_size = 8, 8, 256, 12, 2
        args.mbstd_group_size = 4
    return args


def main(args: argparse.Namespace) -> None:
    accelerator, dataset, num_classes = start(args, "train_stylegan3")
    shared = {"resolution": args.resolution, "image_channels": dataset.tensors[0].shape[1], "num_classes": num_classes}
    shared |= {"mapping_layers": args.mapping_layers}
    shared |= {"channel_base": args.channel_base, "channel_max": args.channel_max}
    generator = StyleGAN3Generator(
        z_dim=args.z_dim, w_dim=args.w_dim, num_layers=args.num_layers, margin_size=args.margin_size, **shared
    )
    discriminator = StyleGAN2Discriminator(mbstd_group_size=args.mbstd_group_size, **shared)
    train(args, generator, discriminator, dataset, accelerator)


if __name__ == "__main__":
    main(parse_args())
