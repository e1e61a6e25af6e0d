# SPDX-License-Identifier: Apache-2.0
"""Commands for what others see: card, push."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .shared import Json, Model, app, folder_of, open_model, print_json


Reports = Annotated[
    list[Path] | None,
    typer.Option("--report", help="JSON that evaluate, cost, compress or prune printed with --json; repeatable."),
]
BaseModel = Annotated[str | None, typer.Option(help="Hub id of the full model; default: the one on record.")]
License = Annotated[str | None, typer.Option(help="Of the weights, such as apache-2.0; default: the one on record.")]
Datasets = Annotated[list[str] | None, typer.Option("--dataset", help="Hub id of training data; repeatable.")]
Title = Annotated[str | None, typer.Option(help="Heading of the card; default: the name of the repository.")]


@app.command()
def card(
    model: Model,
    repo_id: Annotated[str, typer.Argument(help="Hub id that the card is for, NAMESPACE/NAME, or a bundled name.")],
    output: Annotated[Path | None, typer.Option(help="File to write; default: print the card.")] = None,
    report: Reports = None,
    base_model: BaseModel = None,
    license: License = None,
    dataset: Datasets = None,
    title: Title = None,
    picture: Annotated[str | None, typer.Option(help="File to show, relative to the card.")] = None,
    as_json: Json = False,
) -> None:
    """Write the card of a saved model from its record and from reports."""
    from ..publishing import render_card

    text = render_card(
        folder_of(model),
        repo_id,
        reports=_read(report),
        base_model=base_model,
        license=license,
        datasets=dataset or (),
        title=title,
        picture=picture,
    )
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    if as_json:
        return print_json({"card": text, "output": None if output is None else str(output)})
    if output is None:
        print(text, end="")


@app.command()
def push(
    model: Annotated[str, typer.Argument(help="Folder of a model or pipeline, Hub id, or a bundled name.")],
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hub: NAMESPACE/NAME; created if it is missing.")],
    report: Reports = None,
    base_model: BaseModel = None,
    license: License = None,
    dataset: Datasets = None,
    title: Title = None,
    reference: Annotated[
        str | None, typer.Option(help="The full model: the card's picture shows the same latents of both.")
    ] = None,
    private: Annotated[bool, typer.Option("--private/--public", help="Of a repository that is created.")] = True,
    revision: Annotated[str | None, typer.Option(help="Branch, created if it is missing; default: main.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")] = False,
    samples: Annotated[int, typer.Option(min=0, help="Images of the card's picture; 0: none.")] = 20,
    max_shard_size: Annotated[str | None, typer.Option(help="Of a weight file, such as 5GB.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the card and the files; send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Save, reload in a fresh process, compare bit for bit, write the card, upload in one commit."""
    from ..publishing import push_to_hub

    found = push_to_hub(
        _open(model),
        repo_id,
        report=_read(report),
        reference=None if reference is None else open_model(reference),
        base_model=base_model,
        license=license,
        datasets=dataset or (),
        title=title,
        private=private,
        revision=revision,
        create_pr=create_pr,
        samples=samples,
        max_shard_size=max_shard_size,
        dry_run=dry_run,
    )
    if as_json:
        return print_json(found.to_dict())
    if dry_run:
        print(found.card)
    print(found)


def _open(model: str) -> Any:
    """A model, or a pipeline of a local folder with ``model_index.json``."""
    index = Path(model, "model_index.json")
    if not index.is_file():
        return open_model(model)
    import diffusers

    import hf_ganzip

    name = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    cls = getattr(hf_ganzip, name) if name in hf_ganzip.__all__ else getattr(diffusers, name)
    return cls.from_pretrained(model)


def _read(files: list[Path] | None) -> list[dict[str, Any]]:
    found = []
    for file in files or []:
        try:
            found.append(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{file} is no JSON: {error}") from error
    return found
