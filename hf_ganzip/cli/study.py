# SPDX-License-Identifier: Apache-2.0
"""Command study: many methods at many bits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import completion
from .opening import Place, open_whole
from .shared import (
    Device,
    Extractor,
    Json,
    Model,
    Quiet,
    Revision,
    Seed,
    Subfolder,
    app,
    parse_options,
    print_json,
    refuse_unwritable,
    say,
)


@app.command()
def study(
    model: Model,
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
    seed: Seed = 0,
    k: Annotated[int, typer.Option(min=1, help="Neighbour that sets the radius.")] = 3,
    extractor: Extractor = "fashion_mnist",
    option: Annotated[
        list[str] | None, typer.Option(help="Option of a method, METHOD.NAME=VALUE; repeatable.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of DDIM, for diffusion models; default 50.")] = None,
    spacing: Annotated[str, typer.Option(help="Of their timesteps: uniform or quad.")] = "uniform",
    clip_sample: Annotated[bool, typer.Option(help="Clip their predicted image to [-1, 1] in every step.")] = False,
    sqnr_images: Annotated[
        int, typer.Option(min=1, help="Images per draw whose noise predictions are compared.")
    ] = 32,
    subfolder: Subfolder = None,
    revision: Revision = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
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
    print_json(result) if as_json else say(f"{file}\n{file.read_text(encoding='utf-8')}")
