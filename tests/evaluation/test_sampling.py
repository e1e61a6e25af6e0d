# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from hf_ganzip.evaluation.evaluate import evaluate, measure
from hf_ganzip.evaluation.sampling import sample_images

from ..conftest import tiny_discriminator, tiny_generator, tiny_unet


pytestmark = pytest.mark.processor


def test_images_depend_on_seed_and_index_only():
    model = tiny_generator()
    images, labels = sample_images(model, 7, seed=3, batch_size=3, progress=False)
    again, _ = sample_images(model, 5, seed=3, batch_size=5, progress=False)
    assert images.dtype == torch.uint8 and images.shape == (7, 3, 16, 16)
    assert (images[:5].int() - again.int()).abs().max() <= 1  # rounding of float differences between batch sizes
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    rest, rest_labels = sample_images(model, 3, seed=3, first=4, progress=False)
    assert (images[4:].int() - rest.int()).abs().max() <= 1 and rest_labels.tolist() == [1, 2, 0]
    other, _ = sample_images(model, 5, seed=4, progress=False)
    assert not torch.equal(again, other)


def test_training_mode_is_kept_and_statistics_are_not_touched():
    model = tiny_generator().train()
    before = model.mapping.w_avg.clone()
    sample_images(model, 2, progress=False)
    assert model.training and torch.equal(model.mapping.w_avg, before)


def test_bad_input():
    with pytest.raises(ValueError, match="num_samples is 0"):
        sample_images(tiny_generator(), 0)
    with pytest.raises(ValueError, match="StyleGAN2Discriminator is no GAN generator"):
        sample_images(tiny_discriminator(), 2)
    with pytest.raises(ValueError, match="class_label is 3; the model has 3 classes"):
        sample_images(tiny_generator(), 2, class_label=3)


def pixels(images):
    return images.flatten(1).float()


def test_evaluate_accepts_functions_and_tensors():
    def mean_gap(*, real, generated):
        return {"gap": float((real.mean() - generated.mean()).abs())}

    reference = torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8)
    options = {"num_samples": 10, "extractor": pixels, "options": {"progress": False}}
    report = evaluate(tiny_generator(), reference, metrics=[mean_gap], **options)
    assert report.metrics["mean_gap"]["gap"] >= 0
    assert report.conditions["n_real"] == 20 and report.conditions["extractor"] == "function"
    assert "mean_gap" in str(report)


def test_measure_seeds_the_hyperplanes():
    real, generated = torch.randn(40, 4), torch.randn(30, 4)
    a, b, c = (measure(real=real, generated=generated, metrics=["lsh_precision_recall"], seed=s) for s in (0, 0, 1))
    assert a == b != c


def test_evaluate_samples_a_diffusion_model_as_it_is_told():
    def mean(*, real, generated):
        return {"mean": float(generated.mean())}

    model, reference = tiny_unet(), torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    call = {"metrics": [mean], "num_samples": 3, "extractor": pixels}
    found = {}
    for steps, clip in ((3, False), (3, True), (30, False)):
        options = {"steps": steps, "clip_sample": clip, "progress": False}
        report = evaluate(model, reference, options=options, **call)
        images, _ = sample_images(model, 3, steps=steps, clip_sample=clip, progress=False)
        assert report.metrics["mean"]["mean"] == pytest.approx(float(images.float().mean()))
        assert report.conditions["clip_sample"] is clip and "truncation_psi" not in report.conditions
        found[steps, clip] = report.conditions["steps"]
    assert found == {(3, False): 4, (3, True): 4, (30, False): 31}
    with pytest.raises(ValueError, match="a diffusion model has no truncation"):
        evaluate(model, reference, options={"truncation_psi": 0.5, "progress": False}, **call)


def test_conditions_hold_nothing_that_does_not_apply():
    features = torch.randn(20, 3)
    report = evaluate(features, features, metrics=["knn_precision_recall"])
    assert not {"truncation_psi", "steps", "clip_sample"} & report.conditions.keys()
    for option in ({"truncation_psi": 0.5}, {"steps": 10}, {"clip_sample": True}):
        with pytest.raises(ValueError, match=f"{next(iter(option))} is for models; tensor is none"):
            evaluate(features, features, metrics=["knn_precision_recall"], options=option)


def test_an_option_for_one_metric_only():
    real, generated = torch.randn(40, 4), torch.randn(30, 4)
    metrics = ["knn_precision_recall", "density_coverage"]
    both, one = (
        measure(real=real, generated=generated, metrics=metrics, metric_options=options)
        for options in ({"k": 2}, {"knn_precision_recall.k": 2})
    )
    default = measure(real=real, generated=generated, metrics=metrics)
    assert one["knn_precision_recall"] == both["knn_precision_recall"] != default["knn_precision_recall"]
    assert one["density_coverage"] == default["density_coverage"] != both["density_coverage"]
    for wrong in ("density_coverage.draws", "frechet_distance.k", "real"):
        with pytest.raises(ValueError, match=f"has the option {wrong}"):
            measure(real=real, generated=generated, metrics=metrics, metric_options={wrong: 2})
