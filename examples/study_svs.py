# SPDX-License-Identifier: Apache-2.0
"""Does Singular Value Scaling help? Prune, refine (or not), fine-tune with equal budgets and several seeds, and
compare the curves.

    python examples/study_svs.py --output_dir svs --images fashion-mnist-folder
    python examples/study_svs.py --output_dir svs-ddpm --model ddpm-folder --images
    fashion-mnist-folder --distillation_weight 1

A StyleGAN is fine-tuned by distillation against its unpruned self, a diffusion UNet by predicting noise, what its
unpruned self predicts, or a mixture of both. Runs go seed by seed; an interrupted study goes on where it stopped,
and of finished runs the report.json alone is enough for more --seeds and --variants. Writes report.json (every figure
of every run), report.md with differences to the first variant, curves.png, differences.png and spectra.png.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.utils.data import TensorDataset

import hf_ganzip as gz
from hf_ganzip.assets import ASSETS, asset_path
from hf_ganzip.core.record import versions
from hf_ganzip.evaluation.sources import load_reference
from hf_ganzip.evaluation.validation import Validator
from hf_ganzip.images import load_images, to_model_range
from hf_ganzip.models.feature_network import FeatureNetwork
from hf_ganzip.pruning.config import GROUP_RULES
from hf_ganzip.pruning.criteria import CRITERIA
from hf_ganzip.refine.refine import selection
from hf_ganzip.refine.scalings import SCALINGS, Scaling
from hf_ganzip.refine.singular_values import condition_number
from hf_ganzip.scripts.flags import make_parser
from hf_ganzip.scripts.studies import check_conditions, finished_runs
from hf_ganzip.scripts.svs_report import SPECTRUM, write_report
from hf_ganzip.training import logs
from hf_ganzip.training.diffusion_loop import DiffusionTrainingConfig, antithetic_timesteps, train_diffusion
from hf_ganzip.training.distillation_config import DistillationConfig
from hf_ganzip.training.distillation_loop import train_distilled
from hf_ganzip.training.perceptual import FeatureDistance
from hf_ganzip.training.run_config import LR_SCHEDULERS


_SAME = Scaling(torch.Tensor.clone, lambda norm, largest: 1.0)
VARIANTS = {  # name -> (changes of the pruning, options of refining or None)
    "pruned weights": ({}, None),
    **{f"SVS {name}": ({}, {"scaling": name}) for name in SCALINGS},
    "SVS sqrt, biases kept": ({}, {"scaling": "sqrt", "skip": ("*bias",)}),
    "SVS sqrt, norms kept": ({}, {"scaling": "sqrt", "reset_norms": False}),
    "norms reset": ({}, {"scaling": _SAME}),
    "random": ({"fresh": True}, None),
    "He": ({"init": "he"}, None),
}
DEFAULT_VARIANTS = ["pruned weights", "SVS sqrt", "SVS log1p", "random", "He"]
CONDITIONS = (  # a run under others is another run
    "model",
    "ratio",
    "criterion",
    "group_rule",
    "score_images",
    "max_train_steps",
    "train_batch_size",
    "learning_rate",
    "lr_scheduler",
    "distillation_weight",
    "validation_steps",
    "num_samples",
    "noise_images",
    "reference",
    "sampling_steps",
    "clip_sample",
    "mixed_precision",
    "smoke",
    "training_images",
)


def parse_args(input_args=None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--output_dir", required=True, help="report, pictures and runs")
    add(
        "--model",
        default="stylegan2-fashion-mnist",
        help="bundled name, folder or Hub id of a StyleGAN2, StyleGAN3 or UNet2DModel",
    )
    add("--images", required=True, help="training images: `datasets` id, parquet, folder of images or idx files")
    add("--reference", default="fashion-mnist-test-5000", help="real images of the figures")
    add("--ratio", type=float, default=0.7, help="share of channels that is pruned")
    add("--criterion", choices=sorted(CRITERIA), help="default: dcp for GANs, diff_prune for diffusion")
    add(
        "--group_rule",
        choices=GROUP_RULES,
        default="blocks",
        help="how channels under group norms go, of a diffusion model",
    )
    add("--score_images", type=int, default=64, help="training images with which diff_prune and taylor score channels")
    add(
        "--variants",
        nargs="+",
        choices=sorted(VARIANTS),
        default=DEFAULT_VARIANTS,
        help="what is compared, with the first",
    )
    add("--seeds", type=int, default=3, help="runs of each variant")
    add("--first_seed", type=int, default=0, help="the seeds are this one and those after it")
    add("--max_train_steps", type=int, default=600, help="of each run")
    add("--train_batch_size", type=int, default=32, help="images per step")
    add("--learning_rate", type=float, help="default: 0.0025 for GANs, 0.001 for diffusion")
    add("--lr_scheduler", choices=LR_SCHEDULERS, help="default: constant for GANs, cosine for diffusion")
    add(
        "--distillation_weight",
        type=float,
        default=0.0,
        help="of what the dense network predicts, 1 minus it of the noise; for a diffusion model",
    )
    add("--validation_steps", type=int, default=100, help="steps between figures")
    add("--num_samples", type=int, default=2500, help="generated images that are measured")
    add("--noise_images", type=int, default=5000, help="held-out images of the noise error, for a diffusion model")
    add("--sampling_steps", type=int, default=50, help="of DDIM, for a diffusion model")
    add(
        "--clip_sample",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="clip predicted images in DDIM steps",
    )
    add("--mixed_precision", choices=["no", "bf16"], default="no", help="of networks; penalties stay float32")
    add("--smoke", action="store_true", help="4 steps, 150 samples of 4 steps, 1 seed")
    args = parser.parse_args(input_args)
    if args.smoke:
        args.max_train_steps, args.validation_steps, args.num_samples, args.seeds = 4, 2, 150, 1
        args.train_batch_size, args.sampling_steps, args.noise_images = 8, 4, 150
    return args


def compressed(args: argparse.Namespace, variant: str, seed: int, dataset: TensorDataset):
    """The pruned and refined network before fine-tuning."""
    changes, refining = VARIANTS[variant]
    changes = dict(changes)
    model = gz.load_model(source(args.model))
    fresh = changes.pop("fresh", False)
    if hasattr(model, "mapping"):
        changes |= {"inherit": "mapping"} if fresh else {}
        name = args.criterion or "dcp"
        gz.prune_(
            model, gz.PruneConfig(name, args.ratio, criterion_options=scoring(args, name, seed), seed=seed, **changes)
        )
    elif fresh or changes:  # only the widths matter
        gz.prune_(model, gz.PruneConfig("random", args.ratio, seed=seed, group_rule=args.group_rule, **changes))
    else:
        name = args.criterion or "diff_prune"
        options = scoring(args, name, seed, dataset, labelled(model))
        gz.prune_(
            model,
            gz.PruneConfig(name, args.ratio, group_rule=args.group_rule, criterion_options=options, seed=seed),
        )
    if fresh and not hasattr(model, "mapping"):
        set_seed(seed)
        model = gz.from_config(model)
    if refining is not None:
        gz.refine_(model, gz.RefineConfig(**refining, progress=False))
    return model


def labelled(model) -> bool:
    """Whether a diffusion model takes classes."""
    return bool(model.config.get("num_class_embeds"))


def scoring(
    args: argparse.Namespace, criterion: str, seed: int, dataset: TensorDataset | None = None, labels: bool = False
) -> dict:
    """Those of the study's options that a criterion has."""
    options = {"samples": 8 if args.smoke else 200, "strength": 10.0, "seed": seed, "progress": False}
    if dataset is not None:
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[: args.score_images]
        images, classes = dataset[order]
        options |= {"images": to_model_range(images), "model_inputs": {"class_labels": classes} if labels else {}}
        options |= {"timesteps": 3} if args.smoke else {"checkpoint_dir": str(Path(args.output_dir, f"scores-{seed}"))}
    known = {field.name for field in dataclasses.fields(CRITERIA[criterion])}
    return {name: value for name, value in options.items() if name in known}


def source(name: str) -> str | Path:
    return asset_path(name) if name in ASSETS else name


@torch.no_grad()
def spectrum(model) -> dict[str, float]:
    """Median condition number of the weights that SVS refines, and their singular values over the largest: the mean
    over weights at 9 ranks.
    """
    names, _ = selection(model, gz.RefineConfig())
    parameters = dict(model.named_parameters())
    weights = [parameters[name].flatten(1).double() for name in names if parameters[name].ndim >= 2]
    values = [torch.linalg.svdvals(weight) for weight in weights]
    found = {"condition": statistics.median(map(condition_number, values))}
    many = [value / value[0] for value in values if len(value) >= len(SPECTRUM)]
    for name, rank in SPECTRUM.items():
        found[name] = statistics.mean(value[round(rank * (len(value) - 1))].item() for value in many)
    return found


@torch.no_grad()
def noise_error(unet, images: torch.Tensor, labels: torch.Tensor | None) -> float:
    """Mean squared error of the predicted noise, per value, over uint8 images (N, C, H, W) of classes (N,) at random
    timesteps, the same for every network.
    """
    random = torch.Generator().manual_seed(0)
    signal = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).float()
    total = 0.0
    for start in range(0, len(images), 100):
        part = images[start : start + 100]
        timesteps = antithetic_timesteps(len(part), 1000, random)
        noise = torch.randn(part.shape, generator=random)
        kept = signal[timesteps][:, None, None, None]
        noisy = kept.sqrt() * to_model_range(part) + (1 - kept).sqrt() * noise
        kwargs = {"class_labels": labels[start : start + 100]} if labelled(unet) else {}
        predicted = unet(noisy, timesteps, **kwargs, return_dict=False)[0]
        total += (predicted - noise).square().mean(dim=(1, 2, 3)).sum().item()
    return total / len(images)


def figures_of(network, validator: Validator, held_out: tuple[torch.Tensor, torch.Tensor | None]) -> dict[str, float]:
    """Everything that is measured of a network."""
    found = validator(network) | spectrum(network)
    return found if hasattr(network, "mapping") else found | {"noise_error": noise_error(network, *held_out)}


def train(args: argparse.Namespace, variant: str, seed: int, dataset, held_out, validator, folder: Path) -> list[dict]:
    """Curve of one run: the figures before fine-tuning and every ``validation_steps``."""
    set_seed(seed)
    model = compressed(args, variant, seed, dataset)
    resume = any(folder.glob("checkpoint-*"))

    def figures(network) -> dict[str, float]:
        return figures_of(network, validator, held_out)

    if not resume:
        (folder / "start.json").write_text(json.dumps({"step": 0, "images": 0, **figures(model)}))
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True))
    shared = {
        "output_dir": str(folder),
        "max_train_steps": args.max_train_steps,
        "train_batch_size": args.train_batch_size,
        "random_flip": False,
        "mixed_precision": args.mixed_precision,
        "seed": seed,
        "checkpointing_steps": args.validation_steps,
        "checkpoints_total_limit": 1,
        "validation_steps": args.validation_steps,
        "validation_weights": ("average",),
        "resume_from_checkpoint": "latest",
    }
    teacher = gz.load_model(source(args.model))
    if hasattr(model, "mapping"):
        set_seed(seed)
        options = {name: teacher.config[name] for name in ("resolution", "image_channels", "num_classes")}
        if hasattr(teacher.synthesis, "block_resolutions"):
            options["channels"] = tuple(c if isinstance(c, int) else max(c) for c in teacher.config.channels)
            phases = {}
        else:  # StyleGAN3
            options |= {name: teacher.config[name] for name in ("channel_base", "channel_max")}
            phases = {"path_every": 0, "mixing_probability": 0.0}
        discriminator = gz.StyleGAN2Discriminator(mapping_layers=2, mbstd_group_size=8, **options)
        rate = args.learning_rate or 2.5e-3
        config = DistillationConfig(
            **shared,
            **phases,
            learning_rate=rate,
            lr_scheduler=args.lr_scheduler or "constant",
            discr_learning_rate=rate,
            relation_batch=8,
            r1_gamma=0.3,
            ema_images=20_000,
            ema_rampup=0.05,
        )
        perceptual = FeatureDistance(FeatureNetwork.from_pretrained(asset_path("fashion-mnist-features")))
        train_distilled(
            model, teacher, discriminator, dataset, config, accelerator, perceptual=perceptual, validate=figures
        )
    else:
        rate = args.learning_rate or 1e-3
        config = DiffusionTrainingConfig(
            **shared,
            learning_rate=rate,
            lr_scheduler=args.lr_scheduler or "cosine",
            distillation_weight=args.distillation_weight,
            ema_decay=0.99,
            ema_rampup=0.077,
            grid_steps=args.sampling_steps,
        )
        train_diffusion(model, dataset, config, accelerator, teacher, validate=figures)
    rows = [logs.figures_of(row) for row in logs.read_log(folder / "figures.jsonl")]
    return [json.loads((folder / "start.json").read_text()), *rows]


def main(args: argparse.Namespace) -> None:
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    model = gz.load_model(source(args.model))
    if args.distillation_weight and hasattr(model, "mapping"):
        raise ValueError("distillation_weight is for diffusion models; GANs are fine-tuned by distillation anyway.")
    size = model.config.get("resolution") or model.config.sample_size
    dataset = load_images(args.images, resolution=size)
    sampling = {"steps": args.sampling_steps, "clip_sample": args.clip_sample}
    images, labels = load_reference(args.reference, resolution=size)
    held_out = images[: args.noise_images], labels
    validator = Validator(args.reference, resolution=size, num_samples=args.num_samples, dense=model, **sampling)
    conditions = {
        key: value
        for key, value in vars(args).items()
        if key not in ("output_dir", "images", "variants", "seeds", "first_seed")
    }
    conditions |= {"threads": torch.get_num_threads(), "versions": versions(), "training_images": len(dataset)}
    found = finished_runs(output / "report.json", conditions, CONDITIONS)
    runs = {(run["variant"], run["seed"]): run for run in found}
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    wanted = [(variant, seed) for seed in seeds for variant in args.variants]
    folders = {each: output / f"{each[0].replace(' ', '-')}-{each[1]}" for each in wanted}
    folders = {each: folder for each, folder in folders.items() if folder.is_dir() or each not in runs}
    for folder in folders.values():
        check_conditions(folder, {key: conditions[key] for key in CONDITIONS})
    report = {"conditions": conditions, "dense": figures_of(model, validator, held_out), "runs": []}
    for variant, seed in wanted:
        if folder := folders.get((variant, seed)):
            done = folder / "curve.json"
            if not done.is_file():
                done.write_text(json.dumps(train(args, variant, seed, dataset, held_out, validator, folder)))
            runs[variant, seed] = {"variant": variant, "seed": seed, "curve": json.loads(done.read_text())}
        report["runs"] = [runs[each] for each in wanted if each in runs]
        (output / "report.json").write_text(json.dumps(report, indent=1))
        write_report(report, output)


if __name__ == "__main__":
    main(parse_args())
