# SPDX-License-Identifier: Apache-2.0
"""What the pages take for granted: the repositories of the Hub that they name, and the reader's own files and
variables.
"""

from __future__ import annotations

import gzip
import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hf_ganzip.assets import asset_path

from ..conftest import tiny_biggan_discriminator, tiny_generator, tiny_stylegan3, tiny_unet
from .pages import ROOT


SHORTER_RECIPES = {"samples: 200": "samples: 16"}
LABELS = [i % 10 for i in range(200)]


def repositories(folder: Path) -> dict[str, Path]:
    """Small stand-ins by the ids that the pages use."""
    import torch

    from ..test_transformers import tiny_pipeline
    from ..tiny_pipelines import build

    models = {
        "google/ddpm-cifar10-32": tiny_unet(sample_size=32),
        "google/ddpm-ema-bedroom-256": tiny_unet(sample_size=32),
        "org/stylegan2": tiny_generator(resolution=32, image_channels=1, channels=(16, 16, 8, 8)),
        "org/stylegan3": tiny_stylegan3(resolution=32),
        "org/model": tiny_pipeline(folder / "tokenizer"),
        "stabilityai/stable-diffusion-xl-base-1.0": build("stable diffusion xl"),
        "black-forest-labs/FLUX.1-dev": build("flux"),
    }
    found = {}
    for name, model in models.items():
        model.save_pretrained(folder / name)
        found[name] = folder / name
    found["org/flux-lora"] = folder / "org" / "flux-lora"
    layers = {"x_embedder.lora_A.weight": torch.ones(2, 16), "x_embedder.lora_B.weight": torch.ones(32, 2)}
    models["black-forest-labs/FLUX.1-dev"].save_lora_weights(found["org/flux-lora"], transformer_lora_layers=layers)
    grey, colour = _pixels(28), _pixels(32, "RGB")
    for name, column, pixels in (
        ("zalando-datasets/fashion_mnist", "image", grey),
        ("uoft-cs/cifar10", "img", colour),
        ("org/images", "image", grey),
    ):
        data = folder / "datasets" / name / "data"
        data.mkdir(parents=True)
        found[f"datasets/{name}"] = data.parent
        table = pa.table({column: [{"bytes": _png(each), "path": None} for each in pixels], "label": LABELS})
        for split in ("train", "test"):
            pq.write_table(table, data / f"{split}-00000-of-00001.parquet")
    return found


def names(page: Path) -> Mapping[str, Any]:
    """Variables of a page; what it expects in the working folder is written there."""
    Path("metrics_hub").symlink_to(ROOT / "metrics_hub")
    shutil.copytree(ROOT / "examples", "examples")
    for path in Path("examples", "recipes").iterdir():
        text = path.read_text(encoding="utf-8")
        for long, short in SHORTER_RECIPES.items():
            text = text.replace(long, short)
        path.write_text(text, encoding="utf-8")
    key = str(page.relative_to(ROOT))
    if key.startswith("metrics_hub/") or key == "docs/metrics.md":
        return _metrics()
    return {
        "docs/models.md": _models,
        "docs/quantization.md": lambda: {"model": tiny_generator()},
        "docs/training.md": _training,
        "docs/publishing.md": _small,
        "docs/scaling-out.md": _small,
        "docs/studies/fq.md": _fashion_mnist,
        "docs/studies/svs.md": _fashion_mnist,
    }.get(key, dict)()


def _metrics() -> Mapping[str, Any]:
    random = np.random.default_rng(0)
    sets = {name: random.normal(size=(60, 8)) for name in ("real", "generated", "real_batch", "more_real", "features")}
    for name, pixels in (("REAL", _pixels(28)), ("GENERATED", _pixels(28)[::-1])):
        Path(name).mkdir()
        for i, each in enumerate(pixels):
            Path(name, f"{i:03}.png").write_bytes(_png(each))
    return sets | {
        "batches": np.split(sets["generated"], 4),
        "generated_features": sets["generated"],
        "real_features": sets["real"],
        **{"processes": 1, "rank": 0, "my_generated": sets["generated"], "my_real": sets["real"]},
    }


def _models() -> Mapping[str, Any]:
    import torch

    from ..checkpoints import foreign
    from ..models.golden import GOLDEN, load_golden, part

    _, weights, _ = load_golden("stylegan2_small_skip")
    generator = part(weights, "G.")
    checkpoint = {"g_ema": foreign.rosinality_generator(generator), "latent_avg": generator["mapping.w_avg"]}
    torch.save(checkpoint, "550000.pt")
    torch.save({"genA2B": part(load_golden("ugatit_light")[1], "G.")}, "selfie2anime.pt")
    Path("stylegan3-t-ffhqu-256x256.pkl").write_bytes((GOLDEN / "pickles" / "stylegan3_t.pkl").read_bytes())
    Image.fromarray(_pixels(64, "RGB")[0]).save("selfie.png")
    return {}


def _training() -> Mapping[str, Any]:
    import torch

    images, labels = torch.randn(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64)
    return {"discriminator": tiny_biggan_discriminator(), "images": images, "labels": labels}


def _small() -> Mapping[str, Any]:
    import hf_ganzip as gz

    model = gz.StyleGAN2Generator.from_pretrained(asset_path("stylegan2-fashion-mnist"))
    gz.quantize_(model)
    model.save_pretrained("small")
    return {}


def _fashion_mnist() -> Mapping[str, Any]:
    Path("FASHION_MNIST").mkdir()
    for name, array in (("images-idx3", _pixels(28)), ("labels-idx1", np.array(LABELS, np.uint8))):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
        for prefix in ("train", "t10k"):
            file = Path("FASHION_MNIST", f"{prefix}-{name}-ubyte.gz")
            file.write_bytes(gzip.compress(header + array.tobytes()))
    return {}


def _pixels(side: int, mode: str = "L") -> np.ndarray:
    """200 bundled images (200, side, side[, 3]) uint8; sides other than 28 by resizing."""
    column = pq.read_table(asset_path("fashion-mnist-test-5000"))["image"].slice(0, len(LABELS)).to_pylist()
    images = [Image.open(io.BytesIO(cell["bytes"])).convert(mode) for cell in column]
    return np.stack([np.asarray(image.resize((side, side))) for image in images])


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
