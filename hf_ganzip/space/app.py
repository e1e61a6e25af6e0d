# SPDX-License-Identifier: Apache-2.0
"""The user interface. Handlers take plain values and give HTML; gradio is met in :func:`build_app` only."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.registry import lookup
from ..evaluation import extract_features
from ..images import stack_images
from .examples import EXAMPLES, load_example
from .page import import_gradio, new_page, pixel_features, queued, refused, serve, whole_number
from .pictures import curve_figure, region_figure, to_html
from .results import CURVE_ROWS, Settings, compare, curves, results_table
from .uploads import LIMITS, read_upload


if TYPE_CHECKING:
    import gradio

EXAMPLE, UPLOAD = "Built-in example", "My own files"
PIXELS, FASHION = "Pixels, resized to 32x32", "Fashion-MNIST network (grey, at most 32x32)"
TITLES = {
    "lsh_precision_recall": "LSH precision and recall",
    "knn_precision_recall": "KNN precision and recall",
    "density_coverage": "Density and coverage",
    "frechet_distance": "Fréchet distance",
}

_INTRO = """
# {title}

How good are generated images, and how diverse? **Precision** is the share of generated samples that look real,
**recall** the share of real samples that the generator can produce. Both compare *features* of images, in three ways:

- **LSH** cuts the feature space into cells by random hyperplanes; a sample counts if a sample of the other set shares
  its cell.
- **LSH+KNN** asks besides that it lies within the ball around a sample of its cell, up to that sample's k-th nearest
  neighbour.
- **KNN** does so in the whole space, where an outlier's huge ball lets everything in.
"""
_HELP = f"""
One file a side: features `(N, d)` as `.npy`, `.safetensors` or `.parquet`, or a `.zip` of PNG or JPEG images.
At most {LIMITS.file_bytes // 2**20} MB and {LIMITS.rows:,} samples. Files are deleted within minutes.
"""
_CURVES_NOTE = f"<p>At most {CURVE_ROWS:,} samples of each set and 3 draws; grey: the setting of the table.</p>"


def features_of(path: str | None, side: str, extractor: str) -> np.ndarray:
    """Features (N, d) of an uploaded file; images become features by ``extractor``.

    Raises:
        ValueError: No file, or one that is refused; one line.
    """
    if path is None:
        raise ValueError(f"Upload a file of {side} samples.")
    content = read_upload(path)
    if isinstance(content, np.ndarray):
        return content
    if extractor == FASHION:
        return extract_features(stack_images(content), "fashion_mnist", progress=False).numpy()
    return pixel_features(content)


def on_compute(
    metric: str,
    source: str,
    example: str,
    real_file: str | None,
    generated_file: str | None,
    extractor: str,
    k: float,
    planes: float,
    draws: float,
    seed: float,
) -> tuple[str, str]:
    """What the button does; ``metric`` is the one that comes first.

    Returns:
        HTML of the numbers, or of the one-line reason why there are none; and HTML of the curves.
    """
    try:
        settings = _settings(k=k, planes=planes, draws=draws, seed=seed)
        if source == EXAMPLE:
            real, generated = load_example(example)
        else:
            real = features_of(real_file, "real", extractor)
            generated = features_of(generated_file, "generated", extractor)
        result = compare(real, generated, settings)
        figure = curve_figure(curves(real, generated, settings), result)
    except (ValueError, TypeError) as error:
        return refused(error), ""
    described = "Precision and recall of LSH, LSH+KNN and KNN, against k and against the number of hyperplanes."
    return results_table(result, metric), to_html(figure, described) + _CURVES_NOTE


def on_regions(k: float, planes: float, seed: float) -> str:
    """HTML of the toy picture."""
    figure, values = region_figure(int(k), int(planes), int(seed))
    text = "; ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in values.items())
    return to_html(figure, f"Regions and balls on points in the plane. {text}.")


def _settings(*, k: float, planes: float, draws: float, seed: float) -> Settings:
    """Settings from what the browser sent, which may be anything."""
    limits = {"k": (k, 1, 50), "Hyperplanes": (planes, 0, 62), "Draws": (draws, 1, 20), "Seed": (seed, 0, 2**31)}
    numbers = [whole_number(name, *limit) for name, limit in limits.items()]
    return Settings(k=numbers[0], num_hyperplanes=numbers[1] or None, draws=numbers[2], seed=numbers[3])


def build_app(metric: str = "lsh_precision_recall") -> gradio.Blocks:
    """The app, not started yet.

    Args:
        metric: Name in ``TITLES``: the metric whose Space this is; it gives the title and comes first.

    Raises:
        ImportError: gradio is missing.
        ValueError: Unknown metric.
    """
    title = f"{lookup(TITLES, metric, 'metric')} of generated images"
    gr = import_gradio()
    with new_page(title) as app:
        gr.Markdown(_INTRO.format(title=title))
        with gr.Tabs():
            with gr.Tab("Measure"):
                _build_measure(gr, metric)
            with gr.Tab("How it works"):
                _build_regions(gr)
    return queued(app)


def _build_measure(gr: Any, metric: str) -> None:
    whole = partial(gr.Number, precision=0)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            source = gr.Radio([EXAMPLE, UPLOAD], value=EXAMPLE, label="Samples", elem_id="source")
            with gr.Column() as examples:
                example = gr.Dropdown(list(EXAMPLES), value=next(iter(EXAMPLES)), label="Example", elem_id="example")
            with gr.Column(visible=False) as uploads:
                gr.Markdown(_HELP)
                kinds = [".npy", ".safetensors", ".parquet", ".zip"]
                real = gr.File(label="Real samples", file_types=kinds, elem_id="real", height=150)
                generated = gr.File(label="Generated samples", file_types=kinds, elem_id="generated", height=150)
                extractor = gr.Dropdown([PIXELS, FASHION], value=PIXELS, label="Features of images (for .zip only)")
            with gr.Row():
                k = whole(3, label="k", info="Neighbour that sets a ball's radius", minimum=1, maximum=50)
                planes = whole(0, label="Hyperplanes H", info="0: floor(log2(N + M))", minimum=0, maximum=62)
            with gr.Row():
                draws = whole(10, label="Draws", info="Of hyperplanes, averaged", minimum=1, maximum=20)
                seed = whole(0, label="Seed", info="Same seed, same planes", minimum=0)
            button = gr.Button("Compute", variant="primary", elem_id="compute")
        with gr.Column(scale=3, min_width=420):
            numbers = gr.HTML('<div class="note">Choose samples and press <b>Compute</b>.</div>', elem_id="numbers")
            picture = gr.HTML(elem_id="curves")

    def switch(choice: str) -> list[Any]:
        return [gr.update(visible=choice == each) for each in (EXAMPLE, UPLOAD)]

    source.change(switch, source, [examples, uploads], api_visibility="private", queue=False)
    inputs = [source, example, real, generated, extractor, k, planes, draws, seed]
    button.click(partial(on_compute, metric), inputs, [numbers, picture], api_visibility="private")


def _build_regions(gr: Any) -> None:
    gr.Markdown(
        "Filled marks count, hollow ones do not. Under KNN the lone real point at the right has a huge ball, which "
        "makes bad samples look real. Hyperplanes are likely to put it into a region of its own, where it has no ball "
        "at all. After Figure 1 of Mordido, Yang and Meinel (2021)."
    )
    with gr.Row():
        k = gr.Slider(1, 5, value=1, step=1, label="k")
        planes = gr.Slider(1, 8, value=5, step=1, label="Hyperplanes H")
        seed = gr.Slider(0, 20, value=2, step=1, label="Seed")
    picture = gr.HTML(on_regions(1, 5, 2), elem_id="regions")
    for control in (k, planes, seed):
        control.change(on_regions, [k, planes, seed], picture, api_visibility="private", trigger_mode="always_last")


def launch(metric: str = "lsh_precision_recall", **options: Any) -> None:
    """Build the app and serve it until it is stopped.

    Args:
        metric: Name in ``TITLES``.
        options: Of gradio's ``launch``, for instance ``server_port``.

    Raises:
        ImportError: gradio is missing.
        ValueError: Unknown metric.
    """
    serve(build_app(metric), **options)
