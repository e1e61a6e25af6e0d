# SPDX-License-Identifier: Apache-2.0
import json

import numpy
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from hf_ganzip.evaluation.extractors import extract_features, load_extractor
from hf_ganzip.evaluation.plotting import save_training_curves
from hf_ganzip.evaluation.sources import load_reference
from hf_ganzip.evaluation.validation import Validator
from hf_ganzip.images import load_images
from hf_ganzip.scripts.gan import gan_parser, parse_gan_args
from hf_ganzip.scripts.shared import make_validator
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
    with pytest.raises(ValueError, match="none of the metrics frechet_distance has the option k"):
        validator(["frechet_distance"], options={"k": 5})
    with pytest.raises(ValueError, match="inception_score is no metric of features"):
        validator(["is"])
    with pytest.raises(ValueError, match="holds no images"):
        Validator(torch.randn(8, 4))


def test_the_reference_is_brought_to_the_size_of_the_training_images(tmp_path):
    for side, shade in ((40, 200), (12, 100)):  # larger and smaller than the 16 pixels of the training
        Image.fromarray(numpy.full((side, side, 3), shade, dtype=numpy.uint8)).save(tmp_path / f"{side}.png")
    trained_on = load_images(tmp_path, resolution=16).tensors[0]
    of_training = pixels(trained_on)
    for reference in (tmp_path, trained_on):
        found = Validator(reference, resolution=16, metrics=["knn_precision_recall"], extractor=pixels).real
        assert torch.equal(torch.as_tensor(found), of_training)
    wide = torch.full((2, 3, 40, 40), 7, dtype=torch.uint8)
    sides = []
    Validator(wide, resolution=16, extractor=lambda images: sides.append(images.shape[2:]) or pixels(images))
    assert sides == [(16, 16)]


def test_training_scripts_measure_at_their_resolution_by_any_metric(tmp_path):
    flags = ["--smoke", "--output_dir", str(tmp_path), "--validation_data", "fashion-mnist-test-5000"]
    args = parse_gan_args(gan_parser("a script"), [*flags, "--validation_metrics", "frechet_distance"])
    small, large = (make_validator(args, Accelerator(cpu=True), side).real for side in (16, 32))
    assert not numpy.allclose(small, large)
    images, _ = load_reference("fashion-mnist-test-5000", resolution=16)
    expected = extract_features(images, load_extractor("fashion_mnist"), progress=False)
    assert numpy.allclose(small, expected, atol=1e-5)


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
