# SPDX-License-Identifier: Apache-2.0
"""What the tests of the formats share."""

import pytest
import torch

from ..models.golden import GOLDEN


PICKLES = GOLDEN / "pickles"
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(path, data, zipped=True):
    torch.save(data, path, _use_new_zipfile_serialization=zipped)
    return path


def notes(model):
    return model.config["_ganzip_source"]["notes"]
