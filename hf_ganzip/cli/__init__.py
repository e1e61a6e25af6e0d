# SPDX-License-Identifier: Apache-2.0
"""The ``hf-ganzip`` command."""

from __future__ import annotations

import sys

# They register their commands.
from . import comparison, compression, environment, exporting, metrics, models, scripts  # noqa: F401
from .shared import app, describe_error, settings


def main() -> None:
    """Entry point: an error is one line on stderr, exit code 1 (2 for wrong usage); ``--debug`` shows its origin."""
    try:
        app()
    except Exception as error:
        if settings.debug:
            raise
        print(f"hf-ganzip: {describe_error(error)}", file=sys.stderr)
        sys.exit(1)
