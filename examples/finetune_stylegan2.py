# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a pruned StyleGAN2 by distillation from the full one.

    accelerate launch examples/finetune_stylegan2.py --pretrained_model_name_or_path org/stylegan2 --recipe examples/recipes/svs-stylegan2.yaml \\
        --dataset_name org/images --preset svs-stylegan2-small --output_dir out
    accelerate launch ... --resume_from_checkpoint latest

The teacher is the full model, or --teacher where the model is already pruned. Writes checkpoints, sample grids, log.jsonl, curves.png, and at the end `generator`
(averaged) and `discriminator`. CPU smoke run: --smoke.
"""

import argparse

import hf_ganzip as gz
from hf_ganzip.models.feature_network import FeatureNetwork
from hf_ganzip.pruning.criteria.face_parser import FaceParser
from hf_ganzip.scripts.finetuning import Finetuning, finetune_parser, parse_finetune_args
from hf_ganzip.training.distillation_config import DISTILLATION_PRESETS, DistillationConfig
from hf_ganzip.training.distillation_loop import train_distilled
from hf_ganzip.training.perceptual import FeatureDistance, LPIPSDistance


MBSTD_GROUPS = {"svs-stylegan2-small": 8}  # of the published discriminators; 4 in the others


def parse_args(input_args=None) -> argparse.Namespace:
    return parse_distillation_args(distillation_parser(__doc__, "svs-stylegan2-base"), input_args)


def parse_distillation_args(parser: argparse.ArgumentParser, input_args=None) -> argparse.Namespace:
    args = parse_finetune_args(parser, input_args)
    if not (args.smoke or args.recipe or args.teacher):
        parser.error("a model does not learn from itself: give --recipe, or --teacher where it is already pruned")
    return args


def distillation_parser(description: str, preset: str) -> argparse.ArgumentParser:
    parser = finetune_parser(description)
    add = parser.add_argument
    add(
        "--preset",
        choices=sorted(DISTILLATION_PRESETS),
        default=preset,
        help="values of a published run; flags change them",
    )
    add("--teacher", help="folder or Hub id; default: the model before the recipe")
    add("--discriminator", help="folder or Hub id to start from; default: a fresh one, as published")
    add("--discr_learning_rate", type=float)
    add("--adversarial_weight", type=float)
    add("--rgb_weight", type=float)
    add("--perceptual_weight", type=float)
    add(
        "--perceptual",
        choices=["lpips", "features", "none"],
        default="lpips",
        help="features: the bundled network, for grey images",
    )
    add("--lpips_weights", help="file with the state dict of lpips.LPIPS(net='vgg')")
    add("--relation_weight", type=float, help="of the latent-direction relation loss")
    add("--relation_batch", type=int, help="samples compared with each other")
    add("--mask", help="Hub id of a face parser: compare student and teacher on content only")
    add("--r1_gamma", type=float)
    add("--path_every", type=int, help="steps between path length penalties; 0 = none")
    add("--mixing_probability", type=float)
    add("--ema_images", type=float, help="half-life of the average in images")
    add("--ada_target", type=float, help="adaptive augmentation with this mean sign of D(real)")
    add("--spectral_norm", action="store_true", default=None, help="ablation: spectral norms on the student")
    add("--svs_every", type=int, help="ablation: scale singular values again every so many steps")
    return parser


def smoke_generator():
    return gz.StyleGAN2Generator(
        resolution=32, z_dim=8, w_dim=8, num_classes=2, mapping_layers=2, channels=(8, 8, 8, 4), image_channels=1
    )


def main(args: argparse.Namespace, smoke=smoke_generator) -> None:
    run = Finetuning(args, "finetune_stylegan", smoke)
    student = run.student()
    teacher = run.full_model(args.teacher)
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
    if args.perceptual == "none":
        args.perceptual_weight = 0.0
    perceptual = None
    if args.perceptual_weight != 0:
        if args.perceptual == "lpips":
            perceptual = LPIPSDistance(args.lpips_weights)
        else:
            perceptual = FeatureDistance(
                FeatureNetwork.from_pretrained(gz.assets.asset_path("fashion-mnist-features"))
            )
        perceptual.to(run.accelerator.device)
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
        validate=run.validator(),
    )
    if run.accelerator.is_main_process:
        run.accelerator.unwrap_model(discriminator).save_pretrained(run.output / "discriminator")
    run.finish(average, "generator", config, preset=args.preset)


def discriminator_widths(generator) -> dict:
    """The published discriminator: as wide as the full generator where that has widths per resolution."""
    if "channel_base" in generator.config and generator.config.get("channels") is None:
        return {"channel_base": generator.config.channel_base}
    if hasattr(generator.synthesis, "block_resolutions"):
        return {"channels": tuple(c if isinstance(c, int) else max(c) for c in generator.config.channels)}
    return {"channel_base": 32768 if generator.config.resolution > 256 else 16384}


if __name__ == "__main__":
    main(parse_args())
