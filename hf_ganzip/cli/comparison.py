# SPDX-License-Identifier: Apache-2.0
"""Command compare: an original and a candidate side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .opening import Place, read_prompts
from .shared import (
    BatchSize,
    Device,
    Extractor,
    Json,
    Quiet,
    SavedDtype,
    Seed,
    app,
    parse_options,
    print_json,
    refuse_unwritable,
    say,
)


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
    seed: Seed = 0,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Real images or features, with which both are compared: bundled name, folder, parquet, .npy, "
            ".safetensors, datasets id; default: the original's images are the real ones.",
            autocompletion=completion.sources,
        ),
    ] = None,
    extractor: Extractor = None,
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
    batch_size: BatchSize = 16,
    device: Device = None,
    dtype: SavedDtype = None,
    quiet: Quiet = False,
    as_json: Json = False,
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
    if as_json:
        return print_json(report.to_dict())
    say(f"{report}\n{output_dir / 'report.html'}")
