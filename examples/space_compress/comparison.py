# SPDX-License-Identifier: Apache-2.0
"""A generator before and after compression, at the same latents: what the page shows, without the page."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from html import escape
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image

import hf_ganzip as gz
from hf_ganzip.assets import asset_path
from hf_ganzip.evaluation import extract_features
from hf_ganzip.evaluation.cost import held_bytes
from hf_ganzip.evaluation.sampling import sample_images
from hf_ganzip.evaluation.sources import evenly, load_reference
from hf_ganzip.images.grids import image_grid
from hf_ganzip.publishing.upload import NETWORK_ERRORS
from hf_ganzip.space.page import cell, pixel_features, whole_number
from hf_ganzip.space.results import PAIRS, Settings, compare


BUNDLED = {
    "StyleGAN2, Fashion-MNIST": "stylegan2-fashion-mnist",
    "BigGAN, Fashion-MNIST": "biggan-fashion-mnist",
    "DDPM, Fashion-MNIST (slow)": "ddpm-fashion-mnist",
}
METHODS = {
    "Analytical clipping (C+Q)": "aciq",
    "Linear (Q)": "linear",
    "Monte Carlo (P+Q)": "monte_carlo",
    "Outlier channel splitting (S+Q)": "outlier_splitting",
    "Clipping by squared error": "mse_clip",
    "Codebook": "codebook",
}
_REFERENCE = "fashion-mnist-test-5000"
_SHOWN, _COLUMNS = 20, 5
_GRID_PIXELS = 1280  # width of the shown grid, about
_STEPS = 20  # of DDIM
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_FILE = re.compile(r"config\.json|[\w.-]+\.safetensors(\.index\.json)?")


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask of the machine."""

    download_bytes: int = 400 * 2**20
    parameters: int = 100_000_000
    side: int = 256  # of images, in pixels
    pixels: int = 1000 * 64 * 64  # of all measured images of one side
    diffusion_images: int = 128


LIMITS = Limits()


@dataclass(frozen=True)
class Request:
    """What a visitor asked for, checked.

    Args:
        model: Bundled name or ``owner/name`` of the Hub.
        method: Name in ``hf_ganzip``'s ``METHODS``.
        bits: 2 to 8.
        num_images: To measure with, 64 to 1,000.
        seed: Image i is drawn from (seed, i).
        keep_last_block: Leave the last block in full precision (the paper's rule).

    Raises:
        ValueError: A value is not allowed; one line.
    """

    model: str
    method: str = "aciq"
    bits: int = 4
    num_images: int = 500
    seed: int = 0
    keep_last_block: bool = True

    def __post_init__(self) -> None:
        if self.model not in BUNDLED.values() and not _REPO_ID.fullmatch(str(self.model)):
            raise ValueError(f"{str(self.model)[:100]!r} is no model id of the Hub; write owner/name.")
        if self.method not in METHODS.values():
            raise ValueError(f"Unknown method {str(self.method)[:100]!r}.")
        limits = {"bits": (2, 8), "num_images": (64, 1000), "seed": (0, 2**31)}
        for name, (least, most) in limits.items():
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least, most))


@dataclass(frozen=True)
class Side:
    """The full or the compressed generator as measured."""

    images: torch.Tensor  # (N, C, H, W) uint8
    metrics: Mapping[str, Any]  # of hf_ganzip.space.results.compare
    num_bytes: int


@dataclass(frozen=True)
class Comparison:
    """Both sides, at the same latents."""

    request: Request
    full: Side
    compressed: Side
    bits_per_weight: float
    reference: str  # what precision and recall were measured against
    steps: int | None  # of DDIM; None: a GAN

    def pictures(self) -> tuple[Image.Image, Image.Image]:
        """Grids of the same latents: full, compressed."""
        full, compressed = (_grid(side.images) for side in (self.full, self.compressed))
        return full, compressed


def run(
    request: Request, limits: Limits = LIMITS, report: Callable[[float, str], Any] = lambda share, what: None
) -> Comparison:
    """Compress and measure; ``report`` hears the share done and what comes next.

    Raises:
        ValueError: The model cannot be opened, is too large, or is packed already; one line.
    """
    report(0.0, "opening the generator")
    model = _open(request.model, limits)
    report(0.15, "images of the full generator")
    side_length, count = _sizes(model, request, limits)
    sample = partial(sample_images, seed=request.seed, batch_size=max(1, min(100, 2**20 // side_length**2)))
    if request.model in BUNDLED.values():
        real, reference = evenly(load_reference(_REFERENCE, resolution=side_length)[0], count), "real test images"
    else:
        real = _sample(sample, model, count, seed=request.seed + 1)
        reference = "other images of the full generator"
    full_images = _sample(sample, model, count)
    small = copy.deepcopy(model)
    report(0.5, "compressing")
    options = {"method": request.method, "bits": request.bits, "skip_last_block": request.keep_last_block}
    quantized = gz.quantize_(small, preset="paper", **options)
    report(0.6, "images of the compressed generator")
    small_images = _sample(sample, small, count)
    report(0.9, "precision and recall")
    real_features = _features(real, request)
    metrics = [
        compare(real_features, _features(images, request), Settings(seed=request.seed))
        for images in (full_images, small_images)
    ]
    return Comparison(
        request,
        Side(full_images, metrics[0], held_bytes(model)),
        Side(small_images, metrics[1], quantized.bytes_after),
        quantized.bits_per_weight,
        reference,
        None if "z_dim" in model.config else _STEPS,
    )


@lru_cache(maxsize=2)
def _open(name: str, limits: Limits) -> Any:
    """The model in evaluation mode; weights of the Hub are read from safetensors only, and only public ones."""
    if name in BUNDLED.values():
        return gz.load_model(asset_path(name)).eval()
    try:
        api = HfApi(token=False)  # what the owner of the Space may see is not for its visitors
        commit = api.model_info(name).sha
        found = api.list_repo_tree(name, revision=commit)
        files = {each.path: each.size for each in found if hasattr(each, "size") and _FILE.fullmatch(each.path)}
        if "config.json" not in files or len(files) < 2:
            raise ValueError(f"{name} has no config.json with safetensors beside it; pipelines cannot be opened here.")
        if sum(files.values()) > limits.download_bytes:
            size = sum(files.values()) / 2**20
            raise ValueError(
                f"{name} has {size:.0f} MiB of weights; here at most {limits.download_bytes // 2**20} are opened."
            )
        folder = snapshot_download(name, revision=commit, allow_patterns=list(files), token=False)
    except RepositoryNotFoundError as error:
        raise ValueError(f"{name} is not on the Hub, or not public.") from error
    except NETWORK_ERRORS as error:
        raise ValueError(f"{name} cannot be downloaded now ({type(error).__name__}); try again later.") from error
    try:
        with torch.device("meta"):
            planned = sum(parameter.numel() for parameter in gz.from_config(folder).parameters())
        if planned <= limits.parameters:
            return gz.load_model(folder).eval()
    except Exception as error:  # whatever a stranger's files lead to, the visitor gets one line
        reason = " ".join(str(error).replace(str(folder), name).split())[:300]
        raise ValueError(f"{name} cannot be opened: {reason}") from error
    raise ValueError(f"{name} has {planned:,} parameters; here at most {limits.parameters:,} are opened.")


def _sizes(model: Any, request: Request, limits: Limits) -> tuple[int, int]:
    """Side of the images, and how many are measured."""
    side = getattr(model.config, "resolution", None) or getattr(model.config, "sample_size", None)
    if not isinstance(side, int):
        raise ValueError(f"{request.model} is a {type(model).__name__}; this page opens generators of images.")
    if side > limits.side:
        raise ValueError(f"{request.model} makes images of {side} pixels; here at most {limits.side} are drawn.")
    count = min(request.num_images, limits.pixels // side**2)
    return side, min(count, limits.diffusion_images) if "z_dim" not in model.config else count


def _sample(sample: Callable[..., Any], model: Any, count: int, **options: Any) -> torch.Tensor:
    images: torch.Tensor = sample(model, count, steps=_STEPS, progress=False, **options)[0]
    return images


def _features(images: torch.Tensor, request: Request) -> np.ndarray:
    """Of the bundled classifier for bundled generators, else pixels at 32 x 32."""
    if request.model in BUNDLED.values():
        return extract_features(images, "fashion_mnist", progress=False).numpy()
    return pixel_features(images.permute(0, 2, 3, 1).numpy())


def _grid(images: torch.Tensor) -> Image.Image:
    shown = images[:_SHOWN]
    scale = max(1, round(_GRID_PIXELS / (_COLUMNS * shown.shape[-1])))
    return image_grid(shown, _COLUMNS, padding=1, scale=scale).convert("RGB")


def table(found: Comparison) -> str:
    """HTML: full and compressed side by side; every value's element is marked ``data-metric`` and ``data-side``."""
    sides = {"full": found.full, "compressed": found.compressed}
    rows = [
        (
            "Size of the weights",
            [cell("bytes", f"{each.num_bytes / 1024:,.0f} KiB", side=side) for side, each in sides.items()],
        )
    ]
    for pair, label in PAIRS.items():
        for kind in ("precision", "recall"):
            name = f"{pair}_{kind}"
            cells = [
                cell(name, f"{each.metrics[name]:.3f}", each.metrics[name], side=side) for side, each in sides.items()
            ]
            rows.append((f"{label} {kind}", cells))
    body = "".join(f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>' for label, cells in rows)
    metrics, smaller = found.full.metrics, found.full.num_bytes / found.compressed.num_bytes
    bundled = found.request.model in BUNDLED.values()
    features = "bundled Fashion-MNIST classifier" if bundled else "pixels at 32 x 32"
    conditions = (
        f"{found.bits_per_weight:.2f} bits per quantized weight, {smaller:.2f} times smaller. Precision is quality, "
        f"recall is diversity: {metrics['n_generated']:,} images against {metrics['n_real']:,} {found.reference}, "
        f"k = {metrics['k']}, H = {metrics['num_hyperplanes']}, {metrics['draws']} draws, seed {found.request.seed}, "
        f"features: {features}."
    )
    if found.steps:
        conditions += f" {found.steps} steps of DDIM."
    few = metrics["n_generated"] < 500
    warning = " With so few images, differences of a few hundredths mean nothing." if few else ""
    head = '<thead><tr><td></td><th scope="col">Full</th><th scope="col">Compressed</th></tr></thead>'
    return (
        f'<div class="results"><table>{head}<tbody>{body}</tbody></table><p>{escape(conditions + warning)}</p></div>'
    )


def snippet(request: Request) -> str:
    """Python that repeats the compression and saves the model."""
    bundled = request.model in BUNDLED.values()
    source = f'asset_path("{request.model}")' if bundled else f'"{request.model}"'
    options = {key: value for key, value in asdict(request).items() if key in ("method", "bits")}
    chosen = ", ".join(f"{key}={value!r}" for key, value in options.items()).replace("'", '"')
    chosen += ', preset="paper"' + ("" if request.keep_last_block else ", skip_last_block=False")
    return "\n".join(
        [
            "import hf_ganzip as gz",
            *(["from hf_ganzip.assets import asset_path"] if bundled else []),
            "",
            f"model = gz.load_model({source})",
            f"print(gz.quantize_(model, gz.QuantizeConfig({chosen})))",
            'model.save_pretrained("small")  # from_pretrained restores it, bit for bit',
        ]
    )
