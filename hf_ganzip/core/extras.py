# SPDX-License-Identifier: Apache-2.0
"""Libraries of the extras, imported where they are needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needed_by(what: str, extra: str) -> Iterator[None]:
    """Import libraries of an extra within the context; ``what`` begins the error: "X needs torchvision".

    Raises:
        ImportError: In place of another, with the pip line.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f'{what}: pip install "hf_ganzip[{extra}]".') from error
