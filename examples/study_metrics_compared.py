# SPDX-License-Identifier: Apache-2.0
"""Show what every metric sees: the same sets of real images, spoilt in one way each, measured by all of them.

    python examples/study_metrics_compared.py --images /usr/share/datasets/fashion-mnist --split train --docs
    docs/metrics-compared.md

Real Fashion-MNIST images (Debian's package dataset-fashion-mnist, or the bundled 5,000) on the bundled features (128
dimensions), and images of the bundled generator. Every set is drawn several times; a change counts as seen if it is
larger than three standard deviations of fresh real images. Writes a picture into OUTPUT_DIR and one Markdown section,
into the marked place of --docs or to the screen.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_ganzip.evaluation import extract_features, load_reference
from hf_ganzip.evaluation.eval_results import QUALITY
from hf_ganzip.evaluation.plotting import new_figure
from hf_ganzip.evaluation.sampling import sample_images
from hf_ganzip.integration.opening import load_model
from hf_ganzip.metrics import METRICS
from hf_ganzip.quantization import QuantizeConfig, quantize_
from hf_ganzip.scripts.flags import make_parser
from hf_ganzip.scripts.studies import publish_section


SEEN = 3  # standard deviations
LOWER_IS_BETTER = {"frechet_distance", "kernel_distance", "monge_distance", "gaussian_kernel_distance"}
OPTIONS = {"frechet_distance": {"allow_singular": True}, "kernel_distance": {"subset_size": None}}
Sides = tuple[Tensor, Tensor]


def parse_args(input_args=None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--images",
        default="fashion-mnist-test-5000",
        help="real images with labels: bundled name, folder of idx files",
    )
    add("--split", default="test", help="of a folder of idx files: train or test")
    add("--docs", type=Path, help="Markdown file with the two marks between which the section is written")
    add("--output_dir", type=Path, default=Path("docs/images"), help="for the picture")
    add("--num_samples", type=int, default=1000, help="images of each side; five times as many are needed")
    add("--seeds", type=int, default=3, help="draws of every set")
    add("--smoke", action="store_true", help="100 images, two draws")
    args = parser.parse_args(input_args)
    if args.smoke:
        args.num_samples, args.seeds = 100, 2
    return args


class Pool:
    """Real images (uint8) and labels, shuffled by a seed: the first n are the reference, the next n fresh ones."""

    def __init__(self, images: Tensor, labels: Tensor, n: int, seed: int):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        self.images, self.labels, self.n, self.seed = images[order], labels[order], n, seed
        self.reference, self.fresh = self.images[:n], self.images[n : 2 * n]

    def half_of_the_classes(self) -> Tensor:
        rest, labels = self.images[self.n :], self.labels[self.n :]
        return rest[labels < 5][: self.n]

    def ten_images(self) -> Tensor:
        """One of each class, again and again, with a little noise."""
        chosen = torch.stack([self.images[self.n :][self.labels[self.n :] == label][0] for label in range(10)])
        many = chosen.repeat(-(-self.n // 10), 1, 1, 1)[: self.n].float()
        return (many + 4 * torch.randn(many.shape, generator=self._random())).clamp(0, 255).byte()

    def noise(self, count: int) -> Tensor:
        return torch.randint(0, 256, (count, *self.images.shape[1:]), generator=self._random(), dtype=torch.uint8)

    def _random(self) -> torch.Generator:
        return torch.Generator().manual_seed(1000 + self.seed)


def blurred(images: Tensor) -> Tensor:
    return F.avg_pool2d(images.float(), 3, 1, 1).round().byte()


def cases(generators: dict[str, Tensor]) -> dict[str, Callable[[Pool], Sides]]:
    """Name -> images of the reference and of the "generated" side."""
    few = 20  # one in twenty
    found: dict[str, Callable[[Pool], Sides]] = {
        "fresh real images": lambda p: (p.reference, p.fresh),
        "5 of 10 classes": lambda p: (p.reference, p.half_of_the_classes()),
        "10 images, noise": lambda p: (p.reference, p.ten_images()),
        "copies": lambda p: (p.reference, p.reference),
        "a tenth, 10 copies each": lambda p: (p.reference, p.reference[: p.n // 10].repeat(10, 1, 1, 1)),
        "blurred": lambda p: (p.reference, blurred(p.fresh)),
        "5 % noise": lambda p: (p.reference, torch.cat([p.fresh[p.n // few :], p.noise(p.n // few)])),
        "5 % noise in the reference": lambda p: (torch.cat([p.reference[p.n // few :], p.noise(p.n // few)]), p.fresh),
        "a tenth of the samples": lambda p: (p.reference, p.fresh[: p.n // 10]),
    }
    for name, images in generators.items():
        found[name] = lambda p, images=images: (p.reference, images[p.seed * p.n : (p.seed + 1) * p.n])
    return found


def figures(real: Tensor, generated: Tensor) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, metric in METRICS.items():
        found |= metric(real=real, generated=generated, **OPTIONS.get(name, {}))
    return {name: found[name] for name in QUALITY}


def measure(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Case -> figure -> its values over the draws."""
    images, labels = load_reference(args.images, split=args.split)
    if len(images) < 5 * args.num_samples:
        raise ValueError(
            f"--num_samples {args.num_samples} needs {5 * args.num_samples} images, {args.images} has {len(images)}."
        )
    labels, images = labels[: 10 * args.num_samples], images[: 10 * args.num_samples]
    generators = {}
    for name, bits in (("StyleGAN2", None), ("StyleGAN2, 3 bits (Q)", 3)):
        generator = load_model("stylegan2-fashion-mnist")
        if bits:
            quantize_(generator, QuantizeConfig(method="linear", bits=bits))
        generators[name], _ = sample_images(generator, args.num_samples * args.seeds, progress=False)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(args.seeds):
        pool = Pool(images, labels, args.num_samples, seed)
        for name, sides in cases(generators).items():
            features = (extract_features(side, progress=False) for side in sides(pool))
            for figure, value in figures(*features).items():
                found.setdefault(name, {}).setdefault(figure, []).append(value)
    return found


def change(figure: str, values: list[float], fresh: list[float]) -> float:
    """Difference of the means in standard deviations of fresh images, positive for better."""
    difference = statistics.mean(values) - statistics.mean(fresh)
    return (-1 if figure in LOWER_IS_BETTER else 1) * difference / max(statistics.stdev(fresh), 1e-12)


def table(found: dict[str, dict[str, list[float]]]) -> str:
    fresh = found["fresh real images"]
    lines = ["| | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    for figure, title in QUALITY.items():
        cells = []
        for name, values in found.items():
            text = f"{statistics.mean(values[figure]):.3g}"
            if name == "fresh real images":
                text += f" ± {statistics.stdev(fresh[figure]):.1g}"
            else:
                seen = change(figure, values[figure], fresh[figure])
                text = f"**{text}**" if seen < -SEEN else f"*{text}*" if seen > SEEN else text
            cells.append(text)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Colours: how many standard deviations of fresh images, at most 20, worse (red) or better (blue)."""
    fresh, names = found["fresh real images"], [name for name in found if name != "fresh real images"]
    grid = [[change(figure, found[name][figure], fresh[figure]) for name in names] for figure in QUALITY]
    figure = new_figure(10, 7.5)
    axes = figure.subplots()
    picture = axes.imshow(grid, cmap="RdBu", vmin=-20, vmax=20, aspect="auto")
    axes.set_yticks(range(len(QUALITY)), list(QUALITY.values()))
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    figure.colorbar(picture, label="change in standard deviations of fresh images; red: worse")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main(args: argparse.Namespace) -> None:
    found = measure(args)
    draw(found, args.output_dir / "metrics_compared.png")
    text = (
        f"Generated by `python examples/study_metrics_compared.py --images {args.images} --split {args.split}`: "
        f"{args.num_samples:,} images of each side, means of {args.seeds} "
        "draws; behind the first column the standard deviation over the draws. **Bold**: worse than fresh real images "
        f"by more than {SEEN} of those deviations; *italic*: better by as much; "
        "plain: not seen.\n\n" + table(found)
    )
    publish_section(text, args.docs)


if __name__ == "__main__":
    main(parse_args())
