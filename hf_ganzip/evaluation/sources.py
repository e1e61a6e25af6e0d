# SPDX-License-Identifier: Apache-2.0
"""What can be compared: images, bundled ones too, features, or a model to sample, found by one rule."""

from __future__ import annotations

import json
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ModelMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..assets import ASSETS, resolve
from ..core.extras import needed_by
from ..core.registry import suggestion
from ..images import pil_to_array, resize_image, square_image, stack_images
from ..images.files import StoredImages, find_images
from ..integration.opening import load_model
from .streams import ImageStream, Resize, open_stream, squares


def load_reference(
    source: str | Path, *, split: str = "test", resolution: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Load real images.

    Args:
        source: "fashion-mnist-test-5000" (bundled), or a parquet file, a folder of image files (sorted),
            a folder of MNIST-type idx files, or a `datasets` id; see :func:`hf_ganzip.images.read_images`.
        split: "train" or "test"; a parquet file is one split.
        resolution: Side of the result: smaller images are centred on black, larger ones cropped and resized.
            None keeps the stored size, which must then be one for all.

    Images of files and `datasets` come from the column "image" or else the only one with images, class ids from
    "label".

    Returns:
        Images uint8 (N, C, H, W), and class ids int64 (N,) or None where the source has none.

    Raises:
        FileNotFoundError: ``source`` is no file or folder, and no `datasets` id that can be reached.
        ValueError: No images, unreadable ones, a missing column or split, or images of different sizes.

    Example:
        >>> images, labels = load_reference("fashion-mnist-test-5000")
        >>> images.shape, labels.bincount().tolist()
        (torch.Size([5000, 1, 28, 28]), [500, 500, 500, 500, 500, 500, 500, 500, 500, 500])
    """
    stored = find_reference(source, split=split)
    to_size = None if resolution is None else lambda image: resize_image(image, resolution)
    try:
        pixels = stack_images(stored.decode_all(pil_to_array, to_size))
    except ValueError as error:
        raise ValueError(f"{source}, split {split!r}: {error}") from error
    return pixels, None if stored.labels is None else torch.from_numpy(stored.labels)


def find_reference(source: str | Path, *, split: str = "test") -> StoredImages:
    """Where the images of :func:`load_reference` are, before one is read.

    Raises:
        FileNotFoundError: As :func:`load_reference`.
        ValueError: No images, or a missing column or split.
    """
    path = resolve(source)
    if Path(path).is_file() and Path(path).suffix != ".parquet":
        raise ValueError(
            f"{source} is a file of no known kind; allowed are .parquet, .npy and .safetensors files and folders."
        )
    try:
        return find_images(path, split=split)
    except OSError as error:
        if Path(path).exists():
            raise
        hint = suggestion(ASSETS, str(source))
        raise FileNotFoundError(f"{source}: neither here nor on the Hub, or no connection.{hint} {error}") from error
    except ValueError as error:
        raise ValueError(f"{source}, split {split!r}: {error}") from error


def evenly(images: Tensor, count: int) -> Tensor:
    """At most ``count`` of ``images`` or labels, evenly spaced, so that those sorted by class keep their balance."""
    count = min(count, len(images))
    return images[torch.arange(count) * len(images) // count]


@dataclass(frozen=True)
class Source:
    """Exactly one of ``images`` uint8 (N, C, H, W), ``stream``, ``features`` (N, d) and ``model``.

    Args:
        name: How it was called.
        stream: Images of files or `datasets`, in place of ``images``, where streaming was asked for.
        labels: Class ids int64 (N,) of images, where they are known.
        extractor_digest: Of the extractor that made the features, where their file says so.
    """

    name: str
    images: Tensor | None = None
    stream: ImageStream | None = None
    labels: Tensor | None = None
    features: Tensor | None = None
    model: ModelMixin | None = None
    extractor_digest: str | None = None


def open_source(
    source: Any, *, split: str = "test", resolution: int | None = None, streamed: bool = False, progress: bool = False
) -> Source:
    """Find out what ``source`` is.

    Args:
        source: A model, a tensor or array (uint8 (N, C, H, W) are images, numbers (N, d) features), or the name of
            a bundled model or image set;
            a folder of a model or of a pipeline, of which the denoiser is meant, or ``model:ID`` for one on the Hub;
            a folder of images, a parquet file with an ``image`` or a ``features`` column;
            a .npy or .safetensors file with features (N, d) or uint8 images (N, C, H, W);
            a `datasets` id.
        split: Of a `datasets` id, or of a folder that has one of this name: "train" or "test".
        resolution: Side of images, as for :func:`.load_reference`; None keeps theirs.
        streamed: Leave images of files and `datasets` where they are, at their sizes: ``stream`` instead of ``images``.
        progress: Show how many of them were looked at, where it takes long.

    Raises:
        FileNotFoundError: There is no such file or folder, and it can be no id.
        TypeError: A tensor or array of another kind, or another object.
        ValueError: The file is damaged or holds something else.
    """
    if isinstance(source, ModelMixin):
        return Source(type(source).__name__, model=source)
    if isinstance(source, np.ndarray):
        return _of_tensor("array", torch.from_numpy(np.require(source, requirements=["C", "W"])), resolution)
    if isinstance(source, Tensor):
        return _of_tensor("tensor", source, resolution)
    if not isinstance(source, (str, Path)):
        raise TypeError(f"a {type(source).__name__} is no source; allowed are a model, a tensor, an array and a name.")
    name, path = str(source), Path(resolve(source))
    if name.startswith("model:"):
        return Source(name, model=load_model(name.removeprefix("model:")))
    if (path / "config.json").is_file() or (path / "model_index.json").is_file():
        return Source(name, model=load_model(path))
    if path.suffix == ".npy":
        return _of_tensor(name, _read_npy(path), resolution)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, resolution)
    if path.suffix == ".parquet" and path.is_file():
        features = _read_feature_column(path)
        if features is not None:
            return _of_tensor(name, features)
    if streamed:
        return Source(name, stream=open_stream(find_reference(source, split=split), progress=progress))
    images, labels = load_reference(source, split=split, resolution=resolution)
    return Source(name, images=images, labels=labels)


def write_features(path: str | Path, features: Tensor, conditions: dict[str, Any]) -> None:
    """Write features (N, d) and where they come from to a .safetensors file that :func:`open_source` opens."""
    from safetensors.torch import save_file

    metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in conditions.items()}
    save_file({"features": features.contiguous()}, path, metadata)


def _of_tensor(name: str, values: Tensor, resolution: int | None = None, digest: str | None = None) -> Source:
    if values.ndim == 4 and values.dtype == torch.uint8:
        return Source(name, images=squares(values, resolution, resize_image))
    if values.ndim == 2 and (values.is_floating_point() or values.dtype != torch.uint8):
        return Source(name, features=values, extractor_digest=digest)
    raise TypeError(
        f"{name} has shape {tuple(values.shape)} and dtype {values.dtype}; allowed are features (N, d) and images "
        "uint8 (N, C, H, W)."
    )


def _read_npy(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (ValueError, EOFError, TypeError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(
            f"{path} is no .npy file of numbers that can be read without running code: {error}"
        ) from error


def _read_safetensors(path: Path, resolution: int | None) -> Source:
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            if names != ["features"] and len(names) != 1:
                raise ValueError(f"{path} has the tensors {', '.join(names)}; allowed is one, best named 'features'.")
            digest = metadata.get("extractor_digest")
            return _of_tensor(str(path), file.get_tensor(names[0]), resolution, digest)
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file: {error}") from error


def _read_feature_column(path: Path) -> Tensor | None:
    """Column ``features`` of a parquet file as (N, d), None where there is none."""
    with needed_by("Reading parquet files needs pyarrow", "metrics"):
        import pyarrow
        import pyarrow.parquet
    try:
        if "features" not in pyarrow.parquet.read_schema(path).names:
            return None
        column = pyarrow.parquet.read_table(path, columns=["features"])["features"].combine_chunks()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from error
    values = np.asarray(column.flatten())
    if len(column) == 0 or len(values) % len(column) or column.null_count:
        raise ValueError(f"{path}: the column 'features' does not hold vectors of one length.")
    return torch.from_numpy(values.reshape(len(column), -1).copy())


def images_of(
    side: Source, resolution: int | None = None, resize: Resize = square_image
) -> Tensor | ImageStream | None:
    """The images of a side, or where they are, as ``resize`` makes squares of ``resolution`` of them if that is given;
    None for features and models.
    """
    if side.stream is not None:
        return side.stream.at(resolution, resize)
    return None if side.images is None else squares(side.images, resolution, resize)


def common_digest(sides: Mapping[str, Source], digest: str | None) -> str | None:
    """Digest of the extractor of both sides, as far as it is known; ``digest`` is that of the one that is used here.

    Raises:
        ValueError: There are two.
    """
    for side in sides.values():
        if digest and side.extractor_digest not in (None, digest):
            raise ValueError(
                f"{side.name} holds features of another extractor (digest {side.extractor_digest[:12]}, here "
                f"{digest[:12]}); extract both sides with one."
            )
    digests = sorted({side.extractor_digest for side in sides.values() if side.extractor_digest is not None})
    if len(digests) > 1:
        raise ValueError(f"the feature files come from different extractors: {', '.join(d[:12] for d in digests)}.")
    return digest or next(iter(digests), None)
