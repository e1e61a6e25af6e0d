# SPDX-License-Identifier: Apache-2.0
"""Metrics with the features on which they are defined, and results as the Hub reads them."""

import math

import pytest
import torch
import yaml

import hf_ganzip as gz
from hf_ganzip.evaluation.eval_results import eval_results, figures, write_eval_results
from hf_ganzip.evaluation.extractors import EXTRACTORS
from hf_ganzip.evaluation.presets import PRESETS, find_measured, split_preset
from hf_ganzip.metrics import METRICS, frechet_distance, monge_distance


QUIET = {"progress": False}


def images(seed, count=30):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 6, 6), generator=generator, dtype=torch.uint8)


class Counting:
    """An extractor that says how often it was loaded."""

    loaded: list = []
    name, digest, resize = "counting", None, "none"

    def __init__(self, source=None, device="cpu"):
        self.loaded.append(source)

    def __call__(self, batch):
        return batch.float().mean(dim=(2, 3)) + batch[:, :, 0, 0]


@pytest.fixture
def networks(monkeypatch):
    monkeypatch.setattr(Counting, "loaded", [])
    for name in ("inception_v3", "dinov2", "clip"):
        monkeypatch.setitem(EXTRACTORS, name, Counting)
    return Counting.loaded


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_names_a_metric_and_an_extractor(name):
    metric, extractor = split_preset(name.upper())
    assert metric in METRICS and extractor.partition(":")[0] in EXTRACTORS
    assert find_measured([name], presets=True) == ({name: METRICS[metric]}, {name: extractor})
    assert find_measured([name], presets=False) == ({metric: METRICS[metric]}, {})  # on features as they are given


def test_presets_beside_other_metrics_share_what_they_can(networks):
    real, generated = images(0), images(1)
    wanted = ["fid", "mind", "fd_dinov2", "frechet_distance@clip:org/other", "kernel_distance"]
    options = QUIET | {"kernel_distance.subset_size": None, "mind.num_projections": 9}
    report = gz.evaluate(generated, real, metrics=wanted, options=options)
    assert list(report.metrics) == wanted and report.failures == {} and "reference_dataset" not in report.conditions
    assert networks == [None, None, "facebook/dinov2-large", "org/other"]  # the default, Inception, DINOv2, CLIP
    sides = {"real": Counting()(real), "generated": Counting()(generated)}
    assert report.metrics["fid"] == pytest.approx(frechet_distance(**sides))
    assert report.metrics["mind"] == pytest.approx(monge_distance(**sides, num_projections=9))
    assert report.conditions["presets"]["fd_dinov2"]["extractor"] == "dinov2:facebook/dinov2-large"
    names = [name for _, name, _, _ in figures(report.to_dict())]
    assert set(names) == {"fid", "mind", "fd_dinov2", "frechet_distance@clip:org/other", "kernel_distance"}


def test_an_extractor_that_was_asked_for_and_features_win(networks):
    def given(batch):
        return batch.float().flatten(1)[:, :4]

    report = gz.evaluate(images(1), images(0), metrics="fid", extractor=given, options=QUIET)
    assert list(report.metrics) == ["frechet_distance"] and "presets" not in report.conditions
    report = gz.evaluate(given(images(1)), given(images(0)), metrics=["fid", "cmmd"], options=QUIET)
    assert list(report.metrics) == ["frechet_distance", "gaussian_kernel_distance"] and networks == []
    with pytest.raises(ValueError, match="clip needs images, and the real side holds features"):
        gz.evaluate(given(images(1)), given(images(0)), metrics="frechet_distance@clip", options=QUIET)


def test_without_weights_a_preset_says_so_and_leaves_the_others(monkeypatch):
    def unreachable(source=None, device="cpu"):
        raise ConnectionError("the weights of dinov2 cannot be downloaded")

    monkeypatch.setitem(EXTRACTORS, "dinov2", unreachable)
    monkeypatch.setitem(EXTRACTORS, "clip", Counting)
    report = gz.evaluate(images(1), images(0), metrics=["fd_dinov2", "monge_distance@clip"], options=QUIET)
    assert list(report.metrics) == ["monge_distance@clip"]
    assert report.failures["fd_dinov2"] == "the weights of dinov2 cannot be downloaded"


@pytest.mark.process
@pytest.mark.parametrize("name, extractor", [("fd_dinov2", "dinov2"), ("cmmd", "clip")])
def test_offline_the_error_names_what_to_do(name, extractor, monkeypatch, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("hf_ganzip.evaluation.extractors.transformers.unreachable", lambda: "offline")
    with pytest.raises(ConnectionError, match=rf"weights of {extractor}:\S+ cannot.*{extractor}:FOLDER"):
        gz.evaluate(images(1), images(0), metrics=name, options=QUIET)


@pytest.mark.parametrize(
    "name, message",
    [
        ("frechet_distance@dinov", "Did you mean 'dinov2'"),
        ("frechet@dinov2", "Unknown metric 'frechet'"),
        ("prdc@dinov2", "does not name one metric of features"),
        ("is@inception_v3", "does not name one metric of features"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_opened(name, message):
    with pytest.raises(ValueError, match=message):
        gz.evaluate("no/such", "no/such", metrics=name)


def test_results_as_the_hub_reads_them(tmp_path):
    conditions = {"reference": "org/images", "n_generated": 50, "n_real": 60, "seed": 3, "extractor": "inception_v3"}
    conditions |= {"metric_options": {"knn": {"k": 5}}, "versions": {"hf_ganzip": "0.2.0"}}
    report = {"metrics": {"fid": {"frechet_distance": 3.0}, "knn": {"precision": 0.5, "recall": math.nan}}}
    assert eval_results([report | {"conditions": conditions}]) == {}  # against images of no dataset
    report["conditions"] = conditions | {"reference_dataset": "org/images"}
    old = tmp_path / ".eval_results" / "hf-ganzip-old.yaml"
    for path in (old, old.with_name("community.yaml")):
        path.parent.mkdir(exist_ok=True)
        path.write_text("- {}\n")
    (written,) = write_eval_results([report], tmp_path)
    assert sorted(path.name for path in old.parent.iterdir()) == ["community.yaml", written.name]
    entries = yaml.safe_load(written.read_text())
    assert [(entry["dataset"], entry["value"]) for entry in entries] == [
        ({"id": "org/images", "task_id": "fid"}, 3.0),
        ({"id": "org/images", "task_id": "precision"}, 0.5),
    ]
    said = "50 generated, 60 real images; features of inception_v3; k 5; seed 3; hf_ganzip 0.2.0"
    assert entries[1]["notes"] == said
    hub = pytest.importorskip("huggingface_hub._eval_results", reason="this huggingface_hub does not know the form")
    assert hub.eval_result_entries_to_yaml(hub.parse_eval_result_entries(entries)) == entries
