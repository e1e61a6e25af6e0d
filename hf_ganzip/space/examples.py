# SPDX-License-Identifier: Apache-2.0
"""Pairs of feature sets that show what the metrics see."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch

from ..core.registry import lookup


_ROWS = 400
_DIM = 16


def load_example(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Real (400, d) and generated (400, d) features of a built-in example, float32; the same on every call.

    Raises:
        ValueError: Unknown name.

    Example:
        >>> real, generated = load_example("Mode collapse (toy)")
        >>> real.shape, generated.shape
        ((400, 16), (400, 16))
    """
    return lookup(EXAMPLES, name, "example")()


def _modes(count: int, spread: float, seed: int) -> np.ndarray:
    """Samples of the first ``count`` of ten Gaussian modes."""
    centres = 3 * np.random.default_rng(0).normal(size=(10, _DIM))
    random = np.random.default_rng(seed)
    return (centres[np.arange(_ROWS) % count] + spread * random.normal(size=(_ROWS, _DIM))).astype(np.float32)


def _toy(modes: int = 10, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    return _modes(10, 1.0, 1), _modes(modes, spread, 2)


def _outliers() -> tuple[np.ndarray, np.ndarray]:
    real, generated = _toy()
    random = np.random.default_rng(3)
    real[:8] = 40 * random.normal(size=(8, _DIM))  # their balls reach far, and cover whatever lies around
    generated[:] = 8 * random.normal(size=generated.shape)
    return real, generated


@lru_cache(maxsize=2)
def _fashion_mnist(bits: int | None) -> tuple[np.ndarray, np.ndarray]:
    from ..assets import asset_path
    from ..evaluation import extract_features
    from ..evaluation.sampling import sample_images
    from ..integration.opening import load_model
    from ..quantization import QuantizeConfig, quantize_

    generator: Any = load_model(asset_path("stylegan2-fashion-mnist"))
    if bits is not None:
        quantize_(generator, QuantizeConfig(method="aciq", bits=bits))
    generated, _ = sample_images(generator, _ROWS, progress=False)
    return _real_fashion(), extract_features(generated, progress=False).numpy()


@lru_cache(maxsize=1)
def _real_fashion() -> np.ndarray:
    from ..evaluation import extract_features, load_reference

    images, labels = load_reference("fashion-mnist-test-5000")
    per_class = _ROWS // 10
    chosen = torch.cat([torch.nonzero(labels == label).flatten()[:per_class] for label in range(10)])
    return extract_features(images[chosen], progress=False).numpy()


EXAMPLES = {
    "Mode collapse (toy)": partial(_toy, modes=3),
    "Equal distributions (toy)": _toy,
    "Low quality (toy)": partial(_toy, spread=1.8),
    "Outliers (toy)": _outliers,
    "Fashion-MNIST, StyleGAN2": partial(_fashion_mnist, None),
    "Fashion-MNIST, StyleGAN2 at 2 bits": partial(_fashion_mnist, 2),
}
