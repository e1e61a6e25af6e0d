# SPDX-License-Identifier: Apache-2.0
"""What the pages of our Spaces share: gradio and its settings, style, checks of numbers, cells, pixel features."""

from __future__ import annotations

import os
from collections.abc import Iterable
from html import escape
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..core.extras import needed_by
from .uploads import LIMITS


if TYPE_CHECKING:
    import gradio

_SIDE = 32  # of the images whose pixels are features
_CSS = """
.picture { width: 100%; background: white; border-radius: 8px; }
.results table { border-collapse: collapse; width: 100%; font-size: 1.1em; }
.results table, .results thead, .results tbody, .results tr { border: 0 !important; }
.results caption {
  caption-side: bottom; text-align: left; font-size: .8em; padding: .4em 0; color: var(--body-text-color-subdued);
}
.results table th, .results table td {
  padding: .5em .8em; text-align: left; border: 0; border-bottom: 1px solid var(--border-color-primary);
}
@media (max-width: 500px) { .results table th, .results table td { padding: .5em .35em; } }
.results td b { font-size: 1.15em; font-variant-numeric: tabular-nums; }
.results small { color: var(--body-text-color-subdued); }
.results .bar {
  display: block; height: 6px; margin-top: .35em; border-radius: 3px; background: var(--border-color-primary);
}
.results .bar i { display: block; height: 100%; border-radius: 3px; background: var(--color-accent); }
.results dl { display: flex; flex-wrap: wrap; gap: .5em 2.5em; margin: .8em 0; }
.results dt { font-size: .8em; color: var(--body-text-color-subdued); }
.results dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
.results p { font-size: .85em; color: var(--body-text-color-subdued); }
.note { padding: .7em 1em; border-radius: 8px; border: 1px solid var(--border-color-primary); }
.refused { border: 2px solid #b3261e; color: #b3261e; background: #fdecea; font-weight: 600; }
"""


def import_gradio() -> ModuleType:
    """gradio, told not to report its use.

    Raises:
        ImportError: It is missing.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
    with needed_by("The app needs gradio", "space"):
        import gradio
    return gradio


def new_page(title: str) -> gradio.Blocks:
    """An empty page, filled within ``with`` and then given to :func:`queued`; what visitors leave is soon deleted.

    Raises:
        ImportError: gradio is missing.
    """
    blocks = import_gradio().Blocks
    page: gradio.Blocks = blocks(title=title, analytics_enabled=False, fill_width=True, delete_cache=(600, 600))
    return page


def queued(page: gradio.Blocks) -> gradio.Blocks:
    """The page, computing for one visitor at a time and refusing more than 16 who wait."""
    return page.queue(default_concurrency_limit=1, max_size=16)


def serve(page: gradio.Blocks, **options: Any) -> None:
    """Serve a page in the style of our Spaces, which fetches nothing from elsewhere, until it is stopped.

    Args:
        page: Built page.
        options: Of gradio's ``launch``, for instance ``server_port``.
    """
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none from the net
    theme = import_gradio().themes.Soft(primary_hue="indigo", **fonts)
    ours = {"theme": theme, "css": _CSS, "max_file_size": LIMITS.file_bytes}
    page.launch(**ours | {"share": False, "ssr_mode": False, "footer_links": [], "show_error": False} | options)


def whole_number(name: str, value: Any, least: int, most: int) -> int:
    """A number that a browser sent, which may be anything.

    Raises:
        ValueError: Not a whole number from ``least`` to ``most``; one line.

    Example:
        >>> whole_number("k", 3.0, 1, 50)
        3
    """
    if not isinstance(value, (int, float)) or not least <= value <= most or value != int(value):
        raise ValueError(f"{name} is {value}; allowed are whole numbers from {least} to {most}.")
    return int(value)


def refused(reason: object) -> str:
    """HTML that says why there is no result."""
    return f'<div class="note refused" role="alert">{escape(str(reason))}</div>'


def cell(name: str, text: str, share: float | None = None, *, side: str | None = None, note: str = "") -> str:
    """HTML of a cell, marked ``data-metric`` and ``data-side``, with a bar of length ``share`` and HTML behind it."""
    bar = ""
    if share is not None:
        bar = f'<span class="bar" aria-hidden="true"><i style="width:{100 * share:.1f}%"></i></span>'
    mark = "" if side is None else f' data-side="{side}"'
    return f'<td><b data-metric="{name}"{mark}>{text}</b>{note}{bar}</td>'


def pixel_features(images: Iterable[np.ndarray]) -> np.ndarray:
    """Pixels of images uint8 (H, W, 1 or 3), resized (bicubic) to 32x32, as features (N, 3072) float32 in [0, 1]; grey
    is repeated to RGB.

    Example:
        >>> pixel_features([np.full((8, 9, 1), 255, np.uint8)]).shape
        (1, 3072)
    """
    coloured = (Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).copy()) for image in images)
    rows = [np.asarray(image.resize((_SIDE, _SIDE))).ravel() for image in coloured]
    return np.stack(rows).astype(np.float32) / 255
