# SPDX-License-Identifier: Apache-2.0
"""The ``hf-ganzip`` command."""

from __future__ import annotations

import sys

from . import compression, environment, metrics, models, publishing  # noqa: F401  (they register their commands)
from .shared import app


def main() -> None:
    """Entry point: errors that the user can mend are one line on standard error, exit code 1."""
    try:
        app()
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        print(f"hf-ganzip: {error}", file=sys.stderr)
        sys.exit(1)
