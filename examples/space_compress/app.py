# SPDX-License-Identifier: Apache-2.0
"""Make a generator small and see what it costs: ``python app.py`` (needs ``pip install "hf_ganzip[space]"``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comparison import BUNDLED, LIMITS, METHODS, Request, run, snippet, table

from hf_ganzip.space.page import import_gradio, new_page, queued, refused, serve


if TYPE_CHECKING:
    import gradio

gr = import_gradio()

_HUB = "A generator on the Hub"
_TITLE = "Make a generator small, and see what it costs"
_INTRO = f"""
# {_TITLE}

The weights of a generator are quantized to a few bits. Left of the handle are images of the full generator, right
of it **the same latents** after compression; below, what it saves and what it does to **precision** (quality) and
**recall** (diversity). Made with hf_ganzip.
"""
_HELP = f"""
A public model that hf_ganzip or diffusers saved (`config.json` and safetensors): a GAN generator or a `UNet2DModel`,
at most {LIMITS.download_bytes // 2**20} MiB, {LIMITS.parameters // 10**6} million parameters and {LIMITS.side}
pixels. Nothing in it is executed.
"""
_EMPTY = '<div class="note">Choose a generator and press <b>Compress</b>.</div>'


def on_compress(
    source: str,
    repo_id: str,
    method: str,
    bits: float,
    num_images: float,
    seed: float,
    keep: bool,
    progress=gr.Progress(),  # noqa: B008  (how gradio asks for it),
) -> tuple[Any, str, Any]:
    """What the button does: pictures, HTML of the figures (or the one-line reason why there are none), code."""
    try:
        model = (repo_id or "").strip() if source == _HUB else BUNDLED.get(source, "")
        request = Request(model, METHODS.get(method, str(method)), bits, num_images, seed, bool(keep))
        found = run(request, report=lambda share, what: progress(share, desc=what))
    except (ValueError, TypeError) as error:
        return gr.update(value=None, visible=False), refused(error), gr.update(value="", visible=False)
    return (
        gr.update(value=found.pictures(), visible=True),
        table(found),
        gr.update(value=snippet(request), visible=True),
    )


def build() -> gradio.Blocks:
    """The page, not started yet."""
    with new_page(_TITLE) as app:
        gr.Markdown(_INTRO)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                source = gr.Dropdown([*BUNDLED, _HUB], value=next(iter(BUNDLED)), label="Generator", elem_id="source")
                with gr.Column(visible=False) as hub:
                    repo_id = gr.Textbox(label="Model id", placeholder="owner/name", max_length=200, elem_id="repo")
                    gr.Markdown(_HELP)
                method = gr.Dropdown(list(METHODS), value=next(iter(METHODS)), label="Method", elem_id="method")
                bits = gr.Slider(2, 8, value=3, step=1, label="Bits")
                with gr.Accordion("Measurement", open=False):
                    images = gr.Slider(64, 1000, value=500, step=4, label="Images", info="More give steadier figures")
                    seed = gr.Number(0, label="Seed", info="Of latents and hyperplanes", minimum=0, precision=0)
                    keep = gr.Checkbox(True, label="Leave the last block in full precision (as the paper does)")
                button = gr.Button("Compress", variant="primary", elem_id="compress")
            with gr.Column(scale=3, min_width=420):
                slider = gr.ImageSlider(
                    label="Full | compressed",
                    show_label=False,
                    max_height=640,
                    visible=False,
                    interactive=False,
                    format="png",
                    type="pil",
                    buttons=["fullscreen"],
                    elem_id="pictures",
                )
                figures = gr.HTML(_EMPTY, elem_id="figures")
                code = gr.Code(
                    language="python", label="The same in Python", visible=False, elem_id="code", interactive=False
                )
        source.change(
            lambda choice: gr.update(visible=choice == _HUB), source, hub, api_visibility="private", queue=False
        )
        inputs = [source, repo_id, method, bits, images, seed, keep]
        button.click(on_compress, inputs, [slider, figures, code], api_visibility="private")
    return queued(app)


if __name__ == "__main__":
    serve(build(), max_file_size="1kb")  # the page takes no files
