# SPDX-License-Identifier: Apache-2.0
"""Compress one generator by many methods at many bits, and measure each against the same real images.

Every finished piece is a file, so that a study that was stopped goes on where it was.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from ..core.record import machine, versions
from ..evaluation.evaluate import measure
from ..evaluation.extractors import extract_features, load_extractor
from ..evaluation.sampling import mean_image
from ..evaluation.sources import evenly, open_source
from ..metrics.realism import realism_scores
from ..quantization import QuantizeConfig, SensitivityReport, quantize_, sensitivity
from .compression_config import FULL, OF_DIFFUSION, OF_GANS, VARIANTS, StudyConfig
from .compression_drawing import Drawing


METRICS = ("lsh_precision_recall", "knn_precision_recall", "frechet_distance", "kernel_distance")


def run_study(
    model: Any, reference: str, output_dir: str | Path, config: StudyConfig | None = None, *, progress: bool = True
) -> dict[str, Any]:
    """Compress, sample and measure; what was finished in ``output_dir`` before is not done again.

    Args:
        model: GAN generator or diffusion UNet, a pipeline of one, or a name as for :func:`.load_model`.
        reference: Real images, as :func:`.open_source` finds them.
        output_dir: Gets ``pieces/`` with one JSON file per setting and draw, and one safetensors file of pictures per
            setting.
        config: Options.
        progress: Show progress bars.

    Returns:
        ``rows`` (one per setting, means over draws with ``_std``), ``draws`` (one per setting and draw) and
        ``conditions``.

    Raises:
        ValueError: The folder belongs to a study with other options, or there are too few images for the Frechet
            distance; as :class:`.Drawing`.
    """
    config = config or StudyConfig()
    pieces = Path(output_dir) / "pieces"
    drawing = Drawing(model, config)
    methods = config.methods or (OF_DIFFUSION if drawing.diffuses else OF_GANS)
    extractor = load_extractor(config.extractor)
    images, labels = _reference(reference, drawing.network)
    images, labels = (None if items is None else evenly(items, config.num_samples) for items in (images, labels))
    if (fewest := min(len(images), config.num_samples)) <= extractor.dim:
        raise ValueError(
            f"study: {len(images)} real and {config.num_samples} generated images; the Frechet distance of "
            f"{extractor.dim} features needs more than {extractor.dim} of each, and here are {fewest}. Use more "
            "images."
        )
    conditions = _conditions(drawing, str(reference), extractor) | {"n_real": len(images)}
    pieces.mkdir(parents=True, exist_ok=True)
    _check_folder(pieces, conditions)
    study = _Study(drawing, extractor, pieces, progress)
    study.real = extract_features(images, extractor, progress=progress)
    study.real_labels = labels
    settings = [FULL, *((name, bits) for name in methods for bits in config.bits)]
    draws = []
    finished = sum(file.is_file() for setting in settings for file in study.files(*setting))
    sizes = {"total": len(settings) * config.draws * config.num_samples, "initial": finished * config.num_samples}
    with tqdm(**sizes, desc="study", unit="image", disable=not progress) as bar:
        for name, bits in settings:
            draws += study.setting(name, bits, bar)
    save_file({"mean": mean_image(images)}, pieces / f"{_stem('real', 0)}.safetensors")
    return {"rows": [_mean_row(draws, *s) for s in settings], "draws": draws, "conditions": conditions}


def pictures(output_dir: str | Path, name: str, bits: int) -> dict[str, Tensor]:
    """``images`` (20, C, H, W) and ``mean`` (C, H, W), uint8, of a setting of a finished study."""
    return load_file(Path(output_dir) / "pieces" / f"{_stem(name, bits)}.safetensors")


class Compressor:
    """Compressed copies of one generator by the names of a study; the sensitivity of its layers is measured once.

    Args:
        generator: The model in full precision.
        config: Options of the study.
        progress: Show the progress bars of methods.
    """

    def __init__(self, generator: ModelMixin, config: StudyConfig, progress: bool = True):
        self.generator, self.config, self.progress = generator, config, progress
        self._sensitivity: dict[tuple[str, str], SensitivityReport] = {}

    def __call__(self, name: str, bits: int) -> tuple[ModelMixin, dict[str, Any]]:
        """The compressed generator, its bytes and bits per weight, and the seconds that compressing took."""
        total = sum(t.nbytes for t in [*self.generator.parameters(), *self.generator.buffers()])
        if (name, bits) == FULL:
            return self.generator, {"bytes": total, "bits_per_weight": 32.0, "seconds": 0.0}
        started = time.monotonic()
        config, mixed = self.config.quantization(name, bits, self.progress)
        if mixed:
            config = dataclasses.replace(config, overrides=self._mixed_bits(VARIANTS[name]["preset"], config))
        model = copy.deepcopy(self.generator)
        report = quantize_(model, config)
        seconds = time.monotonic() - started
        return model, {"bytes": report.bytes_after, "bits_per_weight": report.bits_per_weight, "seconds": seconds}

    def _mixed_bits(self, preset: str, config: QuantizeConfig) -> dict[str, dict[str, int]]:
        """Bits of every layer in the bytes that ``config`` gives all of them: its bits, and its headroom on top."""
        key = preset, config.settings().method_name
        if key not in self._sensitivity:
            same = dataclasses.replace(config, headroom=0.0)
            self._sensitivity[key] = sensitivity(self.generator, range(2, 9), config=same, progress=self.progress)
        report = self._sensitivity[key]
        budget = (1 + config.headroom) * sum(layer.bytes[config.bits] for layer in report.layers)
        return report.allocate(target_bytes=int(budget))


class _Study:
    """What the settings share: the features of the real images, the folder of finished pieces."""

    def __init__(self, drawing: Drawing, extractor: Any, pieces: Path, progress: bool):
        self.compressor = Compressor(drawing.network, drawing.config, progress)
        self.drawing, self.config = drawing, drawing.config
        self.extractor, self.pieces = extractor, pieces
        self.real: Tensor
        self.real_labels: Tensor | None = None

    def files(self, name: str, bits: int) -> list[Path]:
        """Where the rows of a setting are, once they are finished; one for every draw."""
        return [self.pieces / f"{_stem(name, bits)}-{i}.json" for i in range(self.config.draws)]

    def setting(self, name: str, bits: int, bar: tqdm) -> list[dict[str, Any]]:
        """Rows of all draws of a setting; the model is made only if a piece is missing."""
        files = self.files(name, bits)
        bar.set_postfix(setting=f"{name} {bits}")
        if not all(file.is_file() for file in files):
            model, about = self.compressor(name, bits)
        rows = []
        for i, file in enumerate(files):
            if not file.is_file():
                row = {"method": name, "bits": bits, "draw": i} | about | self.draw(model, name, bits, i, bar)
                temporary = file.with_suffix(".tmp")
                temporary.write_text(json.dumps(row))
                temporary.replace(file)
            rows.append(json.loads(file.read_text()))
        return rows

    def draw(self, model: ModelMixin, name: str, bits: int, number: int, bar: tqdm) -> dict[str, Any]:
        """Metrics of one draw; the first also keeps the pictures."""
        config, seed = self.config, self.config.seed + number
        images, labels = self.drawing.images(model, seed, bar.update)
        features = extract_features(images, self.extractor, progress=False)
        options = {"k": config.k, "draws": 1, "subset_size": min(1000, len(self.real), len(features))}
        results = measure(real=self.real, generated=features, metrics=METRICS, seed=seed, metric_options=options)
        if number == 0:
            kept = {"images": images[:20], "mean": mean_image(images)}
            save_file(kept, self.pieces / f"{_stem(name, bits)}.safetensors")
        lsh, knn = results["lsh_precision_recall"], results["knn_precision_recall"]
        row = {key: lsh[key] for key in lsh if key.startswith("lsh_") and not key.endswith("_std")}
        row |= {"precision": knn["precision"], "recall": knn["recall"]}
        row |= {key: results[key][key] for key in ("frechet_distance", "kernel_distance")}
        compared = {"real": self.real, "generated": features, "k": config.k, "seed": seed}
        row["realism"] = float(realism_scores(**compared).mean())
        if self.drawing.diffuses and (name, bits) != FULL:
            row["sqnr"] = self.drawing.sqnr(model, seed)
        if labels is not None and self.real_labels is not None:
            scores = realism_scores(**compared, real_labels=self.real_labels, generated_labels=labels)
            classes = range(int(labels.max()) + 1)
            row["realism_per_class"] = [float(scores[labels.numpy() == each].mean()) for each in classes]
        return row


def _reference(reference: str, generator: ModelMixin) -> tuple[Tensor, Tensor | None]:
    """Real images (N, C, H, W) uint8 in the size of the generator's, and their classes (N,) where they are known."""
    config = generator.config
    source = open_source(reference, resolution=config.get("resolution") or config.get("sample_size"))
    if source.images is None:
        raise ValueError(f"study: {reference} holds no images; pictures and features of real images are both needed.")
    return source.images, source.labels


def _conditions(drawing: Drawing, reference: str, extractor: Any) -> dict[str, Any]:
    digest = hashlib.sha256()
    for name, tensor in sorted(drawing.network.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return {
        "model": drawing.name,
        "model_sha256": digest.hexdigest(),
        "reference": reference,
        "extractor_digest": extractor.digest,
        **json.loads(json.dumps(drawing.conditions())),
        "machine": machine(),
        "versions": versions(),
    }


def _check_folder(pieces: Path, conditions: dict[str, Any]) -> None:
    file = pieces / "conditions.json"
    if file.is_file():
        before = json.loads(file.read_text())
        if different := sorted(name for name in conditions if before.get(name) != conditions[name]):
            raise ValueError(
                f"study: {pieces.parent} belongs to a study that differs in {', '.join(different)}; choose another "
                "folder."
            )
    file.write_text(json.dumps(conditions, indent=1))


def _mean_row(draws: list[dict[str, Any]], name: str, bits: int) -> dict[str, Any]:
    """Means over the draws of a setting, with standard deviations of the numbers that vary."""
    own = [row for row in draws if (row["method"], row["bits"]) == (name, bits)]
    row: dict[str, Any] = {"method": name, "bits": bits, "n_draws": len(own)}
    row |= {key: own[0][key] for key in ("bytes", "bits_per_weight", "seconds")}
    for key in own[0].keys() - row.keys() - {"draw"}:
        values = torch.tensor([each[key] for each in own], dtype=torch.float64)
        row[key] = values.mean(dim=0).tolist()
        if values.ndim == 1:
            row[f"{key}_std"] = float(values.std()) if len(own) > 1 else 0.0
    return row


def _stem(name: str, bits: int) -> str:
    return f"{name.replace(' ', '_')}-{bits}"
