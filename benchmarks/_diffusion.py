# SPDX-License-Identifier: Apache-2.0
"""Rate and distortion of quantized diffusion UNets: bytes of the model against its noise predictions and images."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import UNet2DModel

import hf_ganzip as gz
from benchmarks._curves import gains, save_plot
from benchmarks._peers import whole_models
from hf_ganzip.assets import asset_path
from hf_ganzip.evaluation.comparing.measured_pairs import squared_errors
from hf_ganzip.evaluation.cost import held_bytes
from hf_ganzip.evaluation.diffusion_sampling import sample_diffusion
from hf_ganzip.evaluation.extractors import EXTRACTORS, extract_features
from hf_ganzip.evaluation.sources import load_reference
from hf_ganzip.metrics import frechet_distance, knn_precision_recall
from hf_ganzip.quantization.packed import computing


# Of a weight alone; the last four as in the paper.
PLAIN = ("auto", "mse_clip", "codebook", "aciq", "linear", "monte_carlo", "outlier_splitting")
CALIBRATED = ("auto mixed", "gptq", "gptq hadamard", "gptq mixed")
SLOW = ("latent_distill", "latent_distill mixed")
_COMPARED = (2, 5)  # total bits per weight of the points that are compared
_MEASURED = (2, 3, 4, 5, 6, 8)  # bits of the sensitivities
_SHORT, _LONG = 10, 50  # steps
SQNR, FD = "SQNR dB", "FD"


def add_options(parser) -> None:
    group = parser.add_argument_group("section diffusion")
    group.add_argument("--diffusion-bits", nargs="+", type=int, default=[2, 3, 4, 5, 6, 8])
    group.add_argument(
        "--diffusion-methods", nargs="+", choices=[*PLAIN, *CALIBRATED, *SLOW], help="default: all that are not slow"
    )
    group.add_argument("--no-peers", action="store_true", help="ours only")
    group.add_argument("--peers", nargs="+", metavar="NAME", help="these of the installed peers, default: all")
    group.add_argument(
        "--diffusion-model",
        metavar="FOLDER",
        help="a second UNet2DModel, such as unet_ema of a checkpoint of examples/train_ddpm.py",
    )
    group.add_argument("--no-bundled", action="store_true", help="without the bundled DDPM")
    group.add_argument(
        "--long-steps", type=int, default=_LONG, help="of the second PSNR, and of FD (default: %(default)s)"
    )
    group.add_argument(
        "--random-model",
        action="store_true",
        help="also a UNet of 26M random weights; noise predictions only, plain methods",
    )
    group.add_argument("--images", type=int, default=16, help="of predictions and pairs (default: %(default)s)")
    group.add_argument(
        "--clip-sample",
        action="store_true",
        help="clip predicted images while sampling, for models that are not finished",
    )
    group.add_argument(
        "--fd",
        type=int,
        metavar="N",
        help="also Frechet distance, KNN precision and recall of N images to N real ones; N = 2500 takes half an hour "
        "a row",
    )
    group.add_argument("--plot", metavar="FILE", help="rate-distortion plot, PNG")


class Ruler:
    """What a candidate is held against: predictions on the original's own 10-step trajectory, its images, and real
    images.

    Args:
        model: The original.
        arguments: Of the command line.
        pictures: Whether images are compared, too.
    """

    def __init__(self, model, arguments, pictures: bool):
        self.count, self.fd = arguments.images, arguments.fd if pictures else None
        self.options = {"clip_sample": arguments.clip_sample, "progress": False}
        self.steps = (_SHORT, 2 if arguments.quick else arguments.long_steps) if pictures else (_SHORT,)
        self.calls: list[tuple[Any, Any, torch.Tensor]] = []
        hook = model.register_forward_hook(
            lambda module, args, kwargs, output: self.calls.append((args, kwargs, output[0])), with_kwargs=True
        )
        self.names = [f"PSNR dB, {steps} steps" for steps in (_SHORT, arguments.long_steps)]
        short = self._images(model, _SHORT)
        hook.remove()
        self.images = [short, *(self._images(model, steps) for steps in self.steps[1:])]
        if self.fd:
            self.extractor = EXTRACTORS["fashion_mnist"]()
            real = load_reference("fashion-mnist-test-5000", resolution=32)[0]
            self.real = extract_features(real[:: len(real) // self.fd][: self.fd], self.extractor, progress=False)

    def _images(self, model, steps: int, count: int | None = None) -> torch.Tensor:
        return sample_diffusion(model, count or self.count, steps=steps, **self.options)[0]

    @torch.no_grad()
    def predictions(self, model) -> dict[str, float]:
        signal = noise = 0.0
        with computing(model, "dequantized"):
            for args, kwargs, expected in self.calls:
                found = model(*args, **kwargs)[0]
                signal += float(expected.double().square().sum())
                noise += float((expected.double() - found.double()).square().sum())
        return {SQNR: decibels(signal, noise)}

    def __call__(self, model) -> dict[str, float]:
        """Figures of a candidate; PSNR of uint8 images."""
        found = self.predictions(model)
        for steps, name, images in zip(self.steps, self.names, self.images if self.pictured else ()):
            found[name] = decibels(255.0**2, float(squared_errors(images, self._images(model, steps)).mean()))
        return found | (self.distances(model) if self.fd else {})

    @property
    def pictured(self) -> bool:
        return len(self.steps) > 1

    def distances(self, model) -> dict[str, float]:
        """Frechet distance, precision and recall of ``fd`` images."""
        images = self._images(model, self.steps[-1], self.fd)
        sides = {"real": self.real, "generated": extract_features(images, self.extractor, progress=False)}
        shares = knn_precision_recall(**sides)
        distance = frechet_distance(**sides, allow_singular=True)["frechet_distance"]
        return {FD: distance, "P": shares["precision"], "R": shares["recall"]}


def decibels(signal: float, noise: float) -> float | None:
    """10 log10 of the ratio; None for no noise, which is infinite."""
    return 10 * float(torch.tensor(signal / noise).log10()) if noise else None


class Ours:
    """Candidates of this library; one measurement of sensitivity for each mixed method."""

    def __init__(self, model, quick: bool):
        self.model, self.quick, self.reports = model, quick, {}

    def __call__(self, method: str, bits: int):
        """A quantized copy."""
        name, _, kind = method.partition(" ")
        config = {"method_options": self._options(name)}
        found = copy.deepcopy(self.model)
        if kind != "mixed":
            config |= {"hadamard": True} if kind else {}
            gz.quantize_(found, name, bits=bits, **config)
            return found
        report = self._sensitivity(name)
        sizes = {
            layer.name: layer.bytes_after
            for layer in gz.quantize_(copy.deepcopy(self.model), "auto", bits=bits).layers
        }
        overrides = report.allocate(target_bytes=sum(sizes[f"{layer.name}.weight"] for layer in report.layers))
        gz.quantize_(found, name, bits=bits, headroom=0, overrides=overrides, **config)
        return found

    def _sensitivity(self, name: str):
        if name not in self.reports:
            config = gz.QuantizeConfig(name, headroom=0, method_options=self._options(name))
            samples, bits = (2, (2, 4)) if self.quick else (32, _MEASURED)
            self.reports[name] = gz.sensitivity(self.model, bits, config=config, num_samples=samples, progress=False)
        return self.reports[name]

    def _options(self, name: str) -> dict[str, Any]:
        if name == "gptq":
            return {"progress": False} | ({"batches": 2} if self.quick else {})
        return {"progress": False} if name == "latent_distill" else {}


def random_unet(quick: bool):
    """26M parameters for 32 x 32 pixels in three colours, as they are initialized."""
    torch.manual_seed(0)
    widths = (32, 64) if quick else (64, 128, 192, 320)
    down, up = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
    return UNet2DModel(
        sample_size=32,
        block_out_channels=widths,
        down_block_types=(*down, *("DownBlock2D",) * (len(widths) - 2)),
        up_block_types=(*("UpBlock2D",) * (len(widths) - 2), *up),
    ).eval()


def diffusion_section(arguments) -> list[dict]:
    rows: list[dict] = []
    for name, model, pictures in _models(arguments):
        rows += _of_model(name, model, pictures, arguments)
    if arguments.plot:
        save_plot([row for row in rows if "bytes" in row and row["bits"] < 32], SQNR, arguments.plot)
    return rows


def _models(arguments) -> Iterator[tuple[str, Any, bool]]:
    if not arguments.no_bundled:
        yield "ddpm-fashion-mnist", UNet2DModel.from_pretrained(asset_path("ddpm-fashion-mnist")).eval(), True
    if arguments.diffusion_model:
        model = UNet2DModel.from_pretrained(arguments.diffusion_model).eval()
        yield f"second UNet, {model.num_parameters():,} weights", model, True
    if arguments.random_model:
        model = random_unet(arguments.quick)
        yield f"random UNet, {model.num_parameters():,} weights", model, False


def _of_model(name: str, model, pictures: bool, arguments) -> list[dict]:
    ruler, ours = Ruler(model, arguments, pictures), Ours(model, arguments.quick)
    weights = model.num_parameters()
    whole = {
        "method": "full precision",
        "bits": 32,
        "bytes": held_bytes(model),
        "bits per weight": 8 * held_bytes(model) / weights,
    }
    start = {"section": "diffusion", "model": name}
    rows = [start | whole | (ruler.distances(model) if ruler.fd else {})]

    def measure(method: str, bits: int, make: Callable[[], tuple[Any, int]], peer: bool) -> None:
        began = time.perf_counter()
        found, size = make()
        taken = time.perf_counter() - began
        row = start | {
            "by": "peer" if peer else "ours",
            "method": method,
            "bits": bits,
            "bytes": size,
            "bits per weight": 8 * size / weights,
        }
        rows.append(row | ruler(found) | {"quantizing s": taken})
        print(rows[-1], file=sys.stderr, flush=True)  # it takes an hour

    def own(method: str, bits: int) -> tuple[Any, int]:
        found = ours(method, bits)
        return found, held_bytes(found)

    for method in arguments.diffusion_methods or (*PLAIN, *CALIBRATED):
        for bits in arguments.diffusion_bits if pictures or method in PLAIN else ():
            measure(method, bits, lambda method=method, bits=bits: own(method, bits), False)
    peers = {} if arguments.no_peers else whole_models()
    for method in arguments.peers or peers:
        quantize = peers[method]
        for bits in arguments.diffusion_bits:
            measure(method, bits, lambda quantize=quantize, bits=bits: quantize(model, bits), True)
    return rows + [start | row for row in _comparison(rows[1:], weights)]


def _comparison(rows: list[dict], weights: int) -> Iterator[dict]:
    """Our best curves above the peers' best points of 2 to 5 bits per weight, every byte of the model counted."""
    peers = [row for row in rows if row["by"] == "peer"]
    sizes = (_COMPARED[0] * weights / 8, _COMPARED[1] * weights / 8)
    kinds = {"without calibration": PLAIN, "with calibration": (*PLAIN, *CALIBRATED, *SLOW)}
    for kind, methods in kinds.items() if peers else ():
        own = [row for row in rows if row["method"] in methods]
        for value in (SQNR, *[name for name in rows[0] if name.startswith("PSNR")][-1:]):
            if any(row.get(value) for row in own):
                yield {
                    "section": "diffusion, best curves at equal bytes",
                    "method": f"ours {kind} - peers",
                    "figure": value,
                } | gains(own, peers, value, sizes)
