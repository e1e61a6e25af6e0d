# SPDX-License-Identifier: Apache-2.0
"""The ``hf-ganzip`` command."""

from __future__ import annotations

import sys

from . import (  # noqa: F401  (they register their commands)
    comparison,
    compression,
    cost,
    environment,
    exporting,
    metrics,
    models,
    publishing,
    scripts,
    study,
)
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
