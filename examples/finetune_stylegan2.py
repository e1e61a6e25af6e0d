# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a pruned StyleGAN2 by distillation from the full one.

    accelerate launch examples/finetune_stylegan2.py --pretrained_model_name_or_path org/stylegan2 --recipe
    examples/recipes/svs-stylegan2.yaml \\
        --dataset_name org/images --preset svs-stylegan2-small --output_dir out
    accelerate launch ... --resume_from_checkpoint latest

The teacher is the full model; where the model is already pruned, --teacher, or what its record names.
Writes checkpoints, sample grids, log.jsonl, curves.png, and at the end `generator` (averaged) and
`discriminator`. CPU smoke run: --smoke.
"""

import argparse

import hf_ganzip as gz
from hf_ganzip.models.feature_network import FeatureNetwork
from hf_ganzip.pruning.criteria.content_aware import FaceParser
from hf_ganzip.scripts.finetuning import Finetuning, finetune_parser, parse_finetune_args
from hf_ganzip.scripts.flags import config_flags
from hf_ganzip.training.distillation_config import DISTILLATION_PRESETS, DistillationConfig
from hf_ganzip.training.distillation_loop import train_distilled
from hf_ganzip.training.perceptual import FeatureDistance, LPIPSDistance


HELP = {
    "discr_learning_rate": "of the discriminator",
    "adversarial_weight": "of the discriminator's judgement",
    "rgb_weight": "of the distance of images",
    "perceptual_weight": "of the perceptual distance of images",
    "relation_weight": "of the latent-direction relation loss",
    "relation_batch": "samples compared with each other",
    "r1_gamma": "weight of the R1 penalty",
    "path_every": "steps between path length penalties; 0 = none",
    "mixing_probability": "of styles from two latents",
    "ema_images": "half-life of the average in images",
    "ema_rampup": "the half-life is at most this share of the images seen; 0 = no ramp-up",
    "ada_target": "adaptive augmentation with this mean sign of D(real)",
    "spectral_norm": "ablation: spectral norms on the student",
    "svs_every": "ablation: scale singular values again every so many steps; 0 = never",
}
MBSTD_GROUPS = {"svs-stylegan2-small": 8}  # of the published discriminators; 4 in the others


def parse_args(input_args=None) -> argparse.Namespace:
    return parse_finetune_args(distillation_parser(__doc__, "stylegan2"), input_args)


def distillation_parser(description: str, preset: str) -> argparse.ArgumentParser:
    presets = DISTILLATION_PRESETS.values()
    parser = finetune_parser(description, DistillationConfig, presets)
    config_flags(parser, DistillationConfig, HELP, presets)
    add = parser.add_argument
    add(
        "--preset",
        choices=sorted(DISTILLATION_PRESETS),
        default=preset,
        help="values of a published run, which flags change; stylegan2: svs-stylegan2-base, but that the average "
        "ramps up",
    )
    add(
        "--teacher",
        help="folder, bundled name or Hub id; default: the model before the recipe or before it was pruned",
    )
    add("--discriminator", help="folder or Hub id to start from; default: a fresh one, as published")
    add(
        "--perceptual",
        choices=["lpips", "features", "none"],
        default="lpips",
        help="features: the bundled network, for grey images of 32 pixels; an lpips that is not installed or cannot "
        "be downloaded falls back to features for these and to none for others",
    )
    add("--lpips_weights", help="file with the state dict of lpips.LPIPS(net='vgg'); default: downloaded")
    add("--mask", help="Hub id of a face parser: compare student and teacher on content only")
    return parser


def smoke_generator():
    return gz.StyleGAN2Generator(
        resolution=32, z_dim=8, w_dim=8, num_classes=2, mapping_layers=2, channels=(8, 8, 8, 4), image_channels=1
    )


def main(args: argparse.Namespace, smoke=smoke_generator) -> None:
    run = Finetuning(args, "finetune_stylegan", smoke)
    student = run.student()
    teacher = run.teacher(student)
    shared = {name: teacher.config[name] for name in ("resolution", "image_channels", "num_classes")}
    dataset = run.images(shared["resolution"], shared["image_channels"])
    if args.discriminator:
        discriminator = gz.load_model(args.discriminator)
    else:
        base = {"channels": (8, 8, 8, 4)} if args.smoke else discriminator_widths(teacher)
        group = MBSTD_GROUPS.get(args.preset, 4)
        discriminator = gz.StyleGAN2Discriminator(**shared, **base, mbstd_group_size=group)
    if args.smoke:
        args.perceptual, args.relation_batch = "none", 2
    perceptual = perceptual_distance(args, run, teacher)
    config = run.config(DistillationConfig, DISTILLATION_PRESETS[args.preset])
    run.accelerator.print(
        f"{len(dataset)} images; student {student.num_parameters():,}, teacher {teacher.num_parameters():,}, "
        f"discriminator {discriminator.num_parameters():,} parameters"
    )
    average = train_distilled(
        student,
        teacher,
        discriminator,
        dataset,
        config,
        run.accelerator,
        perceptual=perceptual,
        mask=FaceParser(args.mask) if args.mask else None,
        validate=run.validator(shared["resolution"]),
    )
    if run.accelerator.is_main_process:
        run.accelerator.unwrap_model(discriminator).save_pretrained(run.output / "discriminator")
    run.finish(average, "generator", config, preset=args.preset, perceptual=args.perceptual)


def perceptual_distance(args: argparse.Namespace, run: Finetuning, generator):
    """By the flags, which then say what it is; in place of an LPIPS that cannot be had, with a message, what fits the
    generator's images.
    """
    if args.perceptual_weight == 0:
        args.perceptual = "none"
    distance = None
    features = FeatureNetwork.from_pretrained(gz.assets.asset_path("fashion-mnist-features"))
    if args.perceptual == "lpips":
        try:
            distance = LPIPSDistance(args.lpips_weights)
        except (ImportError, OSError) as error:
            if args.lpips_weights:
                raise
            shapes = [
                (c.image_channels, c.get("image_size") or c.resolution) for c in (features.config, generator.config)
            ]
            args.perceptual = "features" if shapes[0] == shapes[1] else "none"
            run.accelerator.print(f"--perceptual lpips: {error} Going on with --perceptual {args.perceptual}.")
    if args.perceptual == "features":
        distance = FeatureDistance(features)
    if args.perceptual == "none":
        args.perceptual_weight = 0.0
        return None
    return distance.to(run.accelerator.device)


def discriminator_widths(generator) -> dict:
    """The published discriminator: as wide as the full generator where that has widths per resolution."""
    if "channel_base" in generator.config and generator.config.get("channels") is None:
        return {"channel_base": generator.config.channel_base}
    if hasattr(generator.synthesis, "block_resolutions"):
        return {"channels": tuple(c if isinstance(c, int) else max(c) for c in generator.config.channels)}
    return {"channel_base": 32768 if generator.config.resolution > 256 else 16384}


if __name__ == "__main__":
    main(parse_args())
