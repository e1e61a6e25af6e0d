# SPDX-License-Identifier: Apache-2.0
"""Golden values of other libraries and the features they are of."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ..models.golden import GOLDEN


# The smallest example: its values by k nearest neighbours and by hashing were computed by hand.
REAL = torch.tensor([(1.0, 1), (2, 2), (3, 1), (-1, 1), (-1, -2)])
GENERATED = torch.tensor([(1.0, 2), (2, 1), (-2, 3), (1, -1)])


@pytest.fixture(scope="session")
def features():
    return load_file(GOLDEN / "metrics.io.safetensors")


@pytest.fixture(params=["overlap", "collapsed"])
def golden(request, features):
    """The two sets of a toy distribution, and what other libraries say of them."""
    sets = {"real": features[f"{request.param}.real"], "generated": features[f"{request.param}.fake"]}
    return sets, json.loads((GOLDEN / "metrics.json").read_text())[request.param]


def naive(real, generated, k, real_keys=None, generated_keys=None):
    """Values by matrices of distances in float64; with keys (N,), (M,), within cells, equations 8-10."""
    points = [np.asarray(x, dtype=np.float64) for x in (real, generated)]
    keys = [np.zeros(len(x)) if of is None else np.asarray(of) for x, of in zip(points, (real_keys, generated_keys))]

    def distances(a, b):
        squares = ((points[a][:, None] - points[b][None]) ** 2).sum(-1)
        return np.where(keys[a][:, None] == keys[b], squares, np.inf)

    def radii(side):
        matrix = distances(side, side)
        np.fill_diagonal(matrix, -1)
        last = np.minimum(k, np.isfinite(matrix).sum(1) - 1)  # of fewer others the farthest
        return np.sort(matrix, axis=1)[np.arange(len(matrix)), last].clip(0)

    cross = distances(1, 0)
    inside = cross <= radii(0)
    return {
        "precision": inside.any(1).mean(),
        "recall": (cross <= radii(1)[:, None]).any(0).mean(),
        "density": inside.sum() / (k * len(generated)),
        "coverage": inside.any(0).mean(),
    }
