# SPDX-License-Identifier: Apache-2.0
"""Doors to the scripts and recipes of examples/: train, finetune, examples."""

from __future__ import annotations

import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..core.registry import lookup
from ..core.shipped import first_line, recipes, scripts, shipped
from . import completion, flags
from .shared import app, refuse_full, show


# Everything but --launch is the script's, --help behind its name included.
_PASSED_ON = {"ignore_unknown_options": True}
_ARGUMENTS = "[bold]NAME[/bold] of the script, and its own options; NAME --help shows them."
Launch = Annotated[
    str | None,
    typer.Option(
        help='Run under "accelerate launch" with these options, for example "--num_processes 2"; "" for what '
        "accelerate config says. "
        "Default: one process, this one."
    ),
]


def _help(verb: str, prefix: str) -> str:
    return f"{verb} {', '.join(scripts(prefix))} (NAME), with the script's own options."


@app.command(add_help_option=False, context_settings=_PASSED_ON, help=_help("Train a model from scratch:", "train_"))
def train(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="NAME [OPTIONS]", help=_ARGUMENTS, autocompletion=completion.trained)
    ] = None,
    launch: Launch = None,
) -> None:
    """Run ``examples/train_NAME.py``."""
    _run(context, "train_", arguments or [], launch)


@app.command(
    add_help_option=False, context_settings=_PASSED_ON, help=_help("Fine-tune what was compressed:", "finetune_")
)
def finetune(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME [OPTIONS]", help=_ARGUMENTS, autocompletion=completion.finetuned),
    ] = None,
    launch: Launch = None,
) -> None:
    """Run ``examples/finetune_NAME.py``."""
    _run(context, "finetune_", arguments or [], launch)


def _run(context: typer.Context, prefix: str, arguments: list[str], launch: str | None) -> None:
    if not arguments or arguments[0] in ("--help", "-h"):
        typer.echo(context.get_help())
        raise typer.Exit(0 if arguments else 2)
    name, *rest = arguments
    script = str(lookup(scripts(prefix), name, "script"))
    if launch is not None:
        command = [sys.executable, "-m", "accelerate.commands.launch", *shlex.split(launch), script, *rest]
        raise typer.Exit(subprocess.run(command).returncode)
    sys.argv = [script, *rest]
    runpy.run_path(script, run_name="__main__")


@app.command()
def examples(
    output_dir: Annotated[
        Path | None, typer.Argument(help="New folder for copies of all scripts and recipes; default: list them.")
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """List the example scripts and recipes, or copy them to a folder, to run or change them."""
    if output_dir is not None:
        refuse_full(output_dir)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(shipped("examples"), output_dir, ignore=ignored, dirs_exist_ok=True)
    found = {"scripts": scripts(), "recipes": recipes()}
    lines = {kind: {name: first_line(path) for name, path in files.items()} for kind, files in found.items()}
    listed = [
        "\n".join([f"{kind}:", *(f"  {name:24} {said}" for name, said in files.items())])
        for kind, files in lines.items()
    ]
    copied = [] if output_dir is None else [f"copied to {output_dir}"]
    show(lines | {"output": output_dir and str(output_dir)}, "\n".join(listed + copied), as_json)
