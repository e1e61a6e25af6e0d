# SPDX-License-Identifier: Apache-2.0
"""The first hour of a newcomer: what they type, line by line, and what they get. Every line here once failed."""

# --- models: quantize_, dequantize_, compile, memory

# --- loading and saving: from_pretrained, configs, casting, LoRA

# --- the command line

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
    assert list(report["metrics"]) == ["frechet_distance", "kernel_distance", "knn_precision_recall"]
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
    assert code == 1 and "not computed: frechet_distance" in err
    assert (
        list(report["metrics"]) == ["knn_precision_recall"]
        and "of each are needed" in report["failures"]["frechet_distance"]
    )
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


# --- training and fine-tuning

# --- reports and pictures
