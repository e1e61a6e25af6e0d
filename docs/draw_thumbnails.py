# SPDX-License-Identifier: Apache-2.0
"""Draw thumbnail.png of every Space: ``python docs/draw_thumbnails.py``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_ganzip.assets import asset_path
from hf_ganzip.evaluation.plotting import new_figure
from hf_ganzip.evaluation.sampling import sample_images
from hf_ganzip.images.grids import image_grid
from hf_ganzip.integration.opening import load_model
from hf_ganzip.quantization import QuantizeConfig, quantize_
from hf_ganzip.space.app import TITLES
from hf_ganzip.space.pictures import region_figure


ROOT = Path(__file__).parents[1]
SIZE = (1200, 630)  # what social networks show


def save(figure: Any, title: str, folder: Path) -> None:
    figure.suptitle(title, fontsize=30)
    figure.set_size_inches(SIZE[0] / 90, SIZE[1] / 90)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    Image.open(buffer).convert("RGB").quantize(48).save(folder / "thumbnail.png", optimize=True)


def compressed_samples() -> Any:
    """Two rows: images of the bundled StyleGAN2, and the same latents at 3 bits."""
    generator = load_model(asset_path("stylegan2-fashion-mnist"))
    full, _ = sample_images(generator, 8, progress=False)
    quantize_(generator, QuantizeConfig(method="linear", bits=3))
    small, _ = sample_images(generator, 8, progress=False)
    figure = new_figure(13, 6.9)
    axes = figure.subplots()
    axes.imshow(np.asarray(image_grid(torch.cat([full, small]), columns=8)), cmap="gray", interpolation="nearest")
    axes.set_xlabel("above: 32 bits; below: the same latents at 3 bits", fontsize=18)
    axes.set(xticks=[], yticks=[])
    return figure


if __name__ == "__main__":
    for metric, title in TITLES.items():
        save(region_figure()[0], title, ROOT / "metrics_hub" / metric)
    save(compressed_samples(), "Compress a generator", ROOT / "examples" / "space_compress")
