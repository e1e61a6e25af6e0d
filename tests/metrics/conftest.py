# SPDX-License-Identifier: Apache-2.0
"""Golden values of other libraries and the features they are of."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file


FOLDER = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def features():
    return load_file(FOLDER / "metrics.io.safetensors")


@pytest.fixture(params=["overlap", "collapsed"])
def golden(request, features):
    """The two sets of a toy distribution, and what other libraries say of them."""
    sets = {"real": features[f"{request.param}.real"], "generated": features[f"{request.param}.fake"]}
    return sets, json.loads((FOLDER / "metrics.json").read_text())[request.param]
