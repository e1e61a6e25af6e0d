# SPDX-License-Identifier: Apache-2.0
"""What the commands share: the application, common arguments, helpers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import completion


_ORDER = (
    "demo convert info sample compress prune refine sensitivity cost evaluate study translate card push metrics env"
).split()


class _InOrder(TyperGroup):
    """Lists the commands in the order in which they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    cls=_InOrder,
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
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from; stands before the command.")
    ] = False,
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


Model = Annotated[
    str,
    typer.Argument(
        help="Folder of a model or pipeline, Hub id, or a bundled name such as stylegan2-fashion-mnist.",
        autocompletion=completion.models,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else to standard output.")]
Seed = Annotated[int, typer.Option(help="Image i is drawn from (seed, i).")]
Extractor = Annotated[
    str,
    typer.Option(
        help="fashion_mnist, vgg16, inception_v3, dinov2, clip, or NAME:WEIGHTS.", autocompletion=completion.extractors
    ),
]


def open_model(model: str) -> Any:
    """The model of an argument."""
    from ..recipes import load_model

    return load_model(model)


def refuse_full(folder: Path) -> None:
    """Raise ValueError for a file, a folder with something in it, or one that cannot be written."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; choose a new folder.")
    refuse_unwritable(folder)


def refuse_unwritable(folder: Path) -> None:
    """Raise ValueError where no file can be written into the folder, before the work; nothing is left behind."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose a folder.")
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror}.") from error
    finally:
        for each in missing:
            if each.is_dir():
                each.rmdir()


def refuse_together(context: typer.Context, option: str, others: Iterable[str]) -> None:
    """End with exit code 2 if ``option`` was given together with one of ``others``, of which it would make nothing."""
    given = [name for name in (option, *others) if context.get_parameter_source(name).name == "COMMANDLINE"]
    if option in given and len(given) > 1:
        flags = ["--" + name.replace("_", "-") for name in given]
        raise typer.BadParameter(f"{flags[0]} takes the place of {', '.join(flags[1:])}; give one or the other.")


def parse_options(entries: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE entries as a dict; values are JSON or True, False, None, or else text."""
    found: dict[str, Any] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals:
            raise ValueError(f"option {entry!r} is not NAME=VALUE.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = {"True": True, "False": False, "None": None}.get(value, value)
    return found


def print_json(value: Any) -> None:
    """The report on standard output."""
    print(json.dumps(value, indent=1))
