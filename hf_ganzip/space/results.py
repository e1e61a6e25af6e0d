# SPDX-License-Identifier: Apache-2.0
"""The numbers that the app shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from ..metrics import density_coverage, frechet_distance, knn_precision_recall, lsh_precision_recall
from .page import cell


PAIRS = {"lsh": "LSH", "lsh_knn": "LSH+KNN", "knn": "KNN"}
CURVE_ROWS = 1000  # of each set, evenly chosen; the table uses all
_CURVE_DRAWS = 3
_K = (1, 2, 3, 5, 7, 10)
_FRECHET_DIM = 2048  # the eigenvalues of more take minutes


@dataclass(frozen=True)
class Settings:
    """Options of a comparison; ``num_hyperplanes`` None: floor(log2(N + M))."""

    k: int = 3
    num_hyperplanes: int | None = None
    draws: int = 10
    seed: int = 0


def compare(real: np.ndarray, generated: np.ndarray, settings: Settings) -> dict[str, Any]:
    """All metrics of features (N, d) and (M, d), flat.

    Returns:
        ``{lsh,lsh_knn,knn}_{precision,recall}``, the first two also as ``NAME_std``, ``density``, ``coverage``,
        ``frechet_distance`` (None where d > 2048), and the conditions.

    Raises:
        ValueError: The dimensions differ, or a setting is out of range.
    """
    sides = {"real": real, "generated": generated}
    options = {"num_hyperplanes": settings.num_hyperplanes, "draws": settings.draws, "seed": settings.seed}
    result = lsh_precision_recall(**sides, k=settings.k, **options)
    exact = knn_precision_recall(**sides, k=settings.k)
    result |= {f"knn_{name}": value for name, value in exact.items()} | density_coverage(**sides, k=settings.k)
    distance = frechet_distance(**sides, allow_singular=True) if result["dim"] <= _FRECHET_DIM else {}
    return result | {"frechet_distance": distance.get("frechet_distance")}


def curves(real: np.ndarray, generated: np.ndarray, settings: Settings) -> dict[str, dict[str, Any]]:
    """Precision and recall against k and against the number of hyperplanes, of at most 1,000 samples of each set.

    Returns:
        ``"k"`` and ``"num_hyperplanes"``, each with ``x`` and, named as in :func:`compare`, lists of values.
    """
    real, generated = (
        side[np.linspace(0, len(side) - 1, min(len(side), CURVE_ROWS)).astype(int)] for side in (real, generated)
    )
    sides = {"real": real, "generated": generated}
    options = {"draws": min(settings.draws, _CURVE_DRAWS), "seed": settings.seed}
    by_k = []
    for k in _K:
        exact = knn_precision_recall(**sides, k=k)
        hashed = lsh_precision_recall(**sides, k=k, num_hyperplanes=settings.num_hyperplanes, **options)
        by_k.append(hashed | {f"knn_{name}": value for name, value in exact.items()})
    most = (len(real) + len(generated)).bit_length() + 5
    planes = list(range(1, most, 2 if most > 12 else 1))
    by_planes = [lsh_precision_recall(**sides, k=settings.k, num_hyperplanes=count, **options) for count in planes]
    return {"k": _columns(list(_K), by_k), "num_hyperplanes": _columns(planes, by_planes)}


def _columns(x: list[int], rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = [f"{pair}_{kind}" for pair in PAIRS for kind in ("precision", "recall")]
    return {"x": x} | {name: [row[name] for row in rows] for name in names if name in rows[0]}


def results_table(result: Mapping[str, Any], metric: str = "lsh_precision_recall") -> str:
    """HTML of the numbers, those of ``metric`` first; every value's element is marked ``data-metric="NAME"``."""
    rows = []
    for pair, label in PAIRS.items():
        cells = "".join(_cell(result, f"{pair}_{kind}") for kind in ("precision", "recall"))
        rows.append(f'<tr><th scope="row">{label}</th>{cells}</tr>')
    labels = {"density": "Density", "coverage": "Coverage", "frechet_distance": "Fr&eacute;chet distance"}
    others = "".join(
        f'<div><dt>{label}</dt><dd data-metric="{name}">{_number(result[name])}</dd></div>'
        for name, label in labels.items()
    )
    pairs = (
        "<table><caption>Precision is quality, recall is diversity; both from 0 to 1, higher is better.</caption>"
        '<thead><tr><td></td><th scope="col">Precision</th><th scope="col">Recall</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    parts = [pairs, f"<dl>{others}</dl>"]
    if metric in ("density_coverage", "frechet_distance"):
        parts.reverse()
    return f'<div class="results">{"".join(parts)}<p>{escape(_conditions(result))}</p></div>'


def _cell(result: Mapping[str, Any], name: str) -> str:
    spread = f" <small>&plusmn; {result[f'{name}_std']:.3f}</small>" if f"{name}_std" in result else ""
    return cell(name, _number(result[name]), result[name], note=spread)


def _number(value: float | None) -> str:
    return "not computed" if value is None else f"{value:.4f}"


def _conditions(result: Mapping[str, Any]) -> str:
    text = (
        f"{result['n_real']:,} real and {result['n_generated']:,} generated samples of {result['dim']:,} features; "
        f"k = {result['k']}, H = {result['num_hyperplanes']} hyperplanes, mean of {result['draws']} draws, "
        f"seed {result['seed']}."
    )
    few = min(result["n_real"], result["n_generated"]) <= result["dim"]
    return text + (" Fewer samples than features: the Frechet distance is biased upwards." if few else "")
