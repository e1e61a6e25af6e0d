# SPDX-License-Identifier: Apache-2.0
"""Train a class-conditional BigGAN: hinge loss, spectral norm, averaged generator; optionally with TAC-GAN heads.

    accelerate launch examples/train_biggan.py --preset cifar10 --dataset_name uoft-cs/cifar10 --output_dir out
    accelerate launch examples/train_biggan.py --train_data_dir FOLDER --output_dir out --resume_from_checkpoint latest

Writes checkpoints, sample grids (10 latents per class, the same each time), log.jsonl, and at the end the averaged
generator and the discriminator as diffusers folders. CPU smoke run: --smoke (about half a minute).
"""

import argparse

from hf_ganzip.models import BigGANDiscriminator, BigGANGenerator
from hf_ganzip.scripts.flags import config_flags
from hf_ganzip.scripts.gan import gan_parser, parse_gan_args, start, train
from hf_ganzip.training.gan_loop import GANTrainingConfig


def parse_args(input_args=None) -> argparse.Namespace:
    parser = gan_parser(__doc__)
    add = parser.add_argument
    add("--preset", choices=sorted(BigGANGenerator.PRESETS), help="widths and options of a published network")
    add("--z_dim", type=int, default=128, help="length of latents")
    add("--shared_dim", type=int, default=0, help="shared class embedding; 0 = one per batch norm")
    add("--hierarchical", action="store_true", help="every block sees a part of z of its own")
    add("--generator_channels", type=int, nargs="+", default=[128, 128, 64, 32], help="at 4 x 4, then of every block")
    add("--discriminator_channels", type=int, nargs="+", default=[32, 64, 128, 128], help="of every block")
    add("--tac", action="store_true", help="twin auxiliary classifiers (TAC-GAN) in place of the projection")
    config_flags(parser, GANTrainingConfig, {"twin_weight": "of the classification terms of --tac"})
    add(
        "--standing_statistics",
        type=int,
        default=0,
        help="batches of samples whose statistics the final generator gets",
    )
    parser.set_defaults(
        loss="hinge",
        learning_rate=2e-4,
        discr_learning_rate=2e-4,
        adam_beta2=0.999,
        discriminator_steps=4,
        train_batch_size=64,
        class_group_size=1,
        r1_every=0,
    )
    args = parse_gan_args(parser, input_args)
    if args.smoke:
        args.preset, args.discriminator_steps = None, 2
        args.generator_channels, args.discriminator_channels = [8, 8, 8, 4], [4, 8, 8, 8]
    return args


def main(args: argparse.Namespace) -> None:
    accelerator, dataset, num_classes = start(args, "train_biggan")
    if not num_classes:
        raise ValueError("train_biggan needs labels: the data has none, or only the class 0.")
    shared = {"image_channels": dataset.tensors[0].shape[1], "num_classes": num_classes}
    head = {"head": "tac"} if args.tac else {}
    if args.preset:
        generator = BigGANGenerator.from_preset(args.preset, **shared)
        discriminator = BigGANDiscriminator.from_preset(args.preset, **shared, **head)
    else:
        shared |= {"resolution": args.resolution, "init": "N02", "sn_eps": 1e-8}
        generator = BigGANGenerator(
            z_dim=args.z_dim,
            channels=tuple(args.generator_channels),
            shared_dim=args.shared_dim,
            hierarchical=args.hierarchical,
            **shared,
        )
        discriminator = BigGANDiscriminator(channels=tuple(args.discriminator_channels), **shared, **head)
    train(args, generator, discriminator, dataset, accelerator, ema_buffers=True)


if __name__ == "__main__":
    main(parse_args())
