# SPDX-License-Identifier: Apache-2.0
"""Are LSH precision and recall robust against outliers? Real images of another kind (digits) go among clothes, in
features of 1,536 to 4,096 dimensions.

    python examples/study_lsh_outliers.py --output_dir lsh-outliers

Reference and "ideal generator" are disjoint parts of the bundled real images; the generators are the bundled
ones, one that lost half of its classes, and the StyleGAN2 with weights of 4, 3 and 2 bits, which is the paper's
subject. Everything is drawn anew for every seed: the parts, the samples, the outliers, the hyperplanes. Runs go
seed by seed, kind of features by kind; an interrupted study goes on where it stopped. Writes report.json (every
value), report.md and outliers.png. Needs scikit-learn for its digits; --outliers takes other images.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hf_ganzip as gz
from hf_ganzip.assets import asset_path
from hf_ganzip.core.record import versions
from hf_ganzip.evaluation import extract_features, load_reference
from hf_ganzip.evaluation.sampling import sample_images
from hf_ganzip.images import to_model_range
from hf_ganzip.metrics.hyperplanes import default_hyperplanes
from hf_ganzip.models.feature_network import FeatureNetwork
from hf_ganzip.scripts.flags import make_parser
from hf_ganzip.scripts.studies import check_conditions
from hf_ganzip.studies.outlier_drift import PLACES, geometry_of, with_outliers
from hf_ganzip.studies.outlier_report import save_drift_plot, study_report
from hf_ganzip.studies.pooled_scores import Pool, PooledScores, keys_of


SHARES = (0.001, 0.005, 0.01, 0.02, 0.05)
GENERATORS = (
    "real images",
    "StyleGAN2",
    "BigGAN",
    "StyleGAN2, 4 bits",
    "StyleGAN2, 3 bits",
    "StyleGAN2, half the classes",
    "StyleGAN2, 2 bits",
)


def parse_args(input_args=None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--output_dir", required=True, help="report, picture and runs")
    add("--outliers", default="digits", help='grey images: "digits" (of scikit-learn), or a source as for evaluation')
    add("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="features that are measured")
    add("--num_samples", type=int, default=1000, help="images of each side, at most 2500")
    add("--seeds", type=int, default=5, help="repetitions")
    add("--draws", type=int, default=3, help="draws of the hyperplanes in each repetition")
    add("--smoke", action="store_true", help="60 images, 2 shares, 2 kinds of features, 1 seed")
    args = parser.parse_args(input_args)
    args.shares = list(SHARES)
    if args.smoke:
        args.num_samples, args.seeds, args.draws, args.shares = 60, 1, 2, [0.02, 0.05]
        args.kinds = ["classifier", "random, 4096"]
    if not 10 <= args.num_samples <= 2500:
        parser.error(f"--num_samples is {args.num_samples}; allowed are 10 to 2500, half of the bundled images.")
    return args


def on_canvas(images: Tensor) -> Tensor:
    """Images uint8 (B, 1, H, H), H <= 32, as floats (B, 1, 32, 32) in [-1, 1]: centred on black."""
    canvas = torch.zeros(len(images), 1, 32, 32, dtype=torch.uint8)
    start = (32 - images.shape[-1]) // 2
    canvas[:, :, start : start + images.shape[-1], start : start + images.shape[-1]] = images
    return to_model_range(canvas)


def classifier() -> Callable[[Tensor], Tensor]:
    """Last feature map of the bundled classifier, after ReLU and pooling: 96 x 4 x 4."""
    network = FeatureNetwork.from_pretrained(asset_path("fashion-mnist-features")).eval()
    return lambda images: network.features(on_canvas(images)).flatten(1)


def discriminator() -> Callable[[Tensor], Tensor]:
    """What the last layers of the bundled StyleGAN2's discriminator get: 128 x 4 x 4, of both signs."""
    network = gz.StyleGAN2Discriminator.from_pretrained("stylegan2-fashion-mnist-discriminator").eval()

    def extract(images: Tensor) -> Tensor:
        x, image = None, on_canvas(images)
        for size in network.block_resolutions:
            x, image = getattr(network, f"b{size}")(x, image)
        return x.flatten(1)

    return extract


def normalized_discriminator() -> Callable[[Tensor], Tensor]:
    """The same as unit vectors."""
    extract = discriminator()
    return lambda images: nn.functional.normalize(extract(images))


def random_convolutions() -> Callable[[Tensor], Tensor]:
    """Two random convolutions with ReLU, averaged to 256 x 4 x 4: as many dimensions as fc2 of VGG-16, and as there no
    value below 0.
    """
    layers = [nn.Conv2d(1, 64, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(64, 256, 3, stride=2, padding=1)]
    network = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(4))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.weight.normal_(0, (2 / layer.weight[0].numel()) ** 0.5, generator=random)
            layer.bias.normal_(0, 0.1, generator=random)
    return lambda images: network(on_canvas(images)).flatten(1)


KINDS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "classifier": classifier,
    "discriminator": discriminator,
    "discriminator, normalized": normalized_discriminator,
    "random, 4096": random_convolutions,
}


def strange_images(source: str) -> Tensor:
    """Outliers uint8 (N, 1, H, H), H <= 32; scikit-learn's digits are enlarged from 8 x 8 to the 28 x 28 of the
    clothes.

    Raises:
        ImportError: scikit-learn is missing.
    """
    if source != "digits":
        return load_reference(source, resolution=28)[0]
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("The digits are scikit-learn's: pip install scikit-learn, or give --outliers.") from error
    digits = torch.from_numpy(load_digits().images).float()[:, None] * 255 / 16
    enlarged = nn.functional.interpolate(digits, size=28, mode="bicubic", align_corners=False)
    return enlarged.round().clamp(0, 255).to(torch.uint8)


def generated_images(num_samples: int, seed: int) -> dict[str, Tensor]:
    """Images of every generator but the ideal one; compressed ones by the paper's C+Q in its setting."""
    options: dict[str, Any] = {"seed": seed, "progress": False}
    found = {}
    for name in GENERATORS[1:]:
        model: Any = gz.load_model("biggan-fashion-mnist" if name == "BigGAN" else "stylegan2-fashion-mnist").eval()
        if name.endswith("bits"):
            gz.quantize_(model, gz.QuantizeConfig("aciq", bits=int(name.split()[-2])))
        if name.endswith("classes"):
            counts = [(num_samples + 4 - label) // 5 for label in range(5)]
            parts = [
                sample_images(model, count, first=label * num_samples, class_label=label, **options)[0]
                for label, count in enumerate(counts)
            ]
            found[name] = torch.cat(parts)
        else:
            found[name] = sample_images(model, num_samples, **options)[0]
    return found


def measure(
    reference: Tensor, sets: Mapping[str, Tensor], strange: Tensor, seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Values of every generator without outliers, and with every share of them in every place; what the outliers are
    like.
    """
    count, random = len(reference), torch.Generator().manual_seed(seed)
    counts = [max(1, round(share * count)) for share in args.shares]
    chosen = strange[torch.randperm(len(strange), generator=random)].split(max(counts))[:2]  # no image is in both sets
    orders = [torch.randperm(count, generator=random) for _ in range(2)]
    options = {"num_hyperplanes": default_hyperplanes(2 * count), "draws": args.draws, "seed": 1000 * seed}

    def pool(features: Tensor, outliers: Tensor) -> Pool:
        features = torch.cat([features, outliers])
        return Pool(features, keys_of(features, reference.mean(dim=0), **options))

    real = pool(reference, chosen[0])
    real_balls = [real.balls(with_outliers(orders[0], each)) for each in (0, *counts)]
    found: dict[str, Any] = {"clean": {}, **{place: {str(c / count): {} for c in counts} for place in PLACES}}
    distances = {}
    for name, features in sets.items():
        generated = pool(features, chosen[1])
        scores = PooledScores(real, generated)
        distances[name] = scores.distances[:, :count]
        balls = [generated.balls(with_outliers(orders[1], each)) for each in (0, *counts)]
        found["clean"][name] = scores(real_balls[0], balls[0])
        for each, dirty_real, dirty in zip(counts, real_balls[1:], balls[1:]):
            pairs = (dirty_real, balls[0]), (real_balls[0], dirty), (dirty_real, dirty)
            for place, pair in zip(PLACES, pairs):
                found[place][str(each / count)][name] = scores(*pair)
    found["geometry"] = {
        str(each / count): geometry_of(real, balls, distances, count) for each, balls in zip(counts, real_balls[1:])
    }
    return found


def main(args: argparse.Namespace) -> None:
    output = Path(args.output_dir)
    conditions = {key: getattr(args, key) for key in ("outliers", "num_samples", "draws", "shares")}
    check_conditions(output, conditions)
    clothes, strange = load_reference("fashion-mnist-test-5000")[0], strange_images(args.outliers)
    runs = []
    for seed in range(args.seeds):
        missing = [kind for kind in args.kinds if not run_file(output, kind, seed).is_file()]
        images = generated_images(args.num_samples, seed) if missing else {}
        order = torch.randperm(len(clothes), generator=torch.Generator().manual_seed(seed))
        halves = [clothes[order[: args.num_samples]], clothes[order[args.num_samples : 2 * args.num_samples]]]
        for kind in args.kinds:
            path = run_file(output, kind, seed)
            if kind in missing:
                with torch.no_grad():
                    extract = KINDS[kind]()
                    reference, *sets = (
                        extract_features(each, extract, progress=False) for each in (*halves, *images.values())
                    )
                    strangers = extract_features(strange, extract, progress=False)
                values = measure(reference, dict(zip(GENERATORS, sets)), strangers, seed, args)
                run = {"kind": kind, "seed": seed, "dim": reference.shape[1], "num_samples": args.num_samples}
                run |= values
                path.write_text(json.dumps(run))
                print(f"{kind}, seed {seed}: measured", flush=True)
            runs.append(json.loads(path.read_text()))
            report = {"conditions": conditions | {"versions": versions()}, "runs": runs}
            short = json.loads(json.dumps(report), parse_float=lambda text: round(float(text), 5))
            (output / "report.json").write_text(json.dumps(short))
    (output / "report.md").write_text(study_report(runs, conditions), encoding="utf-8")
    save_drift_plot(runs, output / "outliers.png")


def run_file(output: Path, kind: str, seed: int) -> Path:
    return output / f"{kind.replace(', ', '-')}-{seed}.json"


if __name__ == "__main__":
    main(parse_args())
