# SPDX-License-Identifier: Apache-2.0
"""The operator on one weight: hand-computed values, invariants, and a plain decomposition as oracle."""

import pytest
import torch

from hf_ganzip.refine import SCALINGS, scale_singular_values
from hf_ganzip.refine.singular_values import scaled


@pytest.mark.parametrize(
    "scaling, expected",
    [
        ("sqrt", [2, 1]),
        ("log1p", [1.609438, 0.693147]),
        ("abslog", [1.386294, 0]),
        ("orthogonal", [1, 1]),
        ("spectral", [1, 0.25]),
        ("square", [16, 1]),
    ],
)
def test_diagonal(scaling, expected):
    found = scale_singular_values(torch.diag(torch.tensor([4.0, 1.0])), scaling)
    torch.testing.assert_close(found, torch.diag(torch.tensor(expected).float()), rtol=0, atol=1e-6)


WEIGHTS = {
    "wide": torch.randn(5, 12, generator=torch.Generator().manual_seed(1)),
    "tall": torch.randn(12, 5, generator=torch.Generator().manual_seed(2)),
    "convolution": torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(3)),
    "spread": torch.diag(torch.logspace(-4, 2, 8)) @ torch.linalg.qr(torch.randn(8, 8)).Q,
    "nearly singular": torch.outer(torch.ones(4), torch.ones(6)) + 1e-7 * torch.randn(4, 6),
    "rank one": torch.tensor([[1.0, 2], [2, 4]]),
    "row": torch.tensor([[3.0, 4]]),
    "orthogonal": torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(4))).Q,
    "zero": torch.zeros(3, 4),
}
EXACT = ("wide", "tall", "convolution", "orthogonal")


@pytest.mark.parametrize("scaling", sorted(SCALINGS))
@pytest.mark.parametrize("name", sorted(WEIGHTS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_a_singular_value_decomposition(name, scaling, dtype):
    weight = WEIGHTS[name].to(dtype)
    before = weight.clone()
    u, s, vh = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    expected = ((u * SCALINGS[scaling].values(s)) @ vh).reshape(weight.shape)
    found = scale_singular_values(weight, scaling)
    assert found.dtype == dtype and found.shape == weight.shape and torch.equal(weight, before)
    if name in ("nearly singular", "rank one", "orthogonal", "zero") and scaling in ("orthogonal", "abslog"):
        assert torch.isfinite(found).all()  # directions of rounding errors are no weights
        return
    tolerance = 1e-10 if dtype == torch.float64 and name in EXACT else 1e-5
    assert float((found.double() - expected).norm()) <= tolerance * max(float(expected.norm()), 1e-30)


def test_rtol_keeps_null_directions_null():
    weight = WEIGHTS["nearly singular"]
    assert float(scaled(weight).after[1]) > 1e-4
    assert scaled(weight, rtol=1e-5).after[1:].eq(0).all()


@pytest.mark.parametrize("name", sorted(SCALINGS))
def test_scaling_contract(name):
    function = SCALINGS[name].values
    values = torch.tensor([1e3, 2.0, 1.0, 0.5, 1e-7, 0.0], dtype=torch.float64)
    found = function(values)
    assert found.shape == values.shape and torch.isfinite(found).all() and (found >= 0).all() and found[-1] == 0
    assert function(values[:0]).shape == (0,)
    assert all(SCALINGS[name].bias(norm, 2.0) > 0 for norm in (1e-3, 1.0, 50.0))
    assert all(torch.isfinite(torch.tensor(SCALINGS[name].bias(0.0, largest))) for largest in (0.0, 2.0))


@pytest.mark.parametrize("bad, message", [(torch.zeros(3), "two or more"), (torch.full((2, 2), torch.nan), "NaN")])
def test_bad_weights(bad, message):
    with pytest.raises(ValueError, match=message):
        scale_singular_values(bad)
    with pytest.raises(ValueError, match="scaling"):
        scale_singular_values(torch.eye(2), "cube")
