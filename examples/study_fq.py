# SPDX-License-Identifier: Apache-2.0
"""Does feature quantization help? Train class-conditional BigGANs, or StyleGAN2s, with and without codebooks in the
discriminator, several seeds, equal steps and equal time.

    python examples/study_fq.py --output_dir fq --images fashion-mnist-folder
    python examples/study_fq.py --output_dir fq --images FOLDER --architecture stylegan2 --places 1 2 --seeds 3
    # ablation, every combination, then one option at a time
    python examples/study_fq.py --output_dir grid --images FOLDER --seeds 1 --grid num_codes=2,16,64,256 decay=0.5,0.9
    python examples/study_fq.py --output_dir grid --images FOLDER --seeds 1 --grid num_codes=16,256 --grid decay=0.5

Runs go seed by seed; an interrupted study goes on where it stopped, and one with more --max_train_steps or --seeds
goes on from what is there; of finished runs the report.json alone is enough for more --seeds. Options are chosen on
a seed that is compared nowhere: --first_seed 9 --seeds 1 --grid weight=0.25,1,4. Writes report.json (every figure of
every run), report.md, curves.png, codes_in_use.png, per_class.png, samples.png, and pictures of the codes.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed

import hf_ganzip as gz
from hf_ganzip.assets import asset_path
from hf_ganzip.core.record import versions
from hf_ganzip.evaluation.evaluate import measure
from hf_ganzip.evaluation.extractors import extract_features, load_extractor
from hf_ganzip.evaluation.sampling import sample_images
from hf_ganzip.evaluation.sources import load_reference
from hf_ganzip.images import load_images
from hf_ganzip.metrics import inception_score
from hf_ganzip.models.feature_network import FeatureNetwork
from hf_ganzip.scripts.flags import make_parser
from hf_ganzip.scripts.fq_report import write_report
from hf_ganzip.scripts.studies import check_conditions, finished_runs
from hf_ganzip.studies.codebooks import code_usage, distances_per_class, save_code_maps
from hf_ganzip.training.gan_loop import GANTrainingConfig, train_gan
from hf_ganzip.training.logs import figures_of, read_log


SHARED = {"num_codes": 64, "preset": "paper", "weight": 1.0, "accumulate": "step"}
VARIANTS: dict[str, dict[str, Any] | None] = {  # name -> options of FQConfig at every place, None: no codebooks
    "plain": None,
    "FQ, continuous": {**SHARED, "feed": "continuous"},
    "FQ, quantized": SHARED,
}
ARCHITECTURES: dict[str, tuple[Callable[[int], str], dict[str, Any]]] = {  # path of a block, options of the training
    "biggan": (
        "blocks.{}.0".format,
        {"learning_rate": 4e-4, "discr_learning_rate": 4e-4, "adam_beta2": 0.999, "loss": "hinge"}
        | {"discriminator_steps": 2, "r1_every": 0, "ema_buffers": True},
    ),
    "stylegan2": (lambda i: f"b{32 >> i}", {"r1_gamma": 0.3, "class_group_size": 8}),
}
SMOKE = {"settle_steps": 2, "warmup_steps": 4, "anneal_steps": 2}
CONDITIONS = (
    "architecture",
    "width",
    "train_batch_size",
    "validation_steps",
    "num_samples",
    "mixed_precision",
    "reference",
)
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
        help="ablation: variants are the combinations of these options of FQConfig, and `places`=0+1,3 (blocks), "
        "beside the plain network and --grid_base; may be repeated, each time with its own combinations",
    )
    add(
        "--grid_base",
        choices=[name for name in VARIANTS if VARIANTS[name]],
        default="FQ, continuous",
        help="variant whose options --grid changes",
    )
    add(
        "--places",
        nargs="+",
        type=int,
        default=[0, 1, 2, 3],
        help="discriminator blocks whose outputs are quantized; the first halves the images' 32 pixels",
    )
    add(
        "--options", nargs="+", metavar="OPTION=VALUE", default=[], help="of FQConfig, for all variants with codebooks"
    )
    add("--seeds", type=int, default=5, help="runs of each variant")
    add("--first_seed", type=int, default=0, help="number of the first run")
    add("--max_train_steps", type=int, default=6000, help="of the generator; a BigGAN's discriminator has two in each")
    add("--architecture", choices=list(ARCHITECTURES), default="biggan", help="of both networks")
    add("--width", type=float, default=1.0, help="channels of both networks, relative to the bundled ones")
    add("--train_batch_size", type=int, default=32, help="images per step of a network")
    add("--validation_steps", type=int, default=500, help="steps between figures")
    add("--num_samples", type=int, default=2500, help="generated images that are measured")
    add("--mixed_precision", choices=["no", "bf16"], default="bf16", help="of networks; penalties stay float32")
    add("--smoke", action="store_true", help="tiny networks, at most 6 steps, 150 samples, 1 seed")
    args = parser.parse_args(input_args)
    if args.smoke:
        args.max_train_steps, args.validation_steps, args.num_samples = min(6, args.max_train_steps), 2, 150
        args.train_batch_size, args.seeds = 8, 1
    return args


def variants(args: argparse.Namespace) -> dict[str, tuple[list[int], dict[str, Any] | None]]:
    """Name -> quantized blocks and options.

    Raises:
        ValueError: An option without a value.
    """
    given = dict(part.partition("=")[::2] for part in args.options)
    common = (SMOKE if args.smoke else {}) | {name: number(value) for name, value in given.items()}
    empty = [name for name, value in given.items() if not value]
    if empty:
        raise ValueError(f"--options: {', '.join(empty)} has no value; write OPTION=VALUE.")
    every = {name: options and {**options, **common} for name, options in VARIANTS.items()}
    if not args.grid:
        return {name: (args.places, every[name]) for name in args.variants}
    base = every[args.grid_base]
    found: dict[str, tuple[list[int], dict[str, Any] | None]] = {"plain": (args.places, None)}
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


def number(text: str) -> bool | int | float | str:
    """The text as True, False or a number, if it is one."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class Figures:
    """Callable with a generator; gives FD, precision and recall, and the inception score by the bundled classifier."""

    def __init__(self, reference: str, num_samples: int):
        images, self.labels = load_reference(reference, resolution=32)
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
        """Frechet distance of every class, from twice the samples; few samples bias it, in the same way for every
        model.
        """
        features, labels = self.features(generator, 2 * self.num_samples)
        known = torch.isin(self.labels, labels)  # the training images may lack classes of the reference
        sides = {"real": torch.as_tensor(self.real)[known], "generated": features}
        sides |= {"real_labels": self.labels[known], "generated_labels": labels}
        return list(distances_per_class(**sides, allow_singular=True).values())


def networks(args: argparse.Namespace, channels: int, classes: int, seed: int):
    """Generator and discriminator of the bundled ones' shape."""
    set_seed(seed)
    width = args.width / 16 if args.smoke else args.width
    widths = tuple(int(width * c) for c in (128, 128, 64, 32))
    shared = {"image_channels": channels, "num_classes": classes, "resolution": 32}
    if args.architecture == "stylegan2":
        shared |= {"mapping_layers": 2, "channels": widths}
        generator = gz.StyleGAN2Generator(z_dim=128, w_dim=128, **shared)
        return generator, gz.StyleGAN2Discriminator(mbstd_group_size=4 if args.smoke else 8, **shared)
    shared |= {"init": "N02", "sn_eps": 1e-8}
    generator = gz.BigGANGenerator(z_dim=128, channels=widths, **shared)
    return generator, gz.BigGANDiscriminator(channels=widths[::-1], **shared)


def train(args: argparse.Namespace, places, options, seed: int, dataset, figures: Callable, folder: Path) -> dict:
    """Curve, per-class distances, usage of the codes and seconds of one run, which goes on where it stopped."""
    images, labels = dataset.tensors
    generator, discriminator = networks(args, images.shape[1], int(labels.max()) + 1, seed)
    block, training = ARCHITECTURES[args.architecture]
    paths = [block(i) for i in places] if options is not None else []
    if options is not None:
        gz.add_feature_quantizers(discriminator, dict.fromkeys(paths, gz.FQConfig(**options)))
    config = GANTrainingConfig(
        output_dir=str(folder),
        max_train_steps=args.max_train_steps,
        train_batch_size=args.train_batch_size,
        **training,
        mixed_precision=args.mixed_precision,
        seed=seed,
        checkpointing_steps=args.validation_steps,
        checkpoints_total_limit=1,
        logging_steps=10,
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

    record, made, begun = folder / "seconds.json", steps_made(folder), time.process_time()
    parts = json.loads(record.read_text()) if record.is_file() else []  # of the run: steps and CPU seconds
    try:
        average = train_gan(generator, discriminator, dataset, config, accelerator, validate)
    finally:
        if steps_made(folder) > made:
            parts.append([steps_made(folder) - made, time.process_time() - begun - sum(spent)])
            record.write_text(json.dumps(parts))
    rows = read_log(folder / "log.jsonl")
    average.save_pretrained(folder / "generator")
    found = {
        "curve": [figures_of(row) for row in read_log(folder / "figures.jsonl")],
        "per_class": figures.per_class(average),
        "steps": args.max_train_steps,
        "seconds": parts,
        "codes_in_use": {
            path: [[row["step"], row[f"codes_in_use/{path}"]] for row in rows if f"codes_in_use/{path}" in row]
            for path in paths
        },
    }
    if options is not None:
        found["usage"] = code_usage(discriminator)
        kept = torch.cat([(labels == label).nonzero()[:2, 0] for label in range(min(5, int(labels.max()) + 1))])
        generated, generated_labels = sample_images(average, 100, progress=False)
        same = torch.cat([(generated_labels == label).nonzero()[:2, 0] for label in labels[kept][::2]])
        save_code_maps(
            discriminator,
            paths[0],
            images[kept],
            generated[same],
            folder / "codes.png",
            real_labels=labels[kept],
            generated_labels=generated_labels[same],
        )
    return found


def steps_made(folder: Path) -> int:
    """Step of the last checkpoint."""
    return max((int(path.name.partition("-")[2]) for path in folder.glob("checkpoint-*")), default=0)


def unfinished(done: Path, steps: int) -> bool:
    """Whether a run, whose result is there or not, is to go on.

    Raises:
        ValueError: It has more steps.
    """
    made = json.loads(done.read_text())["steps"] if done.is_file() else 0
    if made > steps:
        raise ValueError(f"{done.parent} holds a run of {made} steps; --max_train_steps is {steps}.")
    return made < steps


def finished(report: Path, conditions: dict[str, Any]) -> dict[tuple[str, int], dict]:
    """Runs of a report with the same options, whose folders may be gone: (variant, seed) -> run.

    Raises:
        ValueError: The report is of other conditions.
    """
    runs = finished_runs(report, conditions, (*CONDITIONS, "places"))
    before = json.loads(report.read_text())["conditions"]["options"] if runs else {}
    now = json.loads(json.dumps(conditions["options"]))
    return {
        (run["variant"], run["seed"]): run
        for run in runs
        if run["steps"] == conditions["max_train_steps"] and before.get(run["variant"], ()) == now.get(run["variant"])
    }


def main(args: argparse.Namespace) -> None:
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    chosen = variants(args)
    dataset = load_images(args.images, resolution=32)
    figures = Figures(args.reference, args.num_samples)
    left_out = ("output_dir", "images", "variants", "seeds", "options")
    kept = {key: value for key, value in vars(args).items() if key not in left_out}
    kept |= {"threads": torch.get_num_threads(), "versions": versions(), "training_images": len(dataset)}
    kept["options"] = {name: options for name, (_, options) in chosen.items()}
    report = {"conditions": kept, "runs": []}
    runs = finished(output / "report.json", kept)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    wanted = [(name, seed) for seed in seeds for name in chosen]
    for name, seed in wanted:
        folder = output / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
        if folder.is_dir() or (name, seed) not in runs:
            (places, options), done = chosen[name], folder / "run.json"
            check_conditions(folder, {key: kept[key] for key in CONDITIONS} | {"places": places, "options": options})
            if unfinished(done, args.max_train_steps):
                done.write_text(json.dumps(train(args, places, options, seed, dataset, figures, folder)))
            runs[name, seed] = {"variant": name, "seed": seed, **json.loads(done.read_text()), "folder": folder.name}
        report["runs"] = [runs[each] for each in wanted if each in runs]
        (output / "report.json").write_text(json.dumps(report, indent=1))
        write_report(report, output)


if __name__ == "__main__":
    main(parse_args())
