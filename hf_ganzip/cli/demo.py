# SPDX-License-Identifier: Apache-2.0
"""The main job on the bundled generator: quantize, measure, look, save, reload, verify."""

from __future__ import annotations

import copy
import json
import shutil
import statistics
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..core.record import machine, table, versions
from ..evaluation.evaluate import DEFAULT_METRICS, measure
from ..evaluation.extractors import EXTRACTORS, extract_features
from ..evaluation.plotting import save_precision_recall_plot
from ..evaluation.sampling import mean_image, sample_images
from ..evaluation.sources import evenly, load_reference
from ..exporting import OnnxGenerator, export
from ..images.grids import save_image_grid
from ..integration.opening import load_model
from ..quantization import quantize_
from ..studies.compression import Compressor
from ..studies.compression_config import FULL, LABELS, StudyConfig, setting_name


GENERATOR = "stylegan2-fashion-mnist"
REFERENCE = "fashion-mnist-test-5000"
METHODS = ("linear", "aciq")
SAVED = ("aciq", 4)  # method and bits of the model that is saved and reloaded
_COLUMNS = ("lsh_precision", "lsh_recall", "lsh_knn_precision", "lsh_knn_recall", "knn_precision", "knn_recall")


@dataclass(frozen=True)
class DemoConfig:
    """Options of :func:`run_demo`."""

    output_dir: str = "demo_output"
    num_samples: int = 5000  # generated images per setting; as many real ones are used
    bits: tuple[int, ...] = (6, 5, 4, 3, 2)
    seed: int = 0
    progress: bool = True


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Quantize the bundled generator at several bits and compare it with real images.

    Writes ``samples.png`` (one row per setting, the same latents in each), ``mean_images.png``,
    ``precision_recall.png``, ``results.json`` and the folder ``model`` with one compressed generator, which is reloaded
    and compared bit for bit; where onnx and onnxruntime are installed also ``int8``, an export with 8-bit weights and
    activations.

    Returns:
        What ``results.json`` holds: ``rows`` of the table, ``conditions``, ``saved_model``, ``speed`` (None without
        the extra ``[export]``), ``seconds``.

    Raises:
        RuntimeError: The reloaded model does not repeat the images of the saved one.
    """
    started = time.monotonic()
    output = Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    generator = load_model(GENERATOR).eval()
    extractor = EXTRACTORS["fashion_mnist"]()
    real = evenly(load_reference(REFERENCE, resolution=generator.config.resolution)[0], config.num_samples)
    real_features = extract_features(real, extractor, progress=False)

    compressed = Compressor(generator, StudyConfig(methods=METHODS))
    settings = [FULL, *((method, bits) for method in METHODS for bits in config.bits)]
    rows, grids, means = [], [], [mean_image(real)]
    for method, bits in tqdm(settings, desc="demo", unit="setting", disable=not config.progress):
        model, about = compressed(method, bits)
        images, _ = sample_images(model, config.num_samples, seed=config.seed, progress=False)
        features = extract_features(images, extractor, progress=False)
        results = measure(real=real_features, generated=features, metrics=DEFAULT_METRICS, seed=config.seed)
        rows.append(table_row(method, bits, results, about))
        grids.append(images[:20])
        means.append(mean_image(images))

    names = [setting_name(row["method"], row["bits"]) for row in rows]
    save_image_grid(torch.cat(grids), output / "samples.png", columns=20, row_labels=names)
    save_image_grid(torch.stack(means), output / "mean_images.png", columns=1, row_labels=["real images", *names])
    save_precision_recall_plot(rows, output / "precision_recall.png")
    conditions = {
        "n_real": len(real),
        "n_generated": config.num_samples,
        "seed": config.seed,
        **{name: results["lsh_precision_recall"][name] for name in ("num_hyperplanes", "draws", "k")},
        "extractor": extractor.name,
        "extractor_digest": extractor.digest,
        "machine": machine(),
        "versions": versions(),
    }
    saved = save_and_verify(compressed, output / "model", *SAVED)
    result = {"rows": rows, "conditions": conditions, "saved_model": saved, "speed": speed(generator, output / "int8")}
    result["seconds"] = time.monotonic() - started
    (output / "results.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


@torch.inference_mode()
def speed(generator: Any, folder: Path) -> dict[str, Any] | None:
    """Milliseconds an image of the generator in torch and of its export with integers in ONNX Runtime, batches of 16
    in turn, medians of 9; None without the extra.
    """
    if not (find_spec("onnx") and find_spec("onnxruntime") and find_spec("onnxscript")):
        return None
    small = copy.deepcopy(generator)
    quantize_(small, bits=8, activations="int8")
    shutil.rmtree(folder, ignore_errors=True)  # of a demo before
    exported = export(small, folder)
    z, labels = torch.randn(16, generator.config.z_dim), torch.arange(16) % max(1, generator.config.num_classes)
    sides = {"full": generator, "int8": OnnxGenerator.from_pretrained(folder, threads=torch.get_num_threads())}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(10):
        for name, side in sides.items():
            began = time.perf_counter()
            side(z, labels, noise_mode="const")
            seconds[name].append(time.perf_counter() - began)
    found = {f"{name}_ms": 1000 / 16 * statistics.median(each[1:]) for name, each in seconds.items()}
    return found | {"times": found["full_ms"] / found["int8_ms"], "file_bytes": exported.bytes, "folder": str(folder)}


def table_row(method: str, bits: int, results: dict[str, dict], about: dict[str, Any]) -> dict[str, Any]:
    """One line of the table as a dict: the six precisions and recalls, the Frechet distance, bytes of all tensors."""
    lsh, knn = results["lsh_precision_recall"], results["knn_precision_recall"]
    values = {name: lsh[name] for name in lsh if name.startswith("lsh_")}
    values |= {f"knn_{name}": knn[name] for name in ("precision", "recall")}
    values["frechet_distance"] = results["frechet_distance"]["frechet_distance"]
    values["bytes"] = about["bytes"]
    if (method, bits) == FULL:
        return {"method": method, "bits": bits} | values
    return {"method": LABELS[method], "bits": bits} | values | {"bits_per_weight": about["bits_per_weight"]}


def format_table(rows: list[dict[str, Any]]) -> str:
    """The paper's table: precision and recall by LSH, LSH+KNN and KNN, and the Frechet distance."""
    lines = [("method", "bits", "LSH P", "R", "LSH+KNN P", "R", "KNN P", "R", "FD", "KiB", "")]
    for row in rows:
        scores = tuple(f"{row[column]:.3f}" for column in _COLUMNS)
        cost = (f"{row['frechet_distance']:.2f}", f"{row['bytes'] / 1024:.0f}", "")
        lines.append((row["method"], str(row["bits"]), *scores, *cost))
    return "\n".join(table(lines))


def save_and_verify(compressed: Compressor, folder: Path, method: str, bits: int) -> dict[str, Any]:
    """Save a quantized copy, load it with a plain ``from_pretrained`` and compare 100 images bit for bit."""
    model, _ = compressed(method, bits)
    model.save_pretrained(folder)
    reloaded = type(model).from_pretrained(folder)
    before, after = (sample_images(m, 100, progress=False)[0] for m in (model, reloaded))
    if not torch.equal(before, after):
        raise RuntimeError(f"demo: the model reloaded from {folder} does not repeat the images of the saved one.")
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return {"folder": str(folder), "method": method, "bits": bits, "file_bytes": size, "bit_exact": True}
