# SPDX-License-Identifier: Apache-2.0
"""The first hour of a newcomer who evaluates and slips: what they type, and what they get. Every line once failed."""

import pytest


# --- evaluating


def _small_inception(source=None, device="cpu"):
    """In place of the network of FID, which is a download."""
    import torch.nn.functional as F

    def extract(images):
        return F.interpolate(images.float(), (2, 2), mode="bilinear", antialias=True).expand(-1, 3, -1, -1).flatten(1)

    extract.name, extract.dim, extract.digest, extract.resize = "inception_v3", 12, None, "bilinear to 2x2"
    return extract


def _photographs(folder, seed, count=30):
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    for i in range(count):
        width, height = random.integers(8, 40, 2)
        file = folder / f"album {i % 3}" / f"{i}.{('jpg', 'png', 'webp')[i % 3]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)
    return folder


def test_two_folders_of_photographs_of_many_sizes(call, tmp_path, monkeypatch):
    import json

    from hf_ganzip.evaluation.extractors import EXTRACTORS

    monkeypatch.setitem(EXTRACTORS, "inception_v3", _small_inception)
    real, generated = (_photographs(tmp_path / name, seed) for seed, name in enumerate(("real", "generated")))
    code, out, err = call("evaluate", real, generated, "--batch-size", 8, "--device", "cpu")
    assert code == 0 and "frechet_distance" in out and "inception_v3" in out and "30 sizes" in out, err
    assert "30/30" in err
    wanted = ("--metric", "FID", "--metric", "kid", "--metric", "precision")
    options = ("--option", "kid.subset_size=9", "--option", "knn.k=5", "--json", "--quiet")
    code, out, err = call("evaluate", real, generated, *wanted, *options)
    report = json.loads(out)
    assert code == 0 and err == "" and report["failures"] == {}
    assert list(report["metrics"]) == ["fid", "kid", "knn_precision_recall"]
    assert report["conditions"]["presets"]["kid"]["extractor"] == "inception_v3"
    assert report["conditions"]["metric_options"]["knn_precision_recall"] == {"k": 5}
    code, out, _ = call("evaluate", real, generated, "--resolution", 16, "--json", "--quiet")
    assert code == 0 and json.loads(out)["conditions"]["resolution"] == 16


def test_one_metric_that_fails_leaves_the_others(call, tmp_path, monkeypatch):
    import json

    from hf_ganzip.evaluation.extractors import EXTRACTORS

    monkeypatch.setitem(EXTRACTORS, "inception_v3", _small_inception)
    folders = [_photographs(tmp_path / str(i), i, count=9) for i in range(2)]
    code, out, _ = call("evaluate", *folders, "--quiet")  # 9 images, 12 features: nobody asked for this distance
    assert code == 0 and "frechet_distance: not computed: real has 9" in out and "recall" in out
    code, out, err = call("evaluate", *folders, "--metric", "fid", "--metric", "knn", "--json", "--quiet")
    report = json.loads(out)
    assert code == 1 and "not computed: fid" in err
    assert list(report["metrics"]) == ["knn_precision_recall"] and "of each are needed" in report["failures"]["fid"]
    code, out, err = call("evaluate", *folders, "--metric", "fid", "--quiet")
    assert code == 1 and out == "" and err.startswith("hf-ganzip: frechet_distance: real has 9")


def test_wrong_names_of_metrics_and_options_lead_to_the_right_ones(call, tmp_path):
    folder = _photographs(tmp_path / "real", 0, count=2)
    for arguments, message in {
        ("--metric", "fidd"): "Did you mean 'fid'?",
        ("--metric", "knn", "--option", "knn.kk=5"): "has the option knn.kk; allowed are knn_precision_recall: k.",
        ("--metric", "knn", "--option", "kn.k=5"): "Unknown metric 'kn'. Did you mean 'knn'?",
        ("--device", "gpu"): "device is 'gpu', which torch does not have here",
        ("--extractor", "vgg61"): "Did you mean 'vgg16'?",
        ("--extractor", "fashion_mnist", "--quiet"): "Use one for colour images: inception_v3",
    }.items():
        code, out, err = call("evaluate", folder, folder, *arguments)
        assert code == 1 and out == "" and message in err and err.count("\n") == 1


def test_the_inception_score_is_one_of_the_metrics(monkeypatch):
    import torch

    import hf_ganzip as gz
    from hf_ganzip.evaluation import extractors
    from hf_ganzip.metrics import inception_score

    def logits(source=None, device="cpu", *, logits):
        return lambda images: images.float().flatten(1)[:, :5]

    monkeypatch.setattr(extractors, "InceptionExtractor", logits)
    images = torch.randint(0, 256, (30, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    report = gz.evaluate(images, images, metrics="is", options={"splits": 2, "progress": False})
    assert report.metrics == {"inception_score": inception_score(images.float().flatten(1)[:, :5], splits=2)}
    features = images.float().flatten(1)[:, :5]
    report = gz.evaluate(features, features, metrics=["fid", "is"], options={"progress": False})
    assert report.failures == {"inception_score": "logits of images are needed; tensor holds features."}


def test_packed_models_sample_at_full_speed_and_are_given_back_as_they_were():
    import torch

    import hf_ganzip as gz
    from hf_ganzip.evaluation.sampling import sample_images
    from hf_ganzip.quantization.packed import computing, packed_modules

    from .conftest import tiny_generator

    model = tiny_generator()
    with computing(model, "dequantized"):  # no packed layer: nothing to do
        pass
    gz.quantize_(model, gz.QuantizeConfig(bits=4))
    gz.set_compute_(model, "packed")
    layers = list(packed_modules(model).values())
    layers[0].packed_compute = "dequantized"
    seen = []
    hook = model.register_forward_pre_hook(lambda *_: seen.append({layer.packed_compute for layer in layers}))
    sample_images(model, 3, batch_size=2, progress=False)
    gz.evaluate(
        model,
        torch.zeros(4, 12),
        metrics="knn",
        num_samples=4,
        extractor=_small_inception(),
        options={"progress": False, "k": 1},
    )
    hook.remove()
    assert seen and all(modes == {"dequantized"} for modes in seen)
    assert [layer.packed_compute for layer in layers] == ["dequantized"] + ["packed"] * (len(layers) - 1)
    assert all(layer._dequantized is None for layer in layers[1:])


def test_packed_models_translate_at_full_speed(tmp_path):
    import torch

    import hf_ganzip as gz
    from hf_ganzip.quantization.packed import packed_modules

    from .conftest import tiny_ugatit

    model = tiny_ugatit()
    gz.quantize_(model, gz.QuantizeConfig(bits=4))
    gz.set_compute_(model, "packed")
    layers, seen = list(packed_modules(model).values()), []
    model.register_forward_pre_hook(lambda *_: seen.append({layer.packed_compute for layer in layers}))
    gz.ImageTranslationPipeline(model)(torch.rand(3, 3, 16, 16), max_batch_size=2, output_type="latent")
    assert seen == [{"dequantized"}] * 2
    assert all(layer.packed_compute == "packed" and layer._dequantized is None for layer in layers)


# --- slips


def test_slips_lead_to_what_was_meant():
    import torch

    import hf_ganzip as gz

    from .conftest import tiny_generator

    with pytest.raises(AttributeError, match="no attribute 'quantize'. Did you mean 'quantize_'?"):
        gz.quantize  # noqa: B018
    for verb in (gz.quantize_, gz.prune_, gz.refine_, gz.sensitivity):
        with pytest.raises(
            TypeError, match=r"'small' is a name; allowed are a model and a pipeline: load_model\('small'\)"
        ):
            verb("small")
    with pytest.raises(TypeError, match=r"generator is 0; allowed is a source: torch.Generator\(\).manual_seed\(0\)"):
        gz.GANPipeline(tiny_generator())(generator=0)
    bundled = gz.GANPipeline.from_pretrained("stylegan2-fashion-mnist")
    named, numbered = (
        bundled(class_labels=label, generator=torch.Generator().manual_seed(0), output_type="latent").images
        for label in ("bag", 8)
    )
    assert torch.equal(named, numbered)


def test_quiet_is_quiet_and_one_image_is_one(call, tmp_path):
    """Nothing but errors on standard error, nothing on standard output."""
    bundled, real = "stylegan2-fashion-mnist", "fashion-mnist-test-5000"
    flags = ("--method", "auto", "--bits", "4", "--num-samples", "130", "--draws", "1")
    code, out, err = call("study", bundled, "--reference", real, "--output-dir", tmp_path / "study", *flags, "-q")
    assert (code, out, err) == (0, "", "")
    code, _, err = call("evaluate", real, bundled, "--num-samples", "150", "--metric", "knn", "-q")
    assert (code, err) == (0, "")
    assert "1 image written to" in call("sample", bundled, tmp_path / "one.png", "--num-samples", "1")[1]


# --- reports and pictures


class TestReports:
    def test_a_bare_quantize_shows_three_lines_and_print_the_table(self):
        import hf_ganzip as gz

        from .conftest import tiny_generator

        report = gz.quantize_(tiny_generator(), gz.QuantizeConfig("linear", bits=4))
        assert len(repr(report).splitlines()) <= 3 and len(repr(report)) < 400
        assert "weights quantized" in repr(report) and "bits per weight" in repr(report)
        assert all(layer.name in str(report) for layer in report.layers)

    def test_a_notebook_shows_a_short_table_with_the_layers_folded(self):
        import hf_ganzip as gz

        from .conftest import tiny_generator

        report = gz.prune_(tiny_generator(), gz.PruneConfig(ratio=0.5))
        head, folded = report._repr_html_().split("<details>")
        assert "parameters" in head and "synthesis" not in head
        assert folded.count("<tr>") == len(report.sets) + 1 and report.sets[0].name in folded
        assert report.to_pandas()["after"].tolist() == [each.after for each in report.sets]

    def test_the_report_of_a_pipeline_shows_its_components(self):
        import hf_ganzip as gz

        from .conftest import tiny_generator

        report = gz.quantize_(gz.GANPipeline(tiny_generator()))
        assert len(repr(report).splitlines()) <= 3
        assert f"generator {report['generator'].bytes_before:,} ->" in repr(report)
        assert "generator: weights" in report._repr_html_()
        layers = [layer.name for layer in report["generator"].layers]
        assert report.to_pandas()[["component", "name"]].values.tolist() == [["generator", name] for name in layers]


def test_a_grid_of_samples_is_readable_and_its_rows_have_names(tmp_path):
    from PIL import Image
    from typer.testing import CliRunner

    from hf_ganzip.cli import app

    output = tmp_path / "grid.png"
    done = CliRunner().invoke(app, ["sample", "stylegan2-fashion-mnist", str(output), "--num-samples", "20"])
    assert done.exit_code == 0, done.output
    with Image.open(output) as grid:
        assert grid.height >= 10 * 96 and grid.width > 2 * 96 + 50  # ten classes, two of each, beside their names
