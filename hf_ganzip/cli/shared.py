# SPDX-License-Identifier: Apache-2.0
"""What the commands share: the application, common arguments, helpers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer


app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


class Settings:
    """What was said before the name of the command."""

    debug = False


settings = Settings()


def _version(asked: bool) -> None:
    if asked:
        from .. import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options_of_all(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Make image generators small, and say what that cost."""
    settings.debug = debug


def describe_error(error: Exception) -> str:
    """One line for the user: the message of an error that is explained, or that it is a bug."""
    if isinstance(error, (ValueError, TypeError, OSError, RuntimeError, ImportError)):
        return " ".join(str(error).splitlines())
    return f"unexpected {type(error).__name__}: {error}. This is a bug; hf-ganzip --debug shows where."


Model = Annotated[str, typer.Argument(help="Model folder, Hub id, or a bundled name such as stylegan2-fashion-mnist.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else to standard output.")]
Seed = Annotated[int, typer.Option(help="Image i is drawn from (seed, i).")]


def folder_of(model: str) -> str | Path:
    """Bundled names become folders; anything else stays."""
    from ..assets import ASSETS, asset_path

    return asset_path(model) if model in ASSETS and not Path(model).is_dir() else model


def open_model(model: str) -> Any:
    """The model of an argument."""
    from ..recipes import load_model

    return load_model(folder_of(model))


def refuse_full(folder: Path) -> None:
    """Raise ValueError for a folder with something in it."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; choose a new folder.")


def parse_options(entries: Sequence[str]) -> dict[str, Any]:
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


def print_json(value: Any) -> None:
    """The report on standard output."""
    print(json.dumps(value, indent=1))
