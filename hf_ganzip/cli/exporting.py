# SPDX-License-Identifier: Apache-2.0
"""Commands for what others run and see: export (a model as an ONNX file), card, push."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from . import flags
from .opening import Place, open_model, open_whole
from .shared import app, refuse_full, refuse_options, show


@app.command()
def export(
    model: flags.Model,
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
    components: flags.Components = None,
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
    subfolder: flags.Subfolder = None,
    revision: flags.Revision = None,
    quiet: flags.Quiet = False,
    as_json: flags.Json = False,
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
        dicts = {name: report.to_dict() for name, report in found.items()}
        return show(dicts, "\n".join(map(str, found.values())), as_json)
    opened = open_model(model, Place(subfolder, revision))
    hint = ""
    if web:
        page = {"title": title or Path(model).name, "class_names": class_names(model), "cdn": cdn, "runtime": runtime}
        report = export_web(opened, output_dir, **page, **options)
        hint = (
            f"\npython -m http.server --directory {output_dir} shows the page; hf-ganzip push {output_dir} "
            "NAMESPACE/NAME --space static publishes it"
        )
    else:
        report = run(opened, output_dir, **options)
    show(report.to_dict(), f"{report}{hint}", as_json)


Reports = Annotated[
    list[Path] | None,
    typer.Option(
        "--report", help="JSON that evaluate, cost, compress, prune or refine printed with --json; repeatable."
    ),
]
BaseModel = Annotated[str | None, typer.Option(help="Hub id of the full model; default: the one on record.")]
License = Annotated[str | None, typer.Option(help="Of the weights, such as apache-2.0; default: the one on record.")]
Datasets = Annotated[list[str] | None, typer.Option("--dataset", help="Hub id of training data; repeatable.")]
Title = Annotated[str | None, typer.Option(help="Heading of the card; default: the name of the repository.")]


@app.command()
def card(
    model: flags.Model,
    repo_id: Annotated[str, typer.Argument(help="Hub id that the card is for, NAMESPACE/NAME, or a bundled name.")],
    output: Annotated[Path | None, typer.Option(help="File to write; default: print the card.")] = None,
    report: Reports = None,
    base_model: BaseModel = None,
    license: License = None,
    dataset: Datasets = None,
    title: Title = None,
    picture: Annotated[str | None, typer.Option(help="File to show, relative to the card.")] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check", help="Execute the card's loading snippet on the model first, in a fresh process."
        ),
    ] = True,
    as_json: flags.Json = False,
) -> None:
    """Write the card of a saved model from its record and from reports."""
    from ..publishing import render_card
    from ..publishing.check import run_snippet
    from ..saved.folder import loading_snippet, read_saved

    folder = _folder(model)
    text = render_card(
        folder,
        repo_id,
        report=_read(report),
        base_model=base_model,
        license=license,
        datasets=dataset or (),
        title=title,
        picture=picture,
    )
    if check:
        run_snippet(loading_snippet(read_saved(folder), str(folder)))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    if as_json or output is None:
        show({"card": text, "output": output and str(output)}, text.removesuffix("\n"), as_json)


@app.command()
def push(
    context: typer.Context,
    model: flags.Model,
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hub: NAMESPACE/NAME; created if it is missing.")],
    report: Reports = None,
    base_model: BaseModel = None,
    license: License = None,
    dataset: Datasets = None,
    title: Title = None,
    base: Annotated[
        str | None, typer.Option(help="The full model: the card's picture shows the same latents of both.")
    ] = None,
    private: Annotated[bool, typer.Option("--private/--public", help="Of a repository that is created.")] = True,
    revision: Annotated[str | None, typer.Option(help="Branch, created if it is missing; default: main.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")] = False,
    samples: Annotated[int, typer.Option(min=0, help="Images of the card's picture; 0: none.")] = 20,
    max_shard_size: Annotated[str | None, typer.Option(help="Of a weight file, such as 5GB.")] = None,
    standalone: Annotated[
        bool,
        typer.Option(
            "--standalone",
            help="Write all code that the model needs beside its weights, for trust_remote_code=True without "
            "hf_ganzip; default: a few lines that import it.",
        ),
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure", help="Time a pass for the card, where no report of hf-ganzip cost is given."
        ),
    ] = True,
    space: Annotated[
        str | None,
        typer.Option(
            help="static: MODEL is a folder that export --web wrote, and becomes a Space as it stands. gradio: MODEL "
            "is a folder with app.py, or compress, the demo of this package; its wheel is uploaded beside it."
        ),
    ] = None,
    repository: Annotated[
        str | None, typer.Option(help="With --space gradio: address of the source, which the Space links.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the card and the files; send nothing.")] = False,
    as_json: flags.Json = False,
) -> None:
    """Save, reload in a fresh process, compare bit for bit, write the card, upload in one commit."""
    from ..publishing import push_to_hub
    from ..saved.folder import open_saved

    if space is not None:
        return _push_space(context, space, model, repo_id, as_json)
    refuse_options({"repository": repository is not None}, "a repository of a model links no source")
    found = push_to_hub(
        open_saved(_folder(model)),
        repo_id,
        report=_read(report),
        reference=None if base is None else open_model(base, Place()),
        base_model=base_model,
        license=license,
        datasets=dataset or (),
        title=title,
        private=private,
        revision=revision,
        create_pr=create_pr,
        samples=samples,
        max_shard_size=max_shard_size,
        standalone=standalone,
        measure=measure,
        dry_run=dry_run,
    )
    show(found.to_dict(), f"{found.card}\n{found}" if dry_run else found, as_json)


_OF_SPACES = ("space", "private", "create_pr", "dry_run", "as_json", "model", "repo_id")
_OF_GRADIO = ("title", "repository")


def _push_space(context: typer.Context, space: str, folder: str, repo_id: str, as_json: bool) -> None:
    from ..publishing.spaces import push_demo, push_page

    if space not in ("static", "gradio"):
        raise ValueError(f"space is {space!r}; allowed are static and gradio.")
    taken = _OF_SPACES + (_OF_GRADIO if space == "gradio" else ())
    given = {name: context.get_parameter_source(name).name == "COMMANDLINE" for name in context.params}
    refuse_options({name: each for name, each in given.items() if name not in taken}, f"a {space} Space has none")
    options = {name: context.params[name] for name in ("private", "create_pr", "dry_run")}
    if space == "gradio":
        options |= {name: context.params[name] for name in _OF_GRADIO}
    found = (push_demo if space == "gradio" else push_page)(folder, repo_id, **options)
    files = [f"{size:>14,}  {name}" for name, size in found["files"].items()]
    where = found["url"] or f"nothing was uploaded; the Space would be {repo_id}"
    show(found, "\n".join([*files, where]), as_json)


def _folder(model: str) -> Path:
    """With the files of tokenizers and the card, too."""
    from ..core.hub import MODEL_FILES, model_folder

    return model_folder(model, patterns=(*MODEL_FILES, "*.txt", "*.model", "README.md"))


def _read(files: list[Path] | None) -> list[dict[str, Any]]:
    """Reports of all files; one may hold a list of them."""
    found: list[dict[str, Any]] = []
    for file in files or []:
        try:
            read = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is no JSON: {error}") from error
        found += read if isinstance(read, list) else [read]
    return found
