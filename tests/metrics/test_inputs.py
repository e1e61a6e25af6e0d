# SPDX-License-Identifier: Apache-2.0
import re

import numpy as np
import pytest
import torch

from hf_ganzip.metrics import METRICS, lsh_precision_recall, realism_scores
from hf_ganzip.metrics.inputs import as_features


GOOD = np.ones((4, 3), dtype=np.float32)


def with_value(value):
    array = GOOD.copy()
    array[2, 1] = value
    return array


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64", "uint8"])
def test_dtypes_are_widened(dtype):
    dtype = getattr(torch, dtype)
    real, generated = as_features(real=torch.ones(3, 2, dtype=dtype), generated=np.ones((5, 2), dtype=np.float32))
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert real.dtype == generated.dtype == expected and len(generated) == 5


def test_gradients_are_cut():
    assert not as_features(real=torch.ones(2, 2, requires_grad=True), generated=torch.ones(2, 2))[0].requires_grad


@pytest.mark.parametrize(
    "real, error, message",
    [
        (with_value(np.nan), ValueError, "real has NaN or infinity in 1 of 4 rows"),
        (with_value(np.inf), ValueError, "real has NaN or infinity in 1 of 4 rows"),
        (GOOD[:1], ValueError, "real has 1 rows; at least 2 are needed"),
        (GOOD[:0], ValueError, "real has 0 rows"),
        (GOOD[0], ValueError, r"real has shape \(3,\); allowed is \(N, d\)"),
        (GOOD[:, :0], ValueError, "real has shape"),
        (GOOD[:, :2], ValueError, "real has dimension 2 and generated has dimension 3"),
        (GOOD.astype(complex), TypeError, "allowed are real numbers"),
        ([["a", "b", "c"]] * 2, TypeError, "real is list; allowed are arrays or tensors"),
        (None, TypeError, "real is NoneType"),
    ],
)
def test_bad_input(real, error, message):
    with pytest.raises(error, match=message):
        as_features(real=real, generated=GOOD)
    if "dimension" not in message:
        with pytest.raises(error, match=re.sub("^real", "generated", message)):
            as_features(real=GOOD, generated=real)


@pytest.mark.parametrize("metric", [lsh_precision_recall, realism_scores, METRICS["kernel_distance"]])
def test_seeds_are_of_32_bits(metric):
    sets = {"real": torch.randn(12, 2), "generated": torch.randn(9, 2)}
    options = {"subset_size": 4} if metric is METRICS["kernel_distance"] else {}
    metric(**sets, **options, seed=2**32 - 1)
    for seed in (-1, 2**32, 2**64):
        with pytest.raises(ValueError, match=f"seed is {seed}; allowed are integers from 0 to 4294967295"):
            metric(**sets, **options, seed=seed)
    with pytest.raises(TypeError, match="seed is 0.5; allowed are integers"):
        metric(**sets, **options, seed=0.5)


@pytest.mark.parametrize(
    "metric, options",
    [
        *((metric, {}) for name, metric in METRICS.items() if name != "kernel_distance"),
        (METRICS["kernel_distance"], {"subset_size": 20}),
        (realism_scores, {}),
        (realism_scores, {"method": "knn"}),
    ],
)
def test_tensors_are_made_on_the_device_of_the_features(metric, options):
    """What is made on the default device instead has no data here, as it would be on the wrong device with a GPU."""
    sets = {"real": torch.randn(40, 3), "generated": torch.randn(30, 3)}
    expected = metric(**sets, **options)
    with torch.device("meta"):
        found = metric(**sets, **options)
    np.testing.assert_equal(found, expected)
