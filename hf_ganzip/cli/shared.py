# SPDX-License-Identifier: Apache-2.0
"""What the commands share: the application, common arguments, helpers."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


_ORDER = (
    "demo convert info sample compress prune refine sensitivity cost evaluate compare study translate train finetune "
    "examples export card push metrics env"
).split()


class _InOrder(TyperGroup):
    """Lists the commands in the order in which they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(cls=_InOrder, no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)


class Settings:
    """What holds for all of a command."""

    debug = False
    quiet = False
    flags: Mapping[str, str] = {}  # parameter -> option, of the command that runs


settings = Settings()


def _version(asked: bool) -> None:
    if asked:
        from .. import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options_of_all(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from; stands before the command.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Make image generators small, and say what that cost."""
    settings.debug, settings.quiet = debug, False
    command = context.command.commands.get(context.invoked_subcommand)  # type: ignore[attr-defined]
    options = [each for each in getattr(command, "params", ()) if each.param_type_name == "option"]
    settings.flags = {each.name: max(each.opts, key=len) for each in options}


def refuse_options(set_: Mapping[str, bool], why: str) -> None:
    """Raise ValueError for options that were set but mean nothing here: option -> whether it was set."""
    found = [settings.flags.get(name, name) for name, given in set_.items() if given]
    if found:
        raise ValueError(f"{why}; leave out {' and '.join(found)}.")


def describe_error(error: Exception) -> str:
    """One line for the user: the message of an error that is explained, or that it is a bug."""
    if isinstance(error, (ValueError, TypeError, OSError, RuntimeError, ImportError)):
        return in_options(" ".join(str(error).splitlines()), settings.flags)
    return f"unexpected {type(error).__name__}: {error}. This is a bug; hf-ganzip --debug shows where."


def in_options(message: str, flags: Mapping[str, str]) -> str:
    """A message of the library in the words of the command: arguments by their options, functions not at all.

    Example:
        >>> flags = {"group_size": "--group-size", "requantize": "--requantize"}
        >>> in_options("quantize_: group_size is 7; or set requantize=True.", flags)
        '--group-size is 7; or set --requantize.'
    """
    unknown = re.match(r"Unknown (?:\w+ )*?(\w+) '", message)
    if unknown and unknown[1] in flags:
        return f"{flags[unknown[1]]}: {message}"
    message = re.sub(r"^\w+_: |^[A-Z]\w+Config: ", "", message)
    message = re.sub(r"\b(method|criterion)_options\b", "option", message)
    for name, flag in flags.items():
        word = rf"(?<![\w./-]){name}(?![\w./-])"
        message = re.sub(rf"{word}=(?:True|(?=\W|$))", flag, message)
        message = re.sub(rf"{word}=", f"{flag} ", message)
        message = re.sub(word if "_" in name else rf"(?<=[Ss]et ){word}|{word}(?= is | ')", flag, message)
    return message


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


def show(value: Any, text: Any, as_json: bool) -> None:
    """The report on standard output: as JSON, or its text for people, unless they asked for quiet."""
    if as_json:
        print(json.dumps(value, indent=1))
    elif not settings.quiet:
        print(text)
