# SPDX-License-Identifier: Apache-2.0
"""Commands that measure images: evaluate, metrics."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import completion, flags
from .shared import app, parse_options, show


@app.command()
def evaluate(
    real: Annotated[
        str,
        typer.Argument(
            help="Real images or features: bundled name, folder, parquet, .npy, .safetensors, datasets id.",
            autocompletion=completion.sources,
        ),
    ],
    generated: Annotated[
        str,
        typer.Argument(
            help="The same of generated ones, or a model: folder, bundled name, model:HUB_ID.",
            autocompletion=completion.sources,
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Metric name, or fid, kid, fd_dinov2, cmmd, mind, is, prdc, vendi ..., or METRIC@EXTRACTOR; "
            "repeatable; default: precision and recall by LSH and KNN, Frechet distance.",
            autocompletion=completion.measured,
        ),
    ] = None,
    extractor: flags.Extractor = None,
    resolution: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Cut the images of both sides to their centred square and resize it to this side (bicubic, "
            "antialiased) first; default: each image as it is, resized by the extractor.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Of a datasets id, or of a folder that has one of this name.")] = "test",
    num_samples: Annotated[int, typer.Option(min=2, help="Images that a model is asked for.")] = 5000,
    seed: flags.Seed = 0,
    truncation_psi: Annotated[float | None, typer.Option(help="Of a GAN; default: 1, no truncation.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Of DDIM, for a diffusion model; default: 50.")
    ] = None,
    clip_sample: Annotated[
        bool, typer.Option("--clip-sample", help="For a diffusion model: clip predicted images in every step.")
    ] = False,
    k: Annotated[int | None, typer.Option(help="Neighbour that sets the radius; default: 3, density 5.")] = None,
    num_hyperplanes: Annotated[int | None, typer.Option(help="LSH; default: floor(log2(real + generated)).")] = None,
    draws: Annotated[int | None, typer.Option(help="LSH; default 10.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="Option of the metrics, NAME=VALUE, or of one, METRIC.NAME=VALUE; repeatable. For example knn.k=5."
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per forward pass; default: 100 of a model, 256 of the extractor.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Of the extractor and of a model: cpu, cuda, cuda:1 ...; default: cpu.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
    eval_results: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the model: write .eval_results/*.yaml there, as the Hub reads them; REAL must be a "
            "datasets id."
        ),
    ] = None,
    cache: Annotated[bool, typer.Option(help="Keep features of images on disk (HF_GANZIP_CACHE).")] = True,
    as_json: flags.Json = False,
) -> None:
    """Compare generated images, features or a generator with real ones.

    A metric that cannot be computed leaves the others; the exit code is 1 if it was asked for by --metric.
    """
    from ..evaluation.cache import FeatureCache
    from ..evaluation.eval_results import write_eval_results
    from ..evaluation.evaluate import DEFAULT_METRICS
    from ..evaluation.evaluate import evaluate as run

    given = {"k": k, "num_hyperplanes": num_hyperplanes, "draws": draws, "split": split, "resolution": resolution}
    given |= {"truncation_psi": truncation_psi, "steps": steps, "clip_sample": clip_sample or None, "device": device}
    given |= {"cache": FeatureCache() if cache else None, "progress": not quiet, "batch_size": batch_size}
    chosen = {name: value for name, value in given.items() if value is not None}
    of_metrics = parse_options(option or ())
    if twice := sorted(chosen.keys() & of_metrics.keys()):
        raise typer.BadParameter(f"{', '.join(twice)} is given both as an option of its own and by --option.")
    if eval_results is not None and (Path(real).exists() or real.count("/") != 1):
        raise ValueError(f"--eval-results: {real} is no dataset of the Hub, to which results could belong.")
    if quiet:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()  # of downloads, and of transformers
    report = run(
        generated,
        real,
        metrics=tuple(metric or DEFAULT_METRICS),
        num_samples=num_samples,
        seed=seed,
        extractor=extractor,
        options=chosen | of_metrics,
    )
    show(report.to_dict(), report, as_json)
    if eval_results is not None:
        write_eval_results([report.to_dict()], eval_results)
    if metric and report.failures:
        print(f"hf-ganzip: not computed: {', '.join(report.failures)}", file=sys.stderr)
        raise typer.Exit(1)


metrics_app = typer.Typer(
    help="The metrics of this package as modules of the `evaluate` library.", no_args_is_help=True
)
app.add_typer(metrics_app, name="metrics")


@metrics_app.command()
def install(as_json: flags.Json = False) -> None:
    """Make evaluate.load("lsh_precision_recall") and the others work by their bare names, from any folder, offline
    too.
    """
    from ..evaluate_modules.install import install_metrics

    installed = {name: str(folder) for name, folder in install_metrics().items()}
    show(installed, "\n".join(f'evaluate.load("{name}")  {folder}' for name, folder in installed.items()), as_json)


@metrics_app.command("list")
def list_metrics(as_json: flags.Json = False) -> None:
    """List the modules and their folders, each of which evaluate.load takes as it is."""
    from ..core.shipped import metric_folders

    folders = {name: str(folder) for name, folder in metric_folders().items()}
    show(folders, "\n".join(f"{name}  {folder}" for name, folder in folders.items()), as_json)


@metrics_app.command("push")
def push_metrics(
    namespace: Annotated[str, typer.Argument(help="User or organization on the Hub.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Name of a module; repeatable; default: all.", autocompletion=completion.metrics),
    ] = None,
    repository: Annotated[str | None, typer.Option(help="Address of the source, which the Spaces link.")] = None,
    private: Annotated[bool, typer.Option("--private/--public", help="Of Spaces that are created.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open pull requests instead of committing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files; send nothing.")] = False,
    as_json: flags.Json = False,
) -> None:
    """Upload the modules as Spaces, for evaluate.load("NAMESPACE/NAME"), with the wheel of this package beside each."""
    from ..publishing.spaces import push_metrics as run

    found = run(namespace, metric, repository=repository, private=private, create_pr=create_pr, dry_run=dry_run)
    places = {name: entry["url"] or ", ".join(entry["files"]) for name, entry in found.items()}
    show(found, "\n".join(f'evaluate.load("{name}")  {place}' for name, place in places.items()), as_json)
