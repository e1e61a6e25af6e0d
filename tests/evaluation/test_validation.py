# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch

from hf_ganzip.evaluation.plotting import save_training_curves
from hf_ganzip.evaluation.validation import Validator
from hf_ganzip.training.logs import figures_of, read_log

from ..conftest import tiny_generator


def pixels(images):
    """Features (N, 6)."""
    return images.float().mean(dim=(2, 3)).repeat(1, 2)[:, :6]


def validator(metrics=("knn_precision_recall",), **options):
    reference = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    return Validator(reference, metrics=metrics, num_samples=12, extractor=pixels, **options)


def test_figures_are_flat_and_repeatable():
    model, found = tiny_generator(), validator()
    assert found(model) == found(model) and found(model).keys() == {"precision", "recall"}
    assert validator(options={"k": 5})(model).keys() == {"precision", "recall"}


def spread(*, real, generated, power=2):
    """A metric of a user."""
    return {"spread": float((generated.std() / real.std()) ** power), "power": power, "spread_std": 0.5}


def test_every_metric_gives_its_figures():
    metrics = ["kernel_distance", "lsh_precision_recall", "frechet_distance", "density_coverage", spread]
    figures = validator(metrics, options={"subset_size": 10, "allow_singular": True})(tiny_generator())
    lsh = {"lsh_precision", "lsh_recall", "lsh_knn_precision", "lsh_knn_recall"}
    assert figures.keys() == lsh | {"kernel_distance", "frechet_distance", "density", "coverage", "spread"}
    assert all(type(value) is float for value in figures.values())


def test_metrics_whose_figures_would_be_lost_and_a_reference_of_features_are_refused():
    def mute(*, real, generated):
        return {"n_real": len(real), "note": "none"}

    def twin(*, real, generated):
        return {"precision": 1.0}

    with pytest.raises(ValueError, match="mute gave no figure"):
        validator([mute])(tiny_generator())
    with pytest.raises(ValueError, match="twin gave precision as another metric did"):
        validator(["knn_precision_recall", twin])(tiny_generator())
    with pytest.raises(ValueError, match="Unknown metric 'kidd'. Did you mean 'kid'"):
        validator(["kidd"])
    with pytest.raises(ValueError, match="inception_score is no metric of features"):
        validator(["is"])
    with pytest.raises(ValueError, match="holds no images"):
        Validator(torch.randn(8, 4))


def test_likeness_to_the_dense_model():
    model = tiny_generator()
    assert validator(dense=model)(model)["ssim"] == pytest.approx(1)
    torch.manual_seed(5)
    assert validator(dense=model)(tiny_generator())["ssim"] < 0.99


def test_logs_of_resumed_runs_and_their_curves(tmp_path):
    figures = {"average_frechet_distance": 4.0, "trained_frechet_distance": 2.0}
    rows = [{"step": step, "images": 8 * step} | figures for step in (1, 2)]
    rows += [row | {"average_frechet_distance": 3.0, "trained_frechet_distance": 1.0} for row in rows]
    (tmp_path / "figures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_log(tmp_path / "figures.jsonl") == rows[2:] and read_log(tmp_path / "none") == []
    assert figures_of(rows[3]) == {"step": 2, "images": 16, "frechet_distance": 3.0}
    assert figures_of(rows[3], "trained") == {"step": 2, "images": 16, "frechet_distance": 1.0}
    save_training_curves(rows[2:], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
