# SPDX-License-Identifier: Apache-2.0
"""Models and images that ship with the library: a few megabytes, so that everything can be tried without a network."""

from __future__ import annotations

from pathlib import Path

from ..core.registry import lookup


ASSETS = {
    "stylegan2-fashion-mnist": "stylegan2-fashion-mnist",
    "stylegan2-fashion-mnist-discriminator": "stylegan2-fashion-mnist-discriminator",
    "biggan-fashion-mnist": "biggan-fashion-mnist",
    "ddpm-fashion-mnist": "ddpm-fashion-mnist",
    "fashion-mnist-features": "fashion-mnist-features",
    "fashion-mnist-test-5000": "fashion-mnist-test-5000.parquet",
}
_FASHION_MNIST = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


def asset_path(name: str) -> Path:
    """Path of a bundled model folder or image file.

    Raises:
        ValueError: Unknown name.
        FileNotFoundError: The installation lacks the file.

    Example:
        >>> asset_path("fashion-mnist-test-5000").name
        'fashion-mnist-test-5000.parquet'
    """
    path = Path(__file__).parent / lookup(ASSETS, name, "asset")
    if not path.exists():
        raise FileNotFoundError(f"asset {name!r} is missing at {path}; install hf_ganzip again.")
    return path


def resolve(name: str | Path) -> str | Path:
    """The path of a bundled name; anything else as it is, and a bundled name too where a file or folder here is called
    so.

    Example:
        >>> resolve("fashion-mnist-test-5000").name, resolve("org/model")
        ('fashion-mnist-test-5000.parquet', 'org/model')
    """
    return asset_path(str(name)) if str(name) in ASSETS and not Path(name).exists() else name


def class_names(name: str | Path) -> tuple[str, ...]:
    """Names of the classes of a bundled model or image file, in the order of their numbers; () for anything else.

    Example:
        >>> class_names("biggan-fashion-mnist")[:2]
        ('T-shirt', 'trouser')
    """
    return _FASHION_MNIST if str(name) in ASSETS and not Path(name).exists() else ()
