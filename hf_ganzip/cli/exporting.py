# SPDX-License-Identifier: Apache-2.0
"""Command export: a model as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .opening import Place, open_model, open_whole
from .shared import (
    Components,
    Json,
    Model,
    Quiet,
    Revision,
    Subfolder,
    app,
    print_json,
    refuse_full,
    refuse_options,
    say,
)


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
            help="Of StyleGAN 1 and 2: input (may be left out, which means the stored noise), const or none; default: "
            "input."
        ),
    ] = None,
    checks: Annotated[int, typer.Option(min=1, help="Inputs on which the file is compared with torch.")] = 4,
    components: Components = None,
    web: Annotated[
        bool,
        typer.Option(
            "--web", help="Also a page that draws in the browser, with all it needs: a static Space as it stands."
        ),
    ] = False,
    cdn: Annotated[
        bool,
        typer.Option(
            "--cdn",
            help="With --web: link onnxruntime-web instead of copying it, so that the page needs a connection.",
        ),
    ] = False,
    runtime: Annotated[
        Path | None, typer.Option(help="With --web: the npm archive of onnxruntime-web; default: npm pack gets it.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="With --web: of the page; default: the name of the model.")] = None,
    subfolder: Subfolder = None,
    revision: Revision = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a model as an ONNX file with its weights as they are stored, compared with torch before it is kept."""
    from ..assets import class_names
    from ..exporting import export as run
    from ..exporting import export_parts
    from ..exporting.web_page import export_web

    refuse_full(output_dir)
    if not web:
        refuse_options(
            {"cdn": cdn, "runtime": runtime is not None, "title": title is not None}, "the export is no page"
        )
    options = {"opset": opset, "truncation_psi": truncation_psi, "class_label": class_label}
    options |= {"noise": noise, "checks": checks}
    if components:
        fixed = {"truncation_psi": truncation_psi is not None, "class_label": class_label is not None}
        refuse_options({**fixed, "noise": noise is not None, "web": web}, "components of pipelines have none of these")
        whole, networks = open_whole(model, components, Place(subfolder, revision))
        found = export_parts(whole, output_dir, list(networks), opset=opset, checks=checks)
        if as_json:
            return print_json({name: report.to_dict() for name, report in found.items()})
        return say("\n".join(map(str, found.values())))
    opened = open_model(model, Place(subfolder, revision))
    if web:
        page = {"title": title or Path(model).name, "class_names": class_names(model), "cdn": cdn, "runtime": runtime}
        report = export_web(opened, output_dir, **page, **options)
    else:
        report = run(opened, output_dir, **options)
    if as_json:
        return print_json(report.to_dict())
    say(report)
    if web:
        say(
            f"python -m http.server --directory {output_dir} shows the page; hf-ganzip push {output_dir} "
            "NAMESPACE/NAME --space static publishes it"
        )
