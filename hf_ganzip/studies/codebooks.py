# SPDX-License-Identifier: Apache-2.0
"""What the codebooks of a discriminator hold: usage, distances of real and generated images, pictures of codes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..core.modes import evaluating
from ..images import to_model_range
from ..images.grids import save_image_grid
from ..metrics import frechet_distance, kernel_distance
from ..metrics.inputs import as_features
from ..training.codebook import running_perplexity


_DEAD = 1e-3  # running count below which a code counts as unused
_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the Gaussian kernels, relative to the median distance
FORMS = ("histogram", "mean")


class _Found(Exception):
    """The wanted features are there."""


def code_usage(model: nn.Module) -> dict[str, dict[str, float]]:
    """Running counts of every codebook of a discriminator.

    Args:
        model: Discriminator with feature quantizers.

    Returns:
        Place -> ``codes``, ``dead`` (running count below 0.001), ``perplexity`` (exp of the entropy of the running
        counts, 1 to K), ``largest_share``.

    Raises:
        ValueError: The model has no feature quantizers.
    """
    found = {}
    for place, quantizer in _codebooks(model).items():
        counts = quantizer.cluster_size.double()
        found[place] = {
            "codes": len(counts),
            "dead": int((counts < _DEAD).sum()),
            "perplexity": float(running_perplexity(counts)),
            "largest_share": float(counts.max() / counts.sum().clamp_min(1e-12)),
        }
    return found


@torch.no_grad()
def code_maps(
    model: nn.Module, place: str, images: Tensor, labels: Tensor | None = None, batch_size: int = 64
) -> Tensor:
    """Code of every position of a quantized feature map.

    Args:
        model: Discriminator with feature quantizers; evaluated without any change to its state.
        place: Module path of the quantizer.
        images: uint8 (N, C, H, W).
        labels: Classes (N,), for conditional discriminators.
        batch_size: Images of one pass.

    Returns:
        (N, h, w) int64.

    Raises:
        ValueError: No such quantizer.
    """
    quantizer = _codebook(model, place)
    found: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, output: Any) -> None:
        found.append(output.indices.cpu())
        raise _Found  # what follows is not needed, and may not accept every batch size

    with evaluating(model), quantizer.register_forward_hook(keep):
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            batch = to_model_range(images[part].to(quantizer.embed.device))
            with suppress(_Found):
                model(batch) if labels is None else model(batch, labels[part].to(batch.device))
    return torch.cat(found)


def quantized_features(
    model: nn.Module, place: str, images: Tensor, labels: Tensor | None = None, form: str = "histogram"
) -> Tensor:
    """One row per image from its code map: shares of the codes (N, K), or the mean code vector (N, C), float64.

    Raises:
        ValueError: No such quantizer, or another form.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; allowed are {', '.join(FORMS)}.")
    maps = code_maps(model, place, images, labels).flatten(1)
    quantizer = _codebook(model, place)
    shares = torch.zeros(len(maps), quantizer.num_codes, dtype=torch.float64)
    shares.scatter_add_(1, maps, torch.full(maps.shape, 1 / maps.shape[1], dtype=torch.float64))
    return shares if form == "histogram" else shares @ quantizer.embed.double().cpu()


def maximum_mean_discrepancy(*, real: Tensor, generated: Tensor, kernel: str = "polynomial") -> float:
    """Unbiased squared MMD of two sets of rows; may be negative.

    Args:
        real: (N, d), N >= 2.
        generated: (M, d), M >= 2.
        kernel: "polynomial" (x.y / d + 1)^3, or "gaussian": the mean of five kernels around the median distance.

    Raises:
        TypeError: A set is no array.
        ValueError: Another kernel; a set is not (N, d), has fewer than 2 rows, NaN or infinity, or the dimensions
            differ.

    Source:
        Gretton et al., "A Kernel Two-Sample Test", equation 3.
    """
    if kernel == "polynomial":
        return float(kernel_distance(real=real, generated=generated, subset_size=None)["kernel_distance"])
    if kernel != "gaussian":
        raise ValueError(f"kernel is {kernel!r}; allowed are polynomial and gaussian.")
    real, generated = as_features(real=real, generated=generated)
    rows = torch.cat([real, generated]).double()
    squares = torch.cdist(rows, rows).square()
    apart = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    median = squares[apart].median().clamp_min(1e-12)
    values = torch.stack([(-squares / (2 * median * factor)).exp() for factor in _BANDWIDTHS]).mean(dim=0)
    n, m = len(real), len(generated)
    within = values[:n, :n].fill_diagonal_(0).sum() / (n * (n - 1))
    within += values[n:, n:].fill_diagonal_(0).sum() / (m * (m - 1))
    return float(within - 2 * values[:n, n:].mean())


def distances_per_class(
    *,
    real: Tensor,
    generated: Tensor,
    real_labels: Tensor,
    generated_labels: Tensor,
    distance: str = "frechet",
    **options: Any,
) -> dict[int, float]:
    """A distance of features within every class; as many samples on both sides, because small numbers raise it.

    Args:
        real: (N, d).
        generated: (M, d).
        real_labels: (N,).
        generated_labels: (M,).
        distance: "frechet" (fewer samples than dimensions need ``allow_singular=True``) or "mmd".
        **options: Of the distance.

    Raises:
        ValueError: A class without samples on one side, or another distance.
    """
    if distance not in ("frechet", "mmd"):
        raise ValueError(f"distance is {distance!r}; allowed are frechet and mmd.")
    found = {}
    for label in sorted(set(real_labels.tolist()) | set(generated_labels.tolist())):
        first, second = real[real_labels == label], generated[generated_labels == label]
        count = min(len(first), len(second))
        if not count:
            raise ValueError(f"class {label} has {len(first)} real and {len(second)} generated samples.")
        pair = {"real": first[:count], "generated": second[:count]}
        if distance == "mmd":
            found[label] = maximum_mean_discrepancy(**pair, **options)
        else:
            found[label] = frechet_distance(**pair, **options)["frechet_distance"]
    return found


def save_code_maps(
    model: nn.Module,
    place: str,
    real: Tensor,
    generated: Tensor,
    path: str | Path,
    *,
    real_labels: Tensor | None = None,
    generated_labels: Tensor | None = None,
    seed: int = 0,
) -> None:
    """Picture as in Figure 1: real images with code maps above, generated ones below; each code has a colour.

    Similar codes have similar colours: the codes are put on a line by t-SNE (scikit-learn; with fewer than ten live
    codes or without it, by their first principal component), and the line is coloured as a rainbow.

    Args:
        model: Discriminator with feature quantizers.
        place: Module path of the quantizer.
        real: uint8 (N, C, H, W).
        generated: uint8 (M, C, H, W).
        path: PNG file.
        real_labels: Classes (N,), for conditional discriminators.
        generated_labels: Classes (M,).
        seed: Of t-SNE.

    Source:
        FQ-GAN, figure 1.
    """
    quantizer = _codebook(model, place)
    colors = code_colors(quantizer.embed.cpu(), quantizer.cluster_size.cpu() >= _DEAD, seed)
    rows = []
    for images, labels in ((real, real_labels), (generated, generated_labels)):
        painted = colors[code_maps(model, place, images, labels)].movedim(3, 1)
        painted = nn.functional.interpolate(painted.float(), images.shape[-2:], mode="nearest").to(torch.uint8)
        rows += [images.cpu().expand(-1, 3, -1, -1), painted]
    columns = max(len(real), len(generated))
    blank = torch.full((1, 3, *real.shape[-2:]), 255, dtype=torch.uint8)
    filled = [torch.cat([row, blank.expand(columns - len(row), -1, -1, -1)]) for row in rows]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_image_grid(torch.cat(filled), path, columns=columns, row_labels=("real", "codes", "generated", "codes"))


def code_colors(embed: Tensor, live: Tensor, seed: int = 0) -> Tensor:
    """Colours (K, 3) uint8 of codes (K, C); codes that are not ``live`` (K,) are grey."""
    colors = torch.full((len(embed), 3), 128, dtype=torch.uint8)
    count = int(live.sum())
    if not count:
        return colors
    ranks = _on_a_line(embed[live].double(), seed).argsort().argsort()
    pixels = np.full((1, count, 3), 255, np.uint8)
    pixels[0, :, 0] = (ranks.double() / max(count - 1, 1) * 0.8 * 255).round()  # hues from red to violet
    colors[live] = torch.from_numpy(np.array(Image.fromarray(pixels, mode="HSV").convert("RGB"))[0])
    return colors


def _on_a_line(rows: Tensor, seed: int) -> Tensor:
    if len(rows) >= 10:
        try:
            from sklearn.manifold import TSNE

            line = TSNE(1, perplexity=min(30, len(rows) / 4), init="pca", random_state=seed)
            return torch.from_numpy(line.fit_transform(rows.numpy())[:, 0])
        except ImportError:
            pass
    centred = rows - rows.mean(dim=0)
    return centred @ torch.linalg.svd(centred, full_matrices=False)[2][0]


def _codebook(model: nn.Module, place: str) -> nn.Module:
    found = _codebooks(model)
    if place not in found:
        raise ValueError(f"the model has no feature quantizer at {place!r}; it has {', '.join(found)}.")
    return found[place]


def _codebooks(model: nn.Module) -> dict[str, nn.Module]:
    found = getattr(model, "codebooks", None)
    if found is None:
        raise ValueError(f"{type(model).__name__} has no feature quantizers; add_feature_quantizers puts them in.")
    return {place.replace("/", "."): quantizer for place, quantizer in found.items()}
