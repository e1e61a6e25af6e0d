# SPDX-License-Identifier: Apache-2.0
"""Command export: a model as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .opening import Place, open_model
from .shared import Json, Model, Quiet, Revision, Subfolder, app, print_json, refuse_full, say


@app.command()
def export(
    model: Model,
    output_dir: Annotated[Path, typer.Argument(help="Folder for model.onnx and config.json.")],
    opset: Annotated[int, typer.Option(help="Operator set, 21 to 25.")] = 21,
    truncation_psi: Annotated[
        float | None, typer.Option(help="Fixed; default: an input of StyleGANs, 1 for BigGAN-deep.")
    ] = None,
    class_label: Annotated[
        int | None, typer.Option(help="One class, fixed; default: an input of generators with classes.")
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            help="Of StyleGAN 1 and 2: input (may be left out, which means the stored noise), const or none; default: input."
        ),
    ] = None,
    checks: Annotated[int, typer.Option(min=1, help="Inputs on which the file is compared with torch.")] = 4,
    subfolder: Subfolder = None,
    revision: Revision = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a model as an ONNX file with its weights as they are stored, compared with torch before it is left behind."""
    from ..exporting import export as run

    refuse_full(output_dir)
    report = run(
        open_model(model, Place(subfolder, revision)),
        output_dir,
        opset=opset,
        truncation_psi=truncation_psi,
        class_label=class_label,
        noise=noise,
        checks=checks,
    )
    if as_json:
        return print_json(report.to_dict())
    say(report)
