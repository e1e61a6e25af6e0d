# SPDX-License-Identifier: Apache-2.0
"""Does feature quantization help? Train class-conditional BigGANs with and without codebooks in the discriminator, several seeds, equal steps.

    python examples/study_fq.py --output_dir fq --images fashion-mnist-folder
    python examples/study_fq.py --output_dir grid --images FOLDER --seeds 1 --grid num_codes=2,16,64,256 decay=0.5,0.9   # ablation: every combination
    python examples/study_fq.py --output_dir grid --images FOLDER --seeds 1 --grid num_codes=16,256 --grid decay=0.5,0.99  # one option at a time

Runs go seed by seed; an interrupted study goes on where it stopped. Writes report.json (every figure of every run), report.md, curves.png,
per_class.png, samples.png, and pictures of the codes.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed

import hf_ganzip as gz
from hf_ganzip.assets import asset_path
from hf_ganzip.evaluation.codebooks import code_usage, distances_per_class, save_code_maps
from hf_ganzip.evaluation.evaluate import measure
from hf_ganzip.evaluation.extractors import extract_features, load_extractor
from hf_ganzip.evaluation.reference import load_reference
from hf_ganzip.evaluation.runs import runs_table, spread, variants_of
from hf_ganzip.evaluation.sampling import sample_images
from hf_ganzip.image_grids import save_image_grid
from hf_ganzip.images import load_images
from hf_ganzip.metrics import inception_score
from hf_ganzip.models.feature_network import FeatureNetwork
from hf_ganzip.plotting import new_figure, save_run_curves
from hf_ganzip.record import versions
from hf_ganzip.scripts.flags import make_parser
from hf_ganzip.scripts.studies import check_conditions
from hf_ganzip.training.gan_loop import GANTrainingConfig, train_gan
from hf_ganzip.training.logs import figures_of, read_log


SHARED = {"num_codes": 64, "decay": 0.9, "weight": 1.0, "accumulate": "step"}
VARIANTS: dict[str, dict[str, Any] | None] = {  # name -> options of FQConfig at every place, None: no codebooks
    "BigGAN": None,
    "FQ, continuous": {**SHARED, "preset": "official"},
    "FQ, quantized": {**SHARED, "preset": "paper", "warmup_steps": 500, "anneal_steps": 500},
    "FQ, quantized, revived": {
        **SHARED,
        "preset": "paper",
        "warmup_steps": 500,
        "anneal_steps": 500,
        "init": "data",
        "revive_below": 1.0,
    },
}
CONDITIONS = ("max_train_steps", "train_batch_size", "validation_steps", "num_samples", "mixed_precision", "reference")
CONDITIONS += ("smoke", "training_images")  # a run under others is another run
METRICS = ("frechet_distance", "knn_precision_recall", "lsh_precision_recall")
FIGURES = ("frechet_distance", "precision", "recall", "lsh_precision", "lsh_recall")


def parse_args(input_args=None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--output_dir", required=True, help="report, pictures and runs")
    add("--images", required=True, help="labelled images: `datasets` id, parquet, folder of classes or idx files")
    add("--reference", default="fashion-mnist-test-5000", help="real images of the figures")
    add("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="what is compared")
    add(
        "--grid",
        nargs="+",
        action="append",
        metavar="OPTION=A,B",
        help="ablation: variants are the combinations of these options of FQConfig, and `places`=0+1,3 (blocks), beside the plain BigGAN and "
        "--grid_base; may be repeated, each time with its own combinations",
    )
    add(
        "--grid_base",
        choices=[name for name in VARIANTS if VARIANTS[name]],
        default="FQ, continuous",
        help="variant whose options --grid changes",
    )
    add("--places", nargs="+", type=int, default=[0, 1, 2, 3], help="discriminator blocks whose outputs are quantized")
    add("--seeds", type=int, default=3, help="runs of each variant")
    add("--max_train_steps", type=int, default=1500, help="of the generator, each with two of the discriminator")
    add("--train_batch_size", type=int, default=32, help="images per step of a network")
    add("--validation_steps", type=int, default=250, help="steps between figures")
    add("--num_samples", type=int, default=2500, help="generated images that are measured")
    add("--mixed_precision", choices=["no", "bf16"], default="bf16", help="of networks; penalties stay float32")
    add("--smoke", action="store_true", help="tiny networks, 4 steps, 150 samples, 1 seed")
    args = parser.parse_args(input_args)
    if args.smoke:
        args.max_train_steps, args.validation_steps, args.num_samples, args.seeds = 4, 2, 150, 1
        args.train_batch_size = 8
    return args


def variants(args: argparse.Namespace) -> dict[str, tuple[list[int], dict[str, Any] | None]]:
    """Name -> quantized blocks and options.

    Raises:
        ValueError: A grid option without values.
    """
    if not args.grid:
        return {name: (args.places, VARIANTS[name]) for name in args.variants}
    base = VARIANTS[args.grid_base]
    found: dict[str, tuple[list[int], dict[str, Any] | None]] = {"BigGAN": (args.places, None)}
    found[args.grid_base] = args.places, base
    for grid in args.grid:
        options = dict(part.partition("=")[::2] for part in grid)
        empty = [name for name, values in options.items() if not values]
        if empty:
            raise ValueError(f"--grid: {', '.join(empty)} has no values; write OPTION=A,B.")
        for values in itertools.product(*(values.split(",") for values in options.values())):
            chosen = dict(zip(options, values))
            name = ", ".join(f"{option} {value}" for option, value in chosen.items())
            places = [int(place) for place in chosen.pop("places").split("+")] if "places" in chosen else args.places
            found[name] = places, {**base, **{key: number(value) for key, value in chosen.items()}}
    return found


def number(text: str) -> int | float | str:
    """The text as a number, if it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class Figures:
    """Callable with a generator; gives FD, precision and recall, and the inception score by the bundled classifier."""

    def __init__(self, reference: str, num_samples: int):
        images, self.labels = load_reference(reference)
        self.num_samples = num_samples
        self.extract = load_extractor("fashion_mnist")
        self.classifier = FeatureNetwork.from_pretrained(asset_path("fashion-mnist-features")).classifier
        self.real = extract_features(images, self.extract, progress=False)

    def features(self, generator, num_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = sample_images(generator, num_samples, progress=False)
        return torch.as_tensor(extract_features(images, self.extract, progress=False)), labels

    @torch.no_grad()
    def __call__(self, generator) -> dict[str, float]:
        features, _ = self.features(generator, self.num_samples)
        found = measure(real=self.real, generated=features, metrics=METRICS)
        figures = {name: value for metric in found.values() for name, value in metric.items() if name in FIGURES}
        score = inception_score(self.classifier(features.float()), splits=1 if len(features) < 1000 else 10)
        return {name: float(value) for name, value in figures.items()} | {
            "inception_score": float(score["inception_score"])
        }

    def per_class(self, generator) -> list[float]:
        """Frechet distance of every class, from twice the samples; few samples bias it, in the same way for every model."""
        features, labels = self.features(generator, 2 * self.num_samples)
        known = torch.isin(self.labels, labels)  # the training images may lack classes of the reference
        sides = {"real": torch.as_tensor(self.real)[known], "generated": features}
        sides |= {"real_labels": self.labels[known], "generated_labels": labels}
        return list(distances_per_class(**sides, allow_singular=True).values())


def networks(args: argparse.Namespace, channels: int, classes: int, seed: int):
    """Generator and discriminator of the bundled BigGAN's size."""
    set_seed(seed)
    widths = ((8, 8, 8, 4), (4, 8, 8, 8)) if args.smoke else ((128, 128, 64, 32), (32, 64, 128, 128))
    shared = {"image_channels": channels, "num_classes": classes, "resolution": 32, "init": "N02", "sn_eps": 1e-8}
    generator = gz.BigGANGenerator(z_dim=128, channels=widths[0], **shared)
    return generator, gz.BigGANDiscriminator(channels=widths[1], **shared)


def train(args: argparse.Namespace, places, options, seed: int, dataset, figures: Callable, folder: Path) -> dict:
    """Curve, per-class distances, usage of the codes and seconds per step of one run."""
    images, labels = dataset.tensors
    generator, discriminator = networks(args, images.shape[1], int(labels.max()) + 1, seed)
    if options is not None:
        gz.add_feature_quantizers(discriminator, {f"blocks.{i}.0": gz.FQConfig(**options) for i in places})
    config = GANTrainingConfig(
        output_dir=str(folder),
        max_train_steps=args.max_train_steps,
        train_batch_size=args.train_batch_size,
        learning_rate=4e-4,
        discr_learning_rate=4e-4,
        adam_beta2=0.999,
        loss="hinge",
        discriminator_steps=2,
        r1_every=0,
        ema_buffers=True,
        mixed_precision=args.mixed_precision,
        seed=seed,
        checkpointing_steps=args.validation_steps,
        checkpoints_total_limit=1,
        logging_steps=50,
        validation_steps=args.validation_steps,
        validation_weights=("average",),
        resume_from_checkpoint="latest",
    )
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True))
    spent = []

    def validate(network) -> Mapping[str, float]:
        begun = time.process_time()
        found = figures(network)
        spent.append(time.process_time() - begun)
        return found

    resumed, begun = any(folder.glob("checkpoint-*")), time.process_time()
    average = train_gan(generator, discriminator, dataset, config, accelerator, validate)
    seconds = (time.process_time() - begun - sum(spent)) / args.max_train_steps
    rows = read_log(folder / "log.jsonl")
    average.save_pretrained(folder / "generator")
    found = {
        "curve": [figures_of(row) for row in read_log(folder / "figures.jsonl")],
        "per_class": figures.per_class(average),
        "cpu_seconds_per_step": None if resumed else seconds,
        "codes_in_use": {row["step"]: row["codes_in_use"] for row in rows if "codes_in_use" in row},
    }
    if options is not None:
        found["usage"] = code_usage(discriminator)
        kept = torch.cat([(labels == label).nonzero()[:2, 0] for label in range(min(5, int(labels.max()) + 1))])
        generated, generated_labels = sample_images(average, 100, progress=False)
        same = torch.cat([(generated_labels == label).nonzero()[:2, 0] for label in labels[kept][::2]])
        save_code_maps(
            discriminator,
            f"blocks.{places[0]}.0",
            images[kept],
            generated[same],
            folder / "codes.png",
            real_labels=labels[kept],
            generated_labels=generated_labels[same],
        )
    return found


def main(args: argparse.Namespace) -> None:
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    chosen = variants(args)
    dataset = load_images(args.images, resolution=32)
    figures = Figures(args.reference, args.num_samples)
    kept = {
        key: value for key, value in vars(args).items() if key not in ("output_dir", "images", "variants", "seeds")
    }
    kept |= {"threads": torch.get_num_threads(), "versions": versions(), "training_images": len(dataset)}
    kept["options"] = {name: options for name, (_, options) in chosen.items()}
    report = {"conditions": kept, "runs": []}
    for seed in range(args.seeds):
        for name, (places, options) in chosen.items():
            folder = output / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            done = folder / "run.json"
            own = {key: kept[key] for key in CONDITIONS} | {"places": places, "options": options}
            check_conditions(folder, own)
            if not done.is_file():
                done.write_text(json.dumps(train(args, places, options, seed, dataset, figures, folder)))
            report["runs"].append(
                {"variant": name, "seed": seed, **json.loads(done.read_text()), "folder": folder.name}
            )
            (output / "report.json").write_text(json.dumps(report, indent=1))
            write_report(report, output)


def write_report(report: dict, output: Path) -> None:
    """report.md and the pictures of the runs so far."""
    conditions, runs = report["conditions"], report["runs"]
    columns = {
        "FD": ("frechet_distance", -1, 2),
        "IS": ("inception_score", -1, 2),
        "KNN P": ("precision", -1, 3),
        "KNN R": ("recall", -1, 3),
        "LSH P": ("lsh_precision", -1, 3),
        "LSH R": ("lsh_recall", -1, 3),
    }
    lines = [
        "# Feature quantization in a BigGAN's discriminator",
        "",
        f"Mean and standard deviation over seeds after {conditions['max_train_steps']} steps of the generator and twice as many of the discriminator, "
        f"{conditions['train_batch_size']} images each; {conditions['num_samples']} generated against the images of {conditions['reference']}, KNN with "
        "k = 3, FD and inception score by the bundled classifier.",
        "",
        *runs_table(runs, columns),
        "",
        "![Curves](curves.png)",
        "",
        "## Cost and codes",
        "",
        "CPU seconds of a step with sampling and checkpoints but without validation, and codes that are in use (perplexity of the running counts, mean over the places).",
        "",
        "| variant | CPU s / step | to the first variant | perplexity |",
        "|---|---|---|---|",
    ]
    first = None
    for name in variants_of(runs):
        own = [run for run in runs if run["variant"] == name]
        seconds = [run["cpu_seconds_per_step"] for run in own if run["cpu_seconds_per_step"]]
        mean = statistics.median(seconds) if seconds else None
        first = first or mean
        used = [place["perplexity"] for run in own for place in run.get("usage", {}).values()]
        cells = [f"{mean:.3f}" if mean else "-", f"{mean / first:.3f}" if mean and first else "-"]
        lines.append(f"| {name} | {' | '.join(cells)} | {f'{statistics.mean(used):.1f}' if used else '-'} |")
    lines += ["", "## Classes", "", "Frechet distance of each class, mean over seeds.", ""]
    lines += ["| variant | " + " | ".join(map(str, range(len(runs[0]["per_class"])))) + " |"]
    lines += ["|---" * (1 + len(runs[0]["per_class"])) + "|"]
    for name in variants_of(runs):
        curves = [[dict(enumerate(run["per_class"]))] for run in runs if run["variant"] == name]
        cells = [spread(curves, place, digits=1).split(" ")[0] for place in curves[0][0]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "![Classes](per_class.png)", "", "![Samples of the first seed](samples.png)", ""]
    lines += [f"Conditions: {json.dumps(conditions)}", ""]
    (output / "report.md").write_text("\n".join(lines))
    titles = {"frechet_distance": "Frechet distance", "inception_score": "inception score"}
    titles |= {"precision": "KNN precision", "recall": "KNN recall"}
    save_run_curves(variants_of(runs), output / "curves.png", titles, logarithmic=("frechet_distance",))
    save_class_bars(runs, output / "per_class.png")
    save_samples(runs, output)


def save_class_bars(runs: list[dict], path: Path) -> None:
    """Frechet distance of every class as bars, mean over seeds, with the range."""
    names = list(variants_of(runs))
    figure = new_figure(10, 3.8)
    axis = figure.subplots()
    for index, name in enumerate(names):
        values = list(zip(*(run["per_class"] for run in runs if run["variant"] == name)))
        means = [statistics.mean(each) for each in values]
        ends = [[m - min(v) for m, v in zip(means, values)], [max(v) - m for m, v in zip(means, values)]]
        places = [label + (index - (len(names) - 1) / 2) * 0.8 / len(names) for label in range(len(values))]
        axis.bar(places, means, 0.8 / len(names), yerr=ends, capsize=2, label=name)
    axis.set(xlabel="class", ylabel="Frechet distance", xticks=range(len(values)))
    axis.legend()
    figure.savefig(path, dpi=110)


def save_samples(runs: list[dict], output: Path) -> None:
    """Ten images of every variant's first seed, one of each class, from the same latents."""
    images, names = [], []
    for run in runs:
        if run["seed"] == 0:
            generator = gz.BigGANGenerator.from_pretrained(str(output / run["folder"] / "generator"))
            images.append(sample_images(generator, 10, progress=False)[0])
            names.append(run["variant"])
    save_image_grid(torch.cat(images), output / "samples.png", columns=10, row_labels=names)


if __name__ == "__main__":
    main(parse_args())
