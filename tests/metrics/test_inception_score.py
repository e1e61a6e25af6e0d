# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch

from hf_ganzip.metrics import inception_score

from ..models.golden import GOLDEN


def test_golden_value_of_torch_fidelity(features):
    expected = json.loads((GOLDEN / "metrics.json").read_text())["isc"]
    result = inception_score(features["logits"], shuffle=False)
    assert result["inception_score"] == pytest.approx(expected["inception_score_mean"], rel=1e-12)
    assert result["inception_score_std"] == pytest.approx(expected["inception_score_std"], rel=1e-12)


@pytest.mark.parametrize("options", [(10, True, 2020), (7, True, 5), (1, False, 0)])
def test_live_value_of_torch_fidelity(options):
    metric_isc = pytest.importorskip("torch_fidelity.metric_isc", reason="torch-fidelity is not installed")
    logits = 4 * torch.randn(523, 20)
    splits, shuffle, seed = options
    expected = metric_isc.isc_features_to_metric(logits, *options)
    result = inception_score(logits, splits=splits, shuffle=shuffle, seed=seed)
    assert result["inception_score"] == pytest.approx(expected["inception_score_mean"], rel=1e-12)
    assert result["inception_score_std"] == pytest.approx(expected["inception_score_std"], rel=1e-10, abs=1e-12)


def test_extremes_and_classes_that_nobody_expects():
    sure = 2000 * torch.eye(5)[:4].repeat(10, 1)  # probabilities underflow to 0, the fifth class never occurs
    assert inception_score(sure, splits=2, shuffle=False)["inception_score"] == pytest.approx(4)
    assert inception_score(torch.zeros(40, 5))["inception_score"] == pytest.approx(1)
    assert inception_score(sure[:1].repeat(40, 1))["inception_score"] == pytest.approx(1)  # mode collapse


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="logits has 9 rows; splits=10 needs at least that many"):
        inception_score(torch.zeros(9, 3))
    with pytest.raises(ValueError, match="splits is 0; allowed are integers from 1"):
        inception_score(torch.zeros(20, 3), splits=0)
    with pytest.raises(TypeError, match="splits is 2.0; allowed are integers from 1"):
        inception_score(torch.zeros(20, 3), splits=2.0)
    with pytest.raises(ValueError, match="seed is -1; allowed are integers from 0 to 4294967295"):
        inception_score(torch.zeros(20, 3), seed=-1)
