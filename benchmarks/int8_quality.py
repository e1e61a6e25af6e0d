# SPDX-License-Identifier: Apache-2.0
"""What activations of 8 bits cost: the bundled models in bits of weights x activations, beside activations in floating
point.

Every row is computed with integers (`compute="int8"`). PSNR of images (in [-1, 1]) at fixed latents to those of the
full-precision model; Frechet distance and KNN recall to real images, the same latents in every row, relative to full
precision. The DDPM draws by few steps, and is also held against SDNQ with quantized matrix products and torchao's int8
with dynamic activations (linear layers only), where they are installed: both by their public calls, convolutions and
layers of all sizes included.
"""

import copy
import importlib.util
import sys
import time
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

import hf_ganzip as gz
from benchmarks._diffusion import decibels
from benchmarks._timing import conditions, parser, report
from hf_ganzip.assets import asset_path
from hf_ganzip.evaluation.comparing.measured_pairs import squared_errors
from hf_ganzip.evaluation.diffusion_sampling import sample_diffusion
from hf_ganzip.evaluation.extractors import EXTRACTORS, extract_features
from hf_ganzip.evaluation.sampling import sample_images
from hf_ganzip.evaluation.sources import load_reference
from hf_ganzip.metrics import frechet_distance, knn_precision_recall


MODELS = ("stylegan2", "biggan", "ddpm")
SECOND = "second DDPM"
PAIRS = 128  # images of PSNR


class Side:
    """One model and what its copies are held against."""

    def __init__(self, name: str, arguments):
        folder = arguments.diffusion_model if name == SECOND else asset_path(f"{name}-fashion-mnist")
        self.model = gz.load_model(folder).eval()
        self.diffusion = name in ("ddpm", SECOND)
        self.count = 32 if arguments.quick else arguments.images if self.diffusion else arguments.gan_images
        self.steps = 2 if arguments.quick else arguments.steps
        self.extractor = EXTRACTORS["fashion_mnist"]()
        real = load_reference("fashion-mnist-test-5000", resolution=32)[0]
        self.real = extract_features(real[:: len(real) // self.count][: self.count], self.extractor, progress=False)
        self.images, self.full = None, {}
        self.full = self.figures(self.model)

    def figures(self, model) -> dict:
        if self.diffusion:
            images = sample_diffusion(model, self.count, steps=self.steps, progress=False)[0]
        else:
            images = sample_images(model, self.count, progress=False)[0]
        if self.images is None:
            self.images = images[:PAIRS]
        sides = {"real": self.real, "generated": extract_features(images, self.extractor, progress=False)}
        distance = frechet_distance(**sides, allow_singular=True)["frechet_distance"]
        noise = float(squared_errors(self.images, images[:PAIRS]).mean())
        found = {
            "PSNR dB": decibels(255.0**2, noise),
            "FD": distance,
            "FD / full": distance / self.full.get("FD", distance),
        }
        return found | {"recall": knn_precision_recall(**sides)["recall"]}


def candidates(model, arguments):
    """(name, function that makes a quantized copy, target of FD / full)."""

    def ours(bits: int, **options):
        found = copy.deepcopy(model)
        gz.quantize_(found, arguments.method, bits=bits, bias_correction=arguments.bias_correction, **options)
        return found

    for bits in (8,) if arguments.quick else arguments.bits:
        target = {8: "<= 1.03", 4: "<= 1.10"}.get(bits)
        yield f"W{bits}", lambda bits=bits: ours(bits), None
        for kind in arguments.ranges:
            yield (
                f"W{bits}A8 {kind}",
                lambda bits=bits, kind=kind: ours(bits, activations="int8", activation_range=kind),
                target,
            )
    if hasattr(model, "conv_in") and not arguments.no_peers:
        if importlib.util.find_spec("sdnq"):
            yield "SDNQ int8, quantized matmul", lambda: sdnq(model, "int8"), None
            yield "SDNQ uint4, quantized matmul", lambda: sdnq(model, "uint4"), None
        if importlib.util.find_spec("torchao"):
            yield "torchao int8 dynamic (linear)", lambda: torchao(model), None


def sdnq(model, dtype: str):
    from sdnq.quantizer import sdnq_post_load_quant

    options = {
        "use_quantized_matmul": True,
        "use_quantized_matmul_conv": True,
        "quant_conv": True,
        "add_skip_keys": False,
    }
    sizes = {"minimum_allowed_numel": 0, "minimum_allowed_channel_size": 0}
    return sdnq_post_load_quant(copy.deepcopy(model), weights_dtype=dtype, **options, **sizes).eval()


def torchao(model):
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    found = copy.deepcopy(model)
    quantize_(found, Int8DynamicActivationInt8WeightConfig())
    return found


def main() -> None:
    arguments_parser = parser(__doc__, repeats=1)
    arguments_parser.add_argument("--only", nargs="*", choices=MODELS, default=MODELS, help="models")
    arguments_parser.add_argument(
        "--diffusion-model", metavar="FOLDER", help="a second UNet2DModel, as for quantization.py"
    )
    arguments_parser.add_argument("--no-peers", action="store_true", help="ours only")
    arguments_parser.add_argument(
        "--bits", nargs="*", type=int, default=[8, 4, 3], help="of weights; none: peers only"
    )
    arguments_parser.add_argument("--method", default="auto", help="of weights (default: %(default)s)")
    arguments_parser.add_argument("--bias-correction", action="store_true", help="biases take the mean of errors")
    arguments_parser.add_argument("--ranges", nargs="+", default=["mse", "dynamic"], help="of activations")
    arguments_parser.add_argument("--gan-images", type=int, default=2500, help="of GANs (default: %(default)s)")
    arguments_parser.add_argument("--images", type=int, default=500, help="of the DDPM (default: %(default)s)")
    arguments_parser.add_argument("--steps", type=int, default=10, help="of the DDPM (default: %(default)s)")
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in (*arguments.only, *([SECOND] if arguments.diffusion_model else [])):
        side = Side(name, arguments)
        rows.append({"model": name, "weights, activations": "full precision"} | side.full)
        for label, make, target in candidates(side.model, arguments):
            start = time.perf_counter()
            try:
                figures = side.figures(make())
            except Exception as error:  # a peer that does not run here is a row, too
                if "A8" in label or label.startswith("W"):
                    raise
                figures = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"}
            row = {"model": name, "weights, activations": label} | figures | {"s": time.perf_counter() - start}
            rows.append(row | ({"target": target} if target else {}))
            print(rows[-1], file=sys.stderr, flush=True)  # it takes minutes
    packages = [name for name in ("sdnq", "torchao") if importlib.util.find_spec(name)]
    report(rows, conditions(arguments, *packages), arguments.json)


if __name__ == "__main__":
    main()
