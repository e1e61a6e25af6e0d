# SPDX-License-Identifier: Apache-2.0
"""Quantization: quality, size and time against peers and limits, as ratios within one run.

Sections: `quality` (PSNR of samples at fixed latents to those of the full-precision generator, and Frechet distance to
real images, for every method at 2 to 6 bits, next to SDNQ and torchao where they are installed), `size` (bytes of
quantized tensors of a StyleGAN2 for 1024 x 1024 pixels against bits / 8), `time` (quantizing 30M weights against
saving and loading them; sampling; calibration). The peers quantize the same weights as we do, one matrix (outputs,
rest) per layer; scales and zero points are counted in their stored bits. Only where asked for: `diffusion` (every byte
of a quantized UNet against its noise predictions on the original's 10-step trajectory and its images at fixed noise),
`large` (loading the UNet of Stable Diffusion 1.5 while quantizing, in fresh processes: seconds and peak memory).
"""

import copy
import importlib.util
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


sys.path.insert(0, str(Path(__file__).parents[1]))

import hf_ganzip as gz
from benchmarks import _diffusion, _large
from benchmarks._peers import MATRICES, by_peer
from benchmarks._timing import conditions, interleaved, parser, ratio, report
from hf_ganzip.assets import asset_path
from hf_ganzip.evaluation.extractors import EXTRACTORS, extract_features
from hf_ganzip.evaluation.sampling import sample_images
from hf_ganzip.evaluation.sources import load_reference
from hf_ganzip.metrics import frechet_distance
from hf_ganzip.studies.compression import Compressor
from hf_ganzip.studies.compression_config import VARIANTS, StudyConfig


SECTIONS = ("quality", "size", "time")
LONG_SECTIONS = ("diffusion", "large")
LATENTS = 128


def samples(model) -> torch.Tensor:
    """Images of fixed latents, every class, stored noise; clipped to [-1, 1]."""
    z = torch.randn(LATENTS, model.config.z_dim, generator=torch.Generator().manual_seed(123))
    labels = torch.arange(LATENTS) % model.config.num_classes
    with torch.no_grad():
        return model(z, labels, noise_mode="const", return_dict=False)[0].clamp(-1, 1)


def psnr(images: torch.Tensor, reference: torch.Tensor) -> float:
    return 10 * math.log10(4 / float((images - reference).square().mean()))


def quality_section(arguments) -> list[dict]:
    generator = gz.load_model(asset_path(arguments.generator)).eval()
    bits = (4, 2) if arguments.quick else arguments.bits
    count = 100 if arguments.quick else 2500
    calibration = {"progress": False, "seed": arguments.seed}
    options = {"latent_distill": {**calibration}, "gptq": {**calibration}}
    if arguments.quick:
        options["latent_distill"] |= {"steps": 2, "base": "codebook"}
        options["gptq"] |= {"batches": 2}
    config = StudyConfig(method_options=options)
    compressor = Compressor(generator, config)
    extractor = EXTRACTORS["fashion_mnist"]()
    real = extract_features(
        load_reference("fashion-mnist-test-5000", resolution=32)[0][:: 5000 // count], extractor, progress=False
    )
    reference = samples(generator)

    def distance(model) -> float:
        images, _ = sample_images(model, count, progress=False)
        features = extract_features(images, extractor, progress=False)
        return frechet_distance(real=real, generated=features, allow_singular=True)["frechet_distance"]

    full = distance(generator)
    rows = [{"section": "quality", "method": "full precision", "bits": 32, "FD": full, "FD / full": 1.0}]

    def row(method, b, model, stored, seconds):
        found = distance(model)
        values = {
            "bits per weight": stored,
            "PSNR dB": psnr(samples(model), reference),
            "FD": found,
            "FD / full": found / full,
        }
        rows.append({"section": "quality", "method": method, "bits": b} | values | {"s": seconds})
        print(rows[-1], file=sys.stderr, flush=True)  # it takes minutes

    plan = gz.quantize_(copy.deepcopy(generator), gz.QuantizeConfig("linear"))
    names = [layer.name for layer in plan.quantized]
    for method, (package, quantize) in () if arguments.methods else MATRICES.items():
        for b in bits if importlib.util.find_spec(package) else ():
            start = time.perf_counter()
            model, stored = by_peer(generator, names, quantize, b)
            row(method, b, model, stored, time.perf_counter() - start)
    for method in arguments.methods or VARIANTS:
        # aciq at two more bits is what the calibrated ones are compared with
        for b in sorted({*bits, *(b + 2 for b in bits)}) if method == "aciq" else bits:
            model, about = compressor(method, b)
            row(method, b, model, about["bits_per_weight"], about["seconds"])
    found = {(each["method"], each["bits"]): each.get("PSNR dB") for each in rows}
    for b in bits:
        for method in ("gptq", "gptq mixed", "latent_distill", "latent_distill mixed"):
            if ("aciq", b + 2) in found and (method, b) in found:
                gain = found[method, b] - found["aciq", b + 2]
                rows.append(
                    {
                        "section": "quality",
                        "method": f"{method} at {b} - aciq at {b + 2}",
                        "PSNR dB": gain,
                        "target": ">= 0",
                    }
                )
    return rows


def large_generator(quick: bool):
    """StyleGAN2 for 1024 x 1024 pixels: 30M parameters, random; a small one for quick runs."""
    torch.manual_seed(0)
    if quick:
        return gz.StyleGAN2Generator(resolution=16, channels=(128, 128, 128)).eval()
    return gz.StyleGAN2Generator(
        resolution=1024, image_channels=3, channels=(512, 512, 512, 512, 512, 256, 128, 64, 32)
    ).eval()


def size_section(arguments) -> list[dict]:
    model = large_generator(arguments.quick)
    rows = []
    for b in (4,) if arguments.quick else (2, 3, 4, 5, 6, 8):
        config = gz.QuantizeConfig("linear", bits=b, granularity="channel", scale_dtype="float16", requantize=True)
        found = gz.quantize_(model, config)
        name = f"StyleGAN2-1024, {b} bits: bytes / (bits / 8)"
        rows.append(
            {"section": "size", "method": name, "bits": b, "ratio": found.bits_per_weight / b, "target": "<= 1.03"}
        )
    return rows


def time_section(arguments) -> list[dict]:
    model = large_generator(arguments.quick)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "weights.safetensors")

        def save_and_load():
            save_file(tensors, file)
            for tensor in load_file(file).values():
                tensor.sum()  # the file is mapped: touch every page

        def quantize():
            gz.quantize_(fresh.pop(), gz.QuantizeConfig("aciq", bits=4))

        fresh = [copy.deepcopy(model) for _ in range(arguments.repeats + 1)]
        seconds = interleaved({"aciq": quantize, "save and load": save_and_load}, arguments.repeats)
    row = {"section": "time", "method": "aciq, 4 bits, StyleGAN2-1024 / safetensors save + load"}
    rows.append(
        row
        | ratio(seconds["aciq"], seconds["save and load"])
        | {"s": statistics.median(seconds["aciq"]), "target": "<= 3"}
    )

    generator = gz.load_model(asset_path("stylegan2-fashion-mnist")).eval()
    packed = copy.deepcopy(generator)
    by_channel = {"bits": 4, "granularity": "channel", "preset": "paper"}
    gz.quantize_(packed, "codebook", compute="dequantized", **by_channel)
    repeats = arguments.repeats if arguments.quick else 10 * arguments.repeats
    seconds = interleaved({"packed": lambda: samples(packed), "full": lambda: samples(generator)}, repeats)
    row = {"section": "time", "method": "sampling, dequantized / full precision"}
    rows.append(
        row
        | ratio(seconds["packed"], seconds["full"])
        | {"s": statistics.median(seconds["packed"]), "target": "<= 1.05"}
    )

    options = {"steps": 5, "base": "codebook", "progress": False} if arguments.quick else {"progress": False}
    start = time.perf_counter()
    gz.quantize_(generator, "latent_distill", method_options=options, **by_channel)
    taken = time.perf_counter() - start
    rows.append(
        {
            "section": "time",
            "method": "latent_distill, bundled generator / 120 s",
            "s": taken,
            "ratio": taken / 120,
            "target": "<= 1",
        }
    )
    return rows


def main() -> None:
    arguments_parser = parser(__doc__, repeats=5)
    arguments_parser.add_argument(
        "--only", nargs="+", choices=SECTIONS + LONG_SECTIONS, default=SECTIONS, help="sections to run"
    )
    arguments_parser.add_argument(
        "--bits", nargs="+", type=int, default=[2, 3, 4, 5, 6], help="of the section quality"
    )
    arguments_parser.add_argument(
        "--generator", default="stylegan2-fashion-mnist", help="bundled one, of the section quality"
    )
    arguments_parser.add_argument(
        "--seed", type=int, default=0, help="of the calibrated methods of the section quality"
    )
    arguments_parser.add_argument("--methods", nargs="+", help="of the section quality; default: all, and the peers")
    _diffusion.add_options(arguments_parser)
    _large.add_options(arguments_parser)
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run = {"quality": quality_section, "size": size_section, "time": time_section}
    run |= {"diffusion": _diffusion.diffusion_section, "large": _large.large_section}
    rows = [row for name in arguments.only for row in run[name](arguments)]
    packages = [name for name in ("sdnq", "torchao") if importlib.util.find_spec(name)]
    report(rows, conditions(arguments, *packages), arguments.json)


if __name__ == "__main__":
    main()
