# SPDX-License-Identifier: Apache-2.0
"""Commands that say what compression changes and costs: compare (two models side by side), study (many methods at many
bits), cost, sensitivity.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from . import completion, flags
from .opening import Place, open_model, open_whole, read_prompts
from .shared import app, parse_options, refuse_unwritable, show


def _side(said: str) -> typer.models.ArgumentInfo:
    return typer.Argument(help=said, autocompletion=completion.models)


@app.command()
def compare(
    original: Annotated[
        str, _side("Folder of a model or pipeline, Hub id, or a bundled name such as ddpm-fashion-mnist.")
    ],
    candidate: Annotated[
        str, _side("The same, compressed by whatever diffusers can open; or only the denoiser of a pipeline.")
    ],
    output_dir: Annotated[
        Path,
        typer.Option(
            "--output-dir",
            "--out",
            help="report.md, report.html (one file that holds its pictures), report.json and pictures go here.",
        ),
    ] = Path("compare_output"),
    num_images: Annotated[
        int | None, typer.Option(min=2, help="Images of each side; default: one a prompt, 256 without prompts.")
    ] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Text file, one prompt a line, for text-to-image pipelines; image i has prompt i, and so on in turn.",
        ),
    ] = None,
    class_label: Annotated[int | None, typer.Option(help="One class for all; default: all classes in turn.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of the sampler; default: 50 of DDIM for a UNet alone, what a pipeline takes otherwise."
        ),
    ] = None,
    seed: flags.Seed = 0,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Real images or features, with which both are compared: bundled name, folder, parquet, .npy, "
            ".safetensors, datasets id; default: the original's images are the real ones.",
            autocompletion=completion.sources,
        ),
    ] = None,
    extractor: flags.Extractor = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Metric of features; repeatable; default: precision and recall by LSH and KNN, Frechet distance.",
            autocompletion=completion.metrics,
        ),
    ] = None,
    perceptual: Annotated[
        str | None, typer.Option(help="Also LPIPS by this network, which is downloaded: alex, vgg or squeeze.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples for the intervals; 0: none.")] = 200,
    sqnr_images: Annotated[
        int, typer.Option(min=0, help="Images in whose drawing the predictions of both denoisers are compared.")
    ] = 32,
    memory: Annotated[bool, typer.Option(help="Measure the peak memory, in fresh processes.")] = True,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE for a pipeline's call, such as guidance_scale=4; truncation_psi of a GAN, clip_sample of "
            "a UNet alone; repeatable."
        ),
    ] = None,
    batch_size: flags.BatchSize = 16,
    device: flags.Device = None,
    dtype: flags.SavedDtype = None,
    quiet: flags.Quiet = False,
    as_json: flags.Json = False,
) -> None:
    """Draw the same images from an original and a candidate, whoever compressed it: likeness, quality, diversity,
    bytes, memory and time, in one report.

    Both draw from the same seeds with the same prompts or classes. Measured are PSNR, SSIM and the distance of
    features of the pairs; for diffusion models the signal to noise of noise predictions over time; Frechet distance,
    precision and recall by LSH and KNN; and what both cost, with 95 % intervals.
    """
    from ..evaluation.comparing.compare import compare as run

    place = Place(device=device, dtype=dtype)
    place.check_device()
    refuse_unwritable(output_dir)
    report = run(
        original,
        candidate,
        num_images=num_images,
        seed=seed,
        prompts=read_prompts(prompts_file),
        class_label=class_label,
        steps=steps,
        reference=reference,
        extractor=extractor,
        perceptual=perceptual,
        batch_size=batch_size,
        bootstrap=bootstrap,
        sqnr_images=sqnr_images,
        memory=memory,
        device=device,
        dtype=place.torch_dtype,
        options=parse_options(option or ()),
        folder=output_dir,
        progress=not quiet,
        **({"metrics": tuple(metric)} if metric else {}),
    )
    show(report.to_dict(), f"{report}\n{output_dir / 'report.html'}", as_json)


@app.command()
def cost(
    model: flags.Model,
    base: Annotated[
        str | None,
        typer.Option(
            help="The full model, to compare with: folder, Hub id or bundled name.", autocompletion=completion.models
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed forward passes of each.")] = 7,
    memory: Annotated[bool, typer.Option(help="Also measure the peak memory, in fresh processes.")] = True,
    subfolder: flags.Subfolder = None,
    revision: flags.Revision = None,
    device: flags.Device = None,
    dtype: flags.LoadedDtype = None,
    quiet: flags.Quiet = False,
    as_json: flags.Json = False,
) -> None:
    """Measure parameters, MACs, bytes on disk, peak memory and latency on this machine."""
    from ..evaluation.cost import measure_cost

    place = Place(subfolder, revision, device, dtype)
    other = None if base is None else open_model(base, Place(device=device, dtype=dtype))
    report = measure_cost(open_model(model, place), other, repeats=repeats, memory=memory)
    show(report.to_dict(), report, as_json)


@app.command()
def sensitivity(
    model: flags.Model,
    bits: Annotated[
        list[int] | None, typer.Option(min=2, max=8, help="Bits to try; repeatable; default 2 3 4 6 8.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="Method; gptq, and latent_distill, which starts from it, with errors compensated.",
            autocompletion=completion.methods,
        ),
    ] = "codebook",
    granularity: Annotated[str, typer.Option(help="tensor, channel or group.")] = "channel",
    mean_bits: Annotated[
        float | None,
        typer.Option(help="Also propose bits for every layer within this mean of stored bits per weight."),
    ] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Samples in the comparison.")] = 32,
    activations: Annotated[
        bool, typer.Option("--activations", help="Also round one layer's inputs at a time to 8 bits.")
    ] = False,
    plot: flags.Plot = None,
    subfolder: flags.Subfolder = None,
    revision: flags.Revision = None,
    device: flags.Device = None,
    dtype: flags.LoadedDtype = None,
    quiet: flags.Quiet = False,
    as_json: flags.Json = False,
) -> None:
    """Quantize one layer at a time and measure how far the output moves, without data."""
    from ..quantization import QuantizeConfig
    from ..quantization import sensitivity as measure

    if plot is not None:
        refuse_unwritable(plot.parent)
    report = measure(
        open_model(model, Place(subfolder, revision, device, dtype)),
        tuple(bits or (2, 3, 4, 6, 8)),
        config=QuantizeConfig(method=method, granularity=granularity),
        num_samples=num_samples,
        activations=activations,
        progress=not quiet,
    )
    overrides = report.allocate(mean_bits=mean_bits) if mean_bits is not None else None
    if plot is not None:
        from ..evaluation.plotting import save_sensitivity_plot

        plot.parent.mkdir(parents=True, exist_ok=True)
        save_sensitivity_plot(report, plot)
    text = str(report)
    if overrides is not None:
        text += f"\noverrides for a mean of {mean_bits} bits:\n{json.dumps(overrides, indent=1)}"
    show(report.to_dict() | {"overrides": overrides}, text, as_json)


@app.command()
def study(
    model: flags.Model,
    reference: Annotated[
        str,
        typer.Option(
            help="Real images: bundled name, folder, parquet, .npy, datasets id.", autocompletion=completion.sources
        ),
    ],
    output_dir: Annotated[
        Path, typer.Option(help="Report, figures and pieces; a study that was stopped goes on here.")
    ] = Path("study_output"),
    method: Annotated[
        list[str] | None,
        typer.Option(
            help='Method, or "gptq mixed" and the like; repeatable; default: all but "gptq best" and those that say '
            'whether "auto" rotates; for diffusion models the paper\'s, auto and "gptq best".',
            autocompletion=completion.studied,
        ),
    ] = None,
    bits: Annotated[list[int] | None, typer.Option(min=2, max=8, help="Bits; repeatable; default 6 5 4 3 2.")] = None,
    num_samples: Annotated[int, typer.Option(min=2, help="Generated images per draw.")] = 5000,
    draws: Annotated[int, typer.Option(min=1, help="Repetitions with other latents and hyperplanes.")] = 3,
    seed: flags.Seed = 0,
    k: Annotated[int, typer.Option(min=1, help="Neighbour that sets the radius.")] = 3,
    extractor: flags.Extractor = "fashion_mnist",
    option: Annotated[
        list[str] | None, typer.Option(help="Option of a method, METHOD.NAME=VALUE; repeatable.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of DDIM, for diffusion models; default 50.")] = None,
    spacing: Annotated[str, typer.Option(help="Of their timesteps: uniform or quad.")] = "uniform",
    clip_sample: Annotated[bool, typer.Option(help="Clip their predicted image to [-1, 1] in every step.")] = False,
    sqnr_images: Annotated[
        int, typer.Option(min=1, help="Images per draw whose noise predictions are compared.")
    ] = 32,
    subfolder: flags.Subfolder = None,
    revision: flags.Revision = None,
    device: flags.Device = None,
    quiet: flags.Quiet = False,
    as_json: flags.Json = False,
) -> None:
    """Compress a GAN or diffusion model by many methods at many bits, measure each, and write a report with tables and
    figures.
    """
    from ..studies.compression import run_study
    from ..studies.compression_config import StudyConfig
    from ..studies.compression_report import write_report

    refuse_unwritable(output_dir)
    method_options: dict[str, dict[str, Any]] = {}
    for name, value in parse_options(option or ()).items():
        owner, dot, setting = name.partition(".")
        if not dot:
            raise typer.BadParameter(f"option {name!r} does not say of which method; write METHOD.{name}=VALUE.")
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
        steps=steps,
        spacing=spacing,
        clip_sample=clip_sample,
        sqnr_images=sqnr_images,
    )
    opened, _ = open_whole(model, None, Place(subfolder, revision, device))
    result = run_study(opened, reference, output_dir, config, progress=not quiet)
    file = write_report(result, output_dir)
    show(result, f"{file}\n{file.read_text(encoding='utf-8')}", as_json)
