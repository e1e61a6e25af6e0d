# SPDX-License-Identifier: Apache-2.0
"""The ``hf-ganzip`` command."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
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
def cost(
    model: Model,
    reference: Annotated[
        str | None, typer.Option(help="Model to compare with: folder, Hub id or bundled name.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed forward passes of each.")] = 7,
    memory: Annotated[bool, typer.Option(help="Also measure the peak memory, in fresh processes.")] = True,
    as_json: Json = False,
) -> None:
    """Measure parameters, MACs, bytes on disk, peak memory and latency on this machine."""
    from .evaluation.cost import measure_cost

    other = None if reference is None else _open(reference)
    report = measure_cost(_open(model), other, repeats=repeats, memory=memory)
    _print_json(report.to_dict()) if as_json else print(report)


@app.command()
def sensitivity(
    model: Model,
    bits: Annotated[list[int] | None, typer.Option(help="Bits to try; repeatable; default 2 3 4 6 8.")] = None,
    method: Annotated[
        str, typer.Option(help="Method; calibrated ones are measured by what they start from.")
    ] = "codebook",
    granularity: Annotated[str, typer.Option(help="tensor, channel or group.")] = "channel",
    mean_bits: Annotated[
        float | None,
        typer.Option(help="Also propose bits for every layer within this mean of stored bits per weight."),
    ] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Samples in the comparison.")] = 32,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a picture.")] = None,
    as_json: Json = False,
) -> None:
    """Quantize one layer at a time and measure how far the output moves, without data."""
    from .quantization import QuantizeConfig
    from .quantization import sensitivity as run

    config = QuantizeConfig(method=method, granularity=granularity)
    report = run(_open(model), tuple(bits or (2, 3, 4, 6, 8)), config=config, num_samples=num_samples)
    overrides = report.allocate(mean_bits=mean_bits) if mean_bits is not None else None
    if plot is not None:
        from .plotting import save_sensitivity_plot

        plot.parent.mkdir(parents=True, exist_ok=True)
        save_sensitivity_plot(report, plot)
    if as_json:
        return _print_json(report.to_dict() | {"overrides": overrides})
    print(report)
    if overrides is not None:
        print(f"overrides for a mean of {mean_bits} bits:")
        print(json.dumps(overrides, indent=1))


@app.command()
def compress(
    model: Model,
    output_dir: Annotated[Path, typer.Argument(help="Folder for the compressed model.")],
    method: Annotated[
        str,
        typer.Option(
            help="linear (Q), monte_carlo (P+Q), outlier_splitting (S+Q), aciq (C+Q), mse_clip, codebook, gptq or latent_distill."
        ),
    ] = "aciq",
    bits: Annotated[int, typer.Option(help="2 to 8.")] = 4,
    mean_bits: Annotated[
        float | None,
        typer.Option(help="Measure the layers first and give each its own bits, with this mean (scales included)."),
    ] = None,
    granularity: Annotated[str, typer.Option(help="One scale per tensor, channel or group.")] = "tensor",
    group_size: Annotated[int, typer.Option(help="Weights per scale, for granularity group.")] = 128,
    scale_dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    option: Annotated[
        list[str] | None,
        typer.Option(help="Option of the method, NAME=VALUE (JSON); repeatable. For example steps=300."),
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Pattern of layers to leave alone; repeatable.")] = None,
    last_block: Annotated[bool, typer.Option("--last-block", help="Quantize the last block too.")] = False,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Accept a model that is already quantized.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Quantize a model and save it; plain from_pretrained restores it once hf_ganzip is imported."""
    from .recipes import compress as run

    recipe = {"step": "quantize", "method": method, "bits": bits, "granularity": granularity}
    recipe |= {"group_size": group_size, "scale_dtype": scale_dtype, "method_options": _options(option or ())}
    recipe |= {"skip": tuple(skip or ()), "skip_last_block": not last_block, "requantize": requantize}
    if output_dir.exists() and any(output_dir.iterdir()):
        raise ValueError(f"{output_dir} is not empty; choose a new folder.")
    opened = _open(model)
    if mean_bits is not None:
        from .quantization import QuantizeConfig
        from .quantization import sensitivity as measure

        config = QuantizeConfig(**{name: value for name, value in recipe.items() if name != "step"})
        recipe["overrides"] = measure(opened, range(2, 9), config=config).allocate(mean_bits=mean_bits)
    compressed, (report,) = run(opened, [recipe])
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
def study(
    model: Model,
    reference: Annotated[str, typer.Option(help="Real images: bundled name, folder, parquet, .npy, datasets id.")],
    output_dir: Annotated[
        Path, typer.Option(help="Report, figures and pieces; a study that was stopped goes on here.")
    ] = Path("study_output"),
    method: Annotated[list[str] | None, typer.Option(help="Method; repeatable; default: all.")] = None,
    bits: Annotated[list[int] | None, typer.Option(help="Bits; repeatable; default 6 5 4 3 2.")] = None,
    num_samples: Annotated[int, typer.Option(min=2, help="Generated images per draw.")] = 5000,
    draws: Annotated[int, typer.Option(min=1, help="Repetitions with other latents and hyperplanes.")] = 3,
    seed: Seed = 0,
    k: Annotated[int, typer.Option(min=1, help="Neighbour that sets the radius.")] = 3,
    extractor: Annotated[
        str, typer.Option(help="fashion_mnist, vgg16, inception_v3, dinov2, clip, or NAME:WEIGHTS.")
    ] = "fashion_mnist",
    option: Annotated[
        list[str] | None, typer.Option(help="Option of a method, METHOD.NAME=VALUE; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compress by many methods at many bits, measure each, and write a report with tables and figures."""
    from .evaluation.compression_study import StudyConfig, run_study
    from .evaluation.study_report import write_report

    method_options: dict[str, dict[str, Any]] = {}
    for name, value in _options(option or ()).items():
        owner, _, setting = name.partition(".")
        method_options.setdefault(owner, {})[setting] = value
    chosen = {"methods": tuple(method) if method else None, "bits": tuple(bits) if bits else None}
    config = StudyConfig(
        **{name: value for name, value in chosen.items() if value is not None},
        num_samples=num_samples,
        draws=draws,
        seed=seed,
        k=k,
        extractor=extractor,
        method_options=method_options,
    )
    result = run_study(_folder(model), reference, output_dir, config)
    file = write_report(result, output_dir)
    _print_json(result) if as_json else print(f"{file}\n{file.read_text(encoding='utf-8')}")


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


def _options(entries: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE entries as a dict; values are JSON, or else text."""
    found = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals:
            raise ValueError(f"option {entry!r} is not NAME=VALUE.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


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
