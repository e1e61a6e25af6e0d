# SPDX-License-Identifier: Apache-2.0
"""The ``hf-ganzip`` command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


app = typer.Typer(
    help="Make image generators small, and say what that cost.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

Model = Annotated[str, typer.Argument(help="Model folder, Hub id, or the bundled stylegan2-fashion-mnist.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else to standard output.")]
Seed = Annotated[int, typer.Option(help="Image i is drawn from (seed, i).")]


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(help="Pictures, results.json and one compressed model go here.")] = Path(
        "demo_output"
    ),
    num_samples: Annotated[int, typer.Option(min=200, max=5000, help="Generated and real images per setting.")] = 5000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Quantize the bundled Fashion-MNIST generator by Q and C+Q at 6 to 2 bits and measure each against real images."""
    from .demo import DemoConfig, format_table, run_demo

    result = run_demo(DemoConfig(output_dir=str(output_dir), num_samples=num_samples, seed=seed))
    if as_json:
        return _print_json(result)
    conditions, saved = result["conditions"], result["saved_model"]
    print(format_table(result["rows"]))
    print(
        f"\n{conditions['n_generated']} generated against {conditions['n_real']} real images; features "
        f"{conditions['extractor']} {conditions['extractor_digest'][:12]}; {conditions['num_hyperplanes']} hyperplanes, "
        f"mean of {conditions['draws']} draws, k = {conditions['k']}, seed {conditions['seed']}; FD: Frechet distance of "
        f"the features; KiB: all tensors of the model."
    )
    print(
        f"{saved['folder']}: {saved['method']} at {saved['bits']} bits, {saved['file_bytes']:,} bytes, reloaded bit-exactly."
    )
    print(
        f"Pictures: {output_dir}/samples.png, mean_images.png, precision_recall.png. {result['seconds']:.0f} s in all."
    )


@app.command()
def compress(
    model: Model,
    output_dir: Annotated[Path, typer.Argument(help="Folder for the compressed model.")],
    method: Annotated[str, typer.Option(help="linear (Q) or aciq (C+Q).")] = "aciq",
    bits: Annotated[int, typer.Option(help="2 to 8.")] = 4,
    granularity: Annotated[str, typer.Option(help="One scale per tensor or per channel.")] = "tensor",
    skip: Annotated[list[str] | None, typer.Option(help="Pattern of layers to leave alone; repeatable.")] = None,
    last_block: Annotated[bool, typer.Option("--last-block", help="Quantize the last block too.")] = False,
    as_json: Json = False,
) -> None:
    """Quantize a model and save it; plain from_pretrained restores it once hf_ganzip is imported."""
    from .recipes import compress as run

    recipe = {"step": "quantize", "method": method, "bits": bits, "granularity": granularity}
    recipe |= {"skip": tuple(skip or ()), "skip_last_block": not last_block}
    if output_dir.exists() and any(output_dir.iterdir()):
        raise ValueError(f"{output_dir} is not empty; choose a new folder.")
    compressed, (report,) = run(_open(model), [recipe])
    compressed.save_pretrained(output_dir)
    if as_json:
        return _print_json(report.to_dict())
    print(report)
    print(f"saved to {output_dir}")


@app.command()
def sample(
    model: Model,
    output: Annotated[Path, typer.Argument(help="PNG file for a grid, or folder for one PNG per image.")],
    num_samples: Annotated[int, typer.Option(min=1, help="Number of images.")] = 64,
    seed: Seed = 0,
    truncation_psi: Annotated[float, typer.Option(help="1 = no truncation.")] = 1.0,
    class_label: Annotated[int | None, typer.Option(help="One class for all; default: all classes in turn.")] = None,
) -> None:
    """Sample images from a GAN generator."""
    from .evaluation.sampling import sample_images
    from .plotting import image_grid, save_image_grid

    images, _ = sample_images(
        _open(model), num_samples, seed=seed, truncation_psi=truncation_psi, class_label=class_label
    )
    if output.suffix == ".png":
        output.parent.mkdir(parents=True, exist_ok=True)
        save_image_grid(images, output, columns=min(10, num_samples))
    else:
        output.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            image_grid(image[None], 1, padding=0, scale=1).save(output / f"{i:06d}.png")
    print(f"{num_samples} images written to {output}")


@app.command()
def evaluate(
    real: Annotated[
        str,
        typer.Argument(
            help="Real images or features: bundled name, folder, parquet, .npy, .safetensors, datasets id."
        ),
    ],
    generated: Annotated[
        str, typer.Argument(help="The same of generated ones, or a model: folder, bundled name, model:HUB_ID.")
    ],
    metrics: Annotated[list[str] | None, typer.Option(help="Metric name; repeatable.")] = None,
    extractor: Annotated[
        str, typer.Option(help="fashion_mnist, vgg16, inception_v3, dinov2, clip, or NAME:WEIGHTS.")
    ] = ("fashion_mnist"),
    num_samples: Annotated[int, typer.Option(min=2, help="Images that a model is asked for.")] = 5000,
    seed: Seed = 0,
    truncation_psi: Annotated[float, typer.Option(help="Of a model; 1 = no truncation.")] = 1.0,
    k: Annotated[int | None, typer.Option(help="Neighbour that sets the radius; default: 3, density 5.")] = None,
    num_hyperplanes: Annotated[int | None, typer.Option(help="LSH; default: floor(log2(real + generated)).")] = None,
    draws: Annotated[int | None, typer.Option(help="LSH; default 10.")] = None,
    cache: Annotated[bool, typer.Option(help="Keep features of images on disk (HF_GANZIP_CACHE).")] = True,
    as_json: Json = False,
) -> None:
    """Compare generated images, features or a generator with real ones."""
    from .evaluation.cache import FeatureCache
    from .evaluation.evaluate import DEFAULT_METRICS
    from .evaluation.evaluate import evaluate as run

    chosen = {"k": k, "num_hyperplanes": num_hyperplanes, "draws": draws}
    options = {name: value for name, value in chosen.items() if value is not None} | {"truncation_psi": truncation_psi}
    report = run(
        generated,
        real,
        metrics=tuple(metrics or DEFAULT_METRICS),
        num_samples=num_samples,
        seed=seed,
        extractor=extractor,
        options=options | {"cache": FeatureCache() if cache else None},
    )
    _print_json(report.to_dict()) if as_json else print(report)


@app.command()
def info(model: Model, as_json: Json = False) -> None:
    """Show the config of a model, what was done to it, and the bytes of every packed layer."""
    from .inspection import describe, format_description

    description = describe(_folder(model))
    _print_json(description) if as_json else print(format_description(description))


metrics_app = typer.Typer(
    help="The metrics of this package as modules of the `evaluate` library.", no_args_is_help=True
)
app.add_typer(metrics_app, name="metrics")


@metrics_app.command()
def install(as_json: Json = False) -> None:
    """Make evaluate.load("lsh_precision_recall") and the others work by their bare names, from any folder, offline too."""
    from .evaluation.install_metrics import install_metrics

    installed = {name: str(folder) for name, folder in install_metrics().items()}
    if as_json:
        return _print_json(installed)
    for name, folder in installed.items():
        print(f'evaluate.load("{name}")  {folder}')


@metrics_app.command("list")
def list_metrics(as_json: Json = False) -> None:
    """List the modules and their folders, each of which evaluate.load takes as it is."""
    from .evaluation.install_metrics import metric_folders

    folders = {name: str(folder) for name, folder in metric_folders().items()}
    if as_json:
        return _print_json(folders)
    for name, folder in folders.items():
        print(f"{name}  {folder}")


def _folder(model: str) -> str | Path:
    """Bundled names become folders; anything else stays."""
    from .assets import ASSETS, asset_path

    return asset_path(model) if model in ASSETS and not Path(model).is_dir() else model


def _open(model: str) -> Any:
    from .recipes import load_model

    return load_model(_folder(model))


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def main() -> None:
    """Entry point: errors that the user can mend are one line on standard error, exit code 1."""
    try:
        app()
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        print(f"hf-ganzip: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
