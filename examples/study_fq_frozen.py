# SPDX-License-Identifier: Apache-2.0
"""What does a discriminator see through its codebooks? Train fresh discriminators, with and without feature
quantization, against a generator that stands still, and measure how well each tells its images from real ones.

    python examples/study_fq_frozen.py --output_dir frozen --images images-folder --generator fq/plain-0/generator

Variants are those of study_fq.py and, with --grid, combinations of its options, for example --grid num_codes=16,1024
--grid places=0,3. --shuffled is a control: features get errors of the same size, those of quantization shuffled among
positions, and so independent of the features. Figures are of images that were not trained on: the share of (real,
generated) pairs of which the real one has the larger logit (area under the ROC curve: 0.5 is blind, 1 perfect), and
the squared error of the quantized features relative to their variance at every place. Writes report.json, report.md
and auc.png; a run of the report under the same conditions is not repeated.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

import torch
from accelerate.utils import set_seed
from study_fq import ARCHITECTURES, VARIANTS, networks, variants

import hf_ganzip as gz
from hf_ganzip.assets import ASSETS, asset_path
from hf_ganzip.core.modes import evaluating
from hf_ganzip.core.record import versions
from hf_ganzip.core.reports import markdown_table
from hf_ganzip.evaluation.plotting import new_figure
from hf_ganzip.evaluation.sampling import sample_images
from hf_ganzip.evaluation.sources import load_reference
from hf_ganzip.images import load_images, to_model_range
from hf_ganzip.scripts.flags import make_parser
from hf_ganzip.studies.runs import spread, variants_of
from hf_ganzip.training.feature_quantization import update_codebooks_
from hf_ganzip.training.feature_quantizer import FeatureQuantizer, FeatureQuantizerOutput
from hf_ganzip.training.losses import LOSSES


CONDITIONS = (
    "reference",
    "generator",
    "width",
    "max_train_steps",
    "train_batch_size",
    "validation_steps",
    "num_samples",
)


def parse_args(input_args=None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--output_dir", required=True, help="report and picture")
    add("--images", required=True, help="labelled images: `datasets` id, parquet, folder of classes or idx files")
    add("--reference", default="fashion-mnist-test-5000", help="real images of the figures")
    add(
        "--generator",
        required=True,
        help="folder or bundled name of a class-conditional one, such as fq/plain-9/generator",
    )
    add("--grid", nargs="+", action="append", metavar="OPTION=A,B", help="variants, as in study_fq.py")
    add("--shuffled", nargs="+", default=[], metavar="PLACES", help="blocks of the control, such as 0+1+2+3 and 3")
    add("--places", nargs="+", type=int, default=[0, 1, 2, 3], help="blocks whose outputs are quantized")
    add("--width", type=float, default=1.0, help="channels, relative to the bundled BigGAN's discriminator")
    add("--seeds", type=int, default=3, help="runs of each variant")
    add("--max_train_steps", type=int, default=300, help="of the discriminator")
    add("--train_batch_size", type=int, default=32, help="real, and as many generated, images of a step")
    add("--validation_steps", type=int, default=50, help="steps between figures")
    add("--num_samples", type=int, default=500, help="real, and as many generated, images that are measured")
    add("--mixed_precision", choices=["no", "bf16"], default="bf16", help="of networks")
    add("--smoke", action="store_true", help="tiny networks, 4 steps, 20 images, 1 seed")
    args = parser.parse_args(input_args)
    args.architecture, args.variants, args.grid_base = "biggan", list(VARIANTS), "FQ, quantized"
    args.options = ["settle_steps=20", "warmup_steps=20", "anneal_steps=20"]
    if args.smoke:
        args.max_train_steps, args.validation_steps, args.num_samples, args.seeds = 4, 2, 20, 1
        args.train_batch_size, args.options = 8, []
    return args


def shuffle_errors(quantizer: FeatureQuantizer, inputs: tuple, output: FeatureQuantizerOutput):
    """What the quantizer would change, shuffled among all positions of the batch, as a forward hook."""
    (h,) = inputs
    rows = h.detach().movedim(1, -1)
    errors = (quantizer.embed[output.indices] - rows).flatten(0, 2)
    errors = errors[torch.randperm(len(errors))].view(rows.shape).movedim(-1, 1)
    return dataclasses.replace(output, output=h + errors.to(h.dtype) if quantizer.started else h)


@torch.no_grad()
def figures_of(discriminator, real, generated, labels) -> dict[str, float]:
    """Area under the ROC curve, and the relative error at every place."""
    found: dict[str, float] = {}

    def judge(place):
        def hook(quantizer, inputs, output):
            rows = inputs[0].movedim(1, -1).flatten(0, 2)
            error = (rows - quantizer.embed[output.indices.flatten()]).square().sum(dim=1).mean()
            found[place] = float(error / (rows - rows.mean(dim=0)).square().sum(dim=1).mean())

        return hook

    quantizers = {n: m for n, m in discriminator.named_modules() if isinstance(m, FeatureQuantizer)}
    hooks = [
        module.register_forward_hook(judge(name.split(".")[1].replace("/", ".")))
        for name, module in quantizers.items()
    ]
    with evaluating(discriminator):
        of_generated = discriminator(generated, labels).logits.flatten()
        of_real = discriminator(real, labels).logits.flatten()  # the errors of real images stay
    for hook in hooks:
        hook.remove()
    above = of_real[:, None] - of_generated[None]
    return {"auc": float(((above > 0) + 0.5 * (above == 0)).mean())} | found


def train(args: argparse.Namespace, places, options, seed: int, generator, dataset, held_out) -> list[dict]:
    """Figures of a fresh discriminator every ``validation_steps``."""
    images, labels = dataset.tensors
    discriminator = networks(args, images.shape[1], generator.config.num_classes, seed)[1]
    if options is not None:
        options = dict(options)
        shuffled = options.pop("shuffled", False)
        paths = [ARCHITECTURES[args.architecture][0](i) for i in places]
        gz.add_feature_quantizers(discriminator, dict.fromkeys(paths, gz.FQConfig(**options)))
        for quantizer in discriminator.codebooks.values() if shuffled else ():
            quantizer.register_forward_hook(shuffle_errors)
    optimizer = torch.optim.Adam(discriminator.parameters(), 4e-4, betas=(0.0, 0.999))
    discriminator_loss, _ = LOSSES["hinge"]
    random = torch.Generator().manual_seed(seed)
    set_seed(seed)
    curve = []
    for step in range(1, args.max_train_steps + 1):
        chosen = torch.randint(len(images), (args.train_batch_size,), generator=random)
        classes = labels[chosen]
        z = torch.randn(len(chosen), generator.config.z_dim, generator=random)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.mixed_precision == "bf16"):
            with torch.no_grad():
                generated = generator(z, classes).sample
            outputs = [discriminator(batch, classes) for batch in (generated, to_model_range(images[chosen]))][::-1]
        loss = discriminator_loss(*(output.logits for output in outputs))
        loss = loss + sum(o.quantization_loss.mean() for o in outputs if o.quantization_loss is not None)
        optimizer.zero_grad()
        loss.backward()
        update_codebooks_(discriminator)
        optimizer.step()
        if step % args.validation_steps == 0:
            seen = {"step": step, "images": step * args.train_batch_size}
            curve.append(seen | figures_of(discriminator, *held_out))
    return curve


def write_report(report: dict, output: Path) -> None:
    """report.md and auc.png."""
    conditions, runs = report["conditions"], report["runs"]
    curves = variants_of(runs)
    steps = [point["step"] for point in runs[0]["curve"]]
    places = sorted({name for run in runs for name in run["curve"][-1]} - {"step", "images", "auc"})
    rows = [["variant", "seeds", *(f"AUC, {step} steps" for step in steps), *(f"error, {place}" for place in places)]]
    for name, own in curves.items():
        cells = [spread(own, "auc", place) for place in range(len(steps))]
        rows.append([name, str(len(own)), *cells])
        rows[-1] += [spread(own, place) if place in own[0][-1] else "-" for place in places]
    lines = [
        "# What a discriminator sees through its codebooks",
        "",
        f"Fresh discriminators against {Path(conditions['generator']).name}, which stands still; mean and standard "
        "deviation over seeds. "
        f"AUC: share of {conditions['num_samples']} x {conditions['num_samples']} pairs of a real and a generated "
        "image in which the real one has the "
        "larger logit. Error: squared error of quantized features of real images, relative to their variance, at the "
        "end.",
        "",
        markdown_table(rows),
        "",
        "![Area under the ROC curve at the end, every seed and the mean](auc.png)",
        "",
        f"Conditions: {json.dumps(conditions)}",
        "",
    ]
    (output / "report.md").write_text("\n".join(lines))
    figure = new_figure(8, 1 + 0.3 * len(curves))
    axis = figure.subplots()
    for row, own in enumerate(curves.values()):
        values = [curve[-1]["auc"] for curve in own]
        axis.plot(values, [row] * len(own), "o", color="C0", alpha=0.5)
        axis.plot(statistics.mean(values), row, "|", color="C3", markersize=16, markeredgewidth=2)
    axis.axvline(0.5, color="grey", linestyle=":")
    axis.set(yticks=range(len(curves)), yticklabels=list(curves), xlabel=f"AUC after {steps[-1]} steps; dotted: blind")
    axis.invert_yaxis()
    figure.savefig(output / "auc.png", dpi=110)


def compared(args: argparse.Namespace, generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Real and generated images, as many of every class, and their classes."""
    generated, labels = sample_images(generator, args.num_samples, seed=1, progress=False)
    order = labels.argsort(stable=True)
    images, classes = load_reference(args.reference, resolution=32)
    real = [images[classes == label][: int((labels == label).sum())] for label in labels.unique()]
    return to_model_range(torch.cat(real)), to_model_range(generated[order]), labels[order]


def finished(path: Path, conditions: dict) -> dict[tuple[str, int], dict]:
    """Runs of a report that were made under the same conditions: (variant, seed) -> run."""
    report = json.loads(path.read_text()) if path.is_file() else {"conditions": {}, "runs": []}
    before, now = report["conditions"], json.loads(json.dumps(conditions))
    if any(before.get(name) != now[name] for name in CONDITIONS):
        return {}
    same = {name for name, chosen in now["options"].items() if before["options"].get(name) == chosen}
    return {(run["variant"], run["seed"]): run for run in report["runs"] if run["variant"] in same}


def main(args: argparse.Namespace) -> None:
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    dataset = load_images(args.images, resolution=32)
    generator = gz.load_model(asset_path(args.generator) if args.generator in ASSETS else args.generator)
    held_out = compared(args, generator)
    chosen = variants(args)
    for places in args.shuffled:
        options = chosen["FQ, quantized"][1] | {"feed": "continuous", "shuffled": True}
        chosen[f"errors shuffled, places {places}"] = [int(place) for place in places.split("+")], options
    conditions = {name: getattr(args, name) for name in CONDITIONS} | {"options": chosen}
    conditions |= {"threads": torch.get_num_threads(), "versions": versions()}
    known = finished(output / "report.json", conditions)
    report = {"conditions": conditions, "runs": []}
    for seed in range(args.seeds):
        for name, (places, options) in conditions["options"].items():
            run = known.get((name, seed))
            if run is None:
                curve = train(args, places, options, seed, generator, dataset, held_out)
                run = {"variant": name, "seed": seed, "curve": curve}
                print(f"{name}, seed {seed}: AUC {curve[-1]['auc']:.3f}", flush=True)
            report["runs"].append(run)
            (output / "report.json").write_text(json.dumps(report, indent=1))
            write_report(report, output)


if __name__ == "__main__":
    main(parse_args())
