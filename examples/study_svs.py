# SPDX-License-Identifier: Apache-2.0
"""Does Singular Value Scaling help? Prune, refine (or not), fine-tune with equal budgets and several seeds, and compare the curves.

    python examples/study_svs.py --output_dir svs --images fashion-mnist-folder
    python examples/study_svs.py --output_dir svs-ddpm --model ddpm-folder --images fashion-mnist-folder

A StyleGAN2 is fine-tuned by distillation against its unpruned self, a diffusion UNet by predicting noise. Runs go seed by seed; an interrupted study goes on
where it stopped. Writes report.json (every figure of every run), report.md, curves.png and spectra.png.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed

import hf_ganzip as gz
from hf_ganzip.assets import ASSETS, asset_path
from hf_ganzip.evaluation.reference import load_reference
from hf_ganzip.evaluation.runs import runs_table, variants_of
from hf_ganzip.evaluation.validation import Validator
from hf_ganzip.images import load_images, to_model_range
from hf_ganzip.models.feature_network import FeatureNetwork
from hf_ganzip.plotting import new_figure, save_run_curves
from hf_ganzip.record import versions
from hf_ganzip.refine.refine import selection
from hf_ganzip.refine.singular_values import condition_number
from hf_ganzip.scripts.flags import make_parser
from hf_ganzip.scripts.studies import check_conditions
from hf_ganzip.training import logs
from hf_ganzip.training.diffusion_loop import DiffusionTrainingConfig, antithetic_timesteps, train_diffusion
from hf_ganzip.training.distillation_config import DistillationConfig
from hf_ganzip.training.distillation_loop import train_distilled
from hf_ganzip.training.perceptual import FeatureDistance


VARIANTS = {  # name -> (changes of the pruning, scaling or None)
    "pruned weights": ({}, None),
    "SVS sqrt": ({}, "sqrt"),
    "SVS log1p": ({}, "log1p"),
    "random": ({"fresh": True}, None),
    "He": ({"init": "he"}, None),
}
CONDITIONS = (
    "model",
    "ratio",
    "max_train_steps",
    "train_batch_size",
    "learning_rate",
    "validation_steps",
    "num_samples",
    "reference",
)
CONDITIONS += (
    "sampling_steps",
    "clip_sample",
    "mixed_precision",
    "smoke",
    "training_images",
)  # a run under others is another run
SPECTRUM = {f"sigma_{i / 8:.3f}": i / 8 for i in range(9)}  # name -> place among the singular values, descending


def parse_args(input_args=None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--output_dir", required=True, help="report, pictures and runs")
    add(
        "--model",
        default="stylegan2-fashion-mnist",
        help="bundled name, folder or Hub id of a StyleGAN2 or UNet2DModel",
    )
    add("--images", required=True, help="training images: `datasets` id, parquet, folder of images or idx files")
    add("--reference", default="fashion-mnist-test-5000", help="real images of the figures")
    add("--ratio", type=float, default=0.7, help="share of channels that is pruned")
    add("--variants", nargs="+", choices=sorted(VARIANTS), default=list(VARIANTS), help="what is compared")
    add("--seeds", type=int, default=3, help="runs of each variant")
    add("--max_train_steps", type=int, default=600, help="of each run")
    add("--train_batch_size", type=int, default=32, help="images per step")
    add("--learning_rate", type=float, help="default: 0.0025 for GANs, 0.001 for diffusion")
    add("--validation_steps", type=int, default=100, help="steps between figures")
    add("--num_samples", type=int, default=2500, help="generated images that are measured")
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
        args.train_batch_size, args.sampling_steps = 8, 4
    return args


def compressed(args: argparse.Namespace, variant: str, seed: int, images: torch.Tensor):
    """The pruned and refined network before fine-tuning."""
    changes, scaling = VARIANTS[variant]
    changes = dict(changes)
    model = gz.load_model(source(args.model))
    fresh = changes.pop("fresh", False)
    if hasattr(model, "mapping"):
        options = {"samples": 8 if args.smoke else 200, "strength": 10.0, "seed": seed, "progress": False}
        changes |= {"inherit": "mapping"} if fresh else {}
        gz.prune_(model, gz.PruneConfig("dcp", args.ratio, criterion_options=options, seed=seed, **changes))
    else:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:64]
        options = {"images": to_model_range(images[order]), "progress": False, "seed": seed}
        options |= {"timesteps": 3} if args.smoke else {"checkpoint_dir": str(Path(args.output_dir, f"scores-{seed}"))}
        if fresh or changes:  # only the widths matter
            gz.prune_(model, gz.PruneConfig("random", args.ratio, seed=seed, **changes))
        else:
            gz.prune_(model, gz.PruneConfig("diff_prune", args.ratio, criterion_options=options, seed=seed))
        if fresh:
            set_seed(seed)
            model = gz.from_config(model)
    if scaling is not None:
        gz.refine_(model, gz.RefineConfig(scaling, progress=False))
    return model


def source(name: str) -> str | Path:
    return asset_path(name) if name in ASSETS else name


@torch.no_grad()
def spectrum(model) -> dict[str, float]:
    """Median condition number of the weights that SVS refines, and their singular values over the largest: the mean over weights at 9 ranks."""
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
def noise_error(unet, images: torch.Tensor) -> float:
    """Mean squared error of the predicted noise, per value, over uint8 images at random timesteps, the same for every network."""
    random = torch.Generator().manual_seed(0)
    signal = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).float()
    total = 0.0
    for part in images.split(100):
        timesteps = antithetic_timesteps(len(part), 1000, random)
        noise = torch.randn(part.shape, generator=random)
        kept = signal[timesteps][:, None, None, None]
        predicted = unet(kept.sqrt() * to_model_range(part) + (1 - kept).sqrt() * noise, timesteps, return_dict=False)[
            0
        ]
        total += (predicted - noise).square().mean(dim=(1, 2, 3)).sum().item()
    return total / len(images)


def figures_of(network, validator: Validator, images: torch.Tensor) -> dict[str, float]:
    """Everything that is measured of a network."""
    found = validator(network) | spectrum(network)
    return found if hasattr(network, "mapping") else found | {"noise_error": noise_error(network, images)}


def train(args: argparse.Namespace, variant: str, seed: int, dataset, held_out, validator, folder: Path) -> list[dict]:
    """Curve of one run: the figures before fine-tuning and every ``validation_steps``."""
    set_seed(seed)
    model = compressed(args, variant, seed, dataset.tensors[0])
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
    if hasattr(model, "mapping"):
        teacher = gz.load_model(source(args.model))
        set_seed(seed)
        options = {name: teacher.config[name] for name in ("resolution", "image_channels", "num_classes")}
        channels = tuple(c if isinstance(c, int) else max(c) for c in teacher.config.channels)
        discriminator = gz.StyleGAN2Discriminator(channels=channels, mapping_layers=2, mbstd_group_size=8, **options)
        rate = args.learning_rate or 2.5e-3
        config = DistillationConfig(
            **shared,
            learning_rate=rate,
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
            **shared, learning_rate=rate, ema_decay=0.99, ema_rampup=0.077, lr_scheduler="cosine"
        )
        train_diffusion(model, dataset, config, accelerator, validate=figures)
    rows = [logs.figures_of(row) for row in logs.read_log(folder / "figures.jsonl")]
    return [json.loads((folder / "start.json").read_text()), *rows]


def main(args: argparse.Namespace) -> None:
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    model = gz.load_model(source(args.model))
    size = model.config.get("resolution") or model.config.sample_size
    dataset = load_images(args.images, resolution=size)
    sampling = {"steps": args.sampling_steps, "clip_sample": args.clip_sample}
    held_out = load_reference(args.reference, resolution=size)[0][: 150 if args.smoke else 5000]
    validator = Validator(args.reference, num_samples=args.num_samples, **sampling)
    conditions = {
        key: value for key, value in vars(args).items() if key not in ("output_dir", "images", "variants", "seeds")
    }
    conditions |= {"threads": torch.get_num_threads(), "versions": versions(), "training_images": len(dataset)}
    report = {"conditions": conditions, "dense": figures_of(model, validator, held_out), "runs": []}
    for seed in range(args.seeds):
        for variant in args.variants:
            folder = output / f"{variant.replace(' ', '-')}-{seed}"
            done = folder / "curve.json"
            check_conditions(folder, {key: conditions[key] for key in CONDITIONS})
            if not done.is_file():
                done.write_text(json.dumps(train(args, variant, seed, dataset, held_out, validator, folder)))
            report["runs"].append({"variant": variant, "seed": seed, "curve": json.loads(done.read_text())})
            (output / "report.json").write_text(json.dumps(report, indent=1))
            write_report(report, output)


def write_report(report: dict, output: Path) -> None:
    """report.md, curves.png and spectra.png of the runs so far."""
    conditions, dense, runs = report["conditions"], report["dense"], report["runs"]
    columns = {
        "FD before": ("frechet_distance", 0, 2),
        "FD after": ("frechet_distance", -1, 2),
        "KNN P": ("precision", -1, 3),
        "KNN R": ("recall", -1, 3),
        "LSH P": ("lsh_precision", -1, 3),
        "LSH R": ("lsh_recall", -1, 3),
        "median condition before": ("condition", 0, 2),
        "after": ("condition", -1, 2),
    }
    denoises = "noise_error" in dense
    if denoises:
        columns |= {"noise error before": ("noise_error", 0, 4), "noise error after": ("noise_error", -1, 4)}
    lines = [
        f"# Singular Value Scaling: {Path(str(conditions['model'])).name}, {conditions['ratio']:.0%} of the channels removed",
        "",
        f"Mean and standard deviation over seeds after {conditions['max_train_steps']} steps of {conditions['train_batch_size']} images; "
        f"{conditions['num_samples']} generated against the images of {conditions['reference']}, KNN with k = 3. "
        f"The dense network: FD {dense['frechet_distance']:.2f}, KNN P {dense['precision']:.3f}, R {dense['recall']:.3f}"
        + (f", noise error {dense['noise_error']:.4f} (mean square, held-out images)." if denoises else "."),
        "",
        *runs_table(runs, columns, "start"),
        "",
        "![Curves](curves.png)",
        "",
        "![Singular values before and after training](spectra.png)",
        "",
        f"Conditions: {json.dumps(conditions)}",
        "",
    ]
    (output / "report.md").write_text("\n".join(lines))
    titles = {"frechet_distance": "Frechet distance", "precision": "KNN precision", "recall": "KNN recall"}
    titles["condition"] = "median condition number"
    if denoises and all("noise_error" in point for run in runs for point in run["curve"]):
        titles["noise_error"] = "error of the predicted noise"
    logarithmic = ("frechet_distance", "condition", "noise_error")
    save_run_curves(variants_of(runs), output / "curves.png", titles, dense, logarithmic)
    save_spectra(variants_of(runs), dense, output / "spectra.png")


def save_spectra(variants: dict[str, list[list[dict]]], dense: dict, path: Path) -> None:
    """Singular values over the largest against their place, before and after training; means over weights and seeds."""
    figure = new_figure(11, 4.2)
    for axis, place, title in zip(figure.subplots(1, 2, sharey=True), (0, -1), ("before training", "after training")):
        for variant, curves in variants.items():
            means = [statistics.mean(curve[place][name] for curve in curves) for name in SPECTRUM]
            axis.plot(list(SPECTRUM.values()), means, marker="o", markersize=3, label=variant)
        axis.plot(list(SPECTRUM.values()), [dense[name] for name in SPECTRUM], ":", color="grey", label="dense")
        axis.set(title=title, xlabel="place among the singular values", ylim=(0, 1.02))
    figure.axes[0].set_ylabel("singular value / largest")
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(parse_args())
