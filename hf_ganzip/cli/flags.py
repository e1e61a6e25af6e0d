# SPDX-License-Identifier: Apache-2.0
"""Arguments and options that several commands have: ``device: flags.Device = None``."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .shared import settings


Model = Annotated[
    str,
    typer.Argument(
        help="Folder of a model or pipeline, Hub id, or a bundled name such as stylegan2-fashion-mnist.",
        autocompletion=completion.models,
    ),
]
Components = Annotated[
    list[str] | None,
    typer.Option(
        "--component",
        help="Network of a pipeline to work on, such as unet; repeatable; default: the denoiser. The whole pipeline "
        "is saved again.",
    ),
]
Subfolder = Annotated[str | None, typer.Option(help="Of the folder or Hub id, where the model is.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of the Hub id.")]
Device = Annotated[str | None, typer.Option(help="Such as cuda, cuda:1 or mps; default: cpu.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per forward pass.")]


class Dtype(str, Enum):
    """Data types of weights."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


SavedDtype = Annotated[Dtype | None, typer.Option("--dtype", help="Of the weights; default: as they were saved.")]
LoadedDtype = Annotated[Dtype | None, typer.Option("--dtype", help="Of the weights; default: float32.")]


def _hush(quiet: bool) -> bool:
    settings.quiet = quiet
    if quiet:  # bars of others; before they are imported, which is when they look
        os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return quiet


Plot = Annotated[Path | None, typer.Option(help="PNG file for a picture.", dir_okay=False)]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress bars, and no report but with --json.", callback=_hush)
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else to standard output.")]
Seed = Annotated[int, typer.Option(help="Image i is drawn from (seed, i).")]
Extractor = Annotated[
    str | None,
    typer.Option(
        help="fashion_mnist, vgg16, inception_v3, dinov2, clip, or NAME:WEIGHTS.", autocompletion=completion.extractors
    ),
]
