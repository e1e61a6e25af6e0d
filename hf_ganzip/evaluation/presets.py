# SPDX-License-Identifier: Apache-2.0
"""Metrics with the features on which they are defined: ``fid``, ``kid``, ``cmmd`` ... and METRIC@EXTRACTOR."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from ..core.registry import lookup
from ..metrics import METRICS, OF_LOGITS, find_metrics
from .extractors import check_extractor, extract_features, load_extractor


PRESETS = {
    "fid": "frechet_distance@inception_v3",
    "kid": "kernel_distance@inception_v3",
    "mind": "monge_distance@inception_v3",
    "fd_dinov2": "frechet_distance@dinov2:facebook/dinov2-large",
    "cmmd": "gaussian_kernel_distance@clip:openai/clip-vit-large-patch14-336",
}


def split_preset(name: str) -> tuple[str, str] | None:
    """Metric and extractor of a preset or of "METRIC@EXTRACTOR"; None for any other name.

    Raises:
        ValueError: An unknown metric or extractor on one side of the @, or a metric of logits.

    Example:
        >>> split_preset("FID"), split_preset("frechet_distance@dinov2"), split_preset("knn")
        (('frechet_distance', 'inception_v3'), ('frechet_distance', 'dinov2'), None)
    """
    metric, at, extractor = PRESETS.get(name.lower(), name).partition("@")
    if not at:
        return None
    found = list(find_metrics([metric]))
    if len(found) != 1 or found[0] in OF_LOGITS:
        raise ValueError(f"{name!r} does not name one metric of features before @; allowed are {', '.join(METRICS)}.")
    lookup(METRICS, found[0], "metric")
    check_extractor(extractor)
    return found[0], extractor


def find_measured(
    metrics: Iterable[str | Callable[..., Any]], *, presets: bool
) -> tuple[dict[str, Callable[..., Any]], dict[str, str]]:
    """:func:`.find_metrics` that knows presets, too.

    Args:
        metrics: As for :func:`.find_metrics`, or names of ``PRESETS`` or METRIC@EXTRACTOR.
        presets: False: names of ``PRESETS`` are those of their metrics, on whatever features there are.

    Returns:
        Name -> function, in their order; name -> extractor of those that have one of their own.

    Raises:
        ValueError: An unknown name.
    """
    found: dict[str, Callable[..., Any]] = {}
    extractors: dict[str, str] = {}
    for metric in metrics:
        split = split_preset(metric) if isinstance(metric, str) and (presets or "@" in metric) else None
        if split is None:
            found |= find_metrics([metric])
            continue
        name = str(metric).lower() if str(metric).lower() in PRESETS else "@".join(split)
        found[name], extractors[name] = METRICS[split[0]], split[1]
    return found, extractors


def features_by(
    extractor: str, images: Mapping[str, Any], device: Any, extracting: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Features of both sides by a named extractor, and what must be said of it.

    Raises:
        ValueError: A side has no images.
        ImportError, ConnectionError, OSError: Of the extractor.
    """
    if missing := [where for where, each in images.items() if each is None]:
        raise ValueError(f"{extractor} needs images, and the {missing[0]} side holds features.")
    extract = load_extractor(extractor, device)
    rows = {where: extract_features(each, extract, **extracting) for where, each in images.items()}
    said = {"extractor": extractor, "extractor_digest": getattr(extract, "digest", None)}
    return rows, said | {"resize": getattr(extract, "resize", None)}
