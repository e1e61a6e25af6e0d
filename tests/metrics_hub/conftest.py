# SPDX-License-Identifier: Apache-2.0
"""The folders of the modules, and what they measure."""

import warnings

import numpy as np
import pytest

from hf_ganzip.core.shipped import metric_folders


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # third-party import-time warnings
    evaluate = pytest.importorskip("evaluate")

    import datasets  # noqa: F401  # for the tests


FOLDERS = metric_folders()
NAMES = sorted(FOLDERS)


@pytest.fixture
def features():
    random = np.random.default_rng(0)
    return random.normal(size=(60, 5)).astype("float32"), random.normal(size=(43, 5)).astype("float32")


@pytest.fixture
def images():
    """Two sides of 40 grey images, uint8 (2, 40, 1, 6, 6)."""
    return np.random.default_rng(0).integers(0, 256, (2, 40, 1, 6, 6), dtype=np.uint8)


def pixels(batch):
    """An extractor."""
    return batch.flatten(1).float()[:, :9]
