# SPDX-License-Identifier: Apache-2.0
r"""The first table of README: size, speed and quality of the bundled StyleGAN2 in full, with 4 bits, with 8 bits and
integer products, pruned, and pruned with 8 bits.

`--pruned` is a folder with the fine-tuned pruned generator:

    hf-ganzip compress stylegan2-fashion-mnist pruned --recipe svs-stylegan2
    hf-ganzip finetune stylegan2 --pretrained_model_name_or_path pruned --train_data_dir FASHION_MNIST --output_dir
    finetuned \
        --max_train_steps 500 --train_batch_size 32 --seed 0
    python benchmarks/front_page.py --pruned finetuned/generator

`KiB` is the exported file, `torch_ms` an image by the model in torch, `onnx_ms` by the file in ONNX Runtime (batches
of 16, least of the runs), `times` the full model in torch over the file. FD, precision and recall (KNN, k = 3): 5,000
images of what the file draws, or, of 4 bits and full precision, of the model in torch, from which the file differs by
less than 1e-4, against 5,000 real ones, on the bundled features.
"""

import copy
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

import hf_ganzip as gz
from benchmarks._timing import conditions, interleaved, parser, report
from hf_ganzip.evaluation.evaluate import measure
from hf_ganzip.evaluation.extractors import extract_features, load_extractor
from hf_ganzip.evaluation.sampling import sample_images
from hf_ganzip.evaluation.sources import load_reference


_BATCH = 16


def models(pruned: Path | None) -> dict:
    """Name -> generator."""
    full = gz.load_model("stylegan2-fashion-mnist").eval()
    found = {"full": full, "4 bits": quantized(full, bits=4), "int8": quantized(full, bits=8, activations="int8")}
    if pruned is not None:
        small = gz.load_model(str(pruned)).eval()
        found |= {"pruned": small, "pruned, int8": quantized(small, bits=8, activations="int8")}
    return found


def quantized(model, **options):
    result = copy.deepcopy(model)
    gz.quantize_(result, **options)
    return result


@torch.inference_mode()
def draw(model, z, labels):
    return model(z, labels, noise_mode="const")


def main() -> None:
    options = parser(__doc__, repeats=15)
    options.add_argument("--pruned", type=Path, help="folder of a fine-tuned pruned generator")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    count = 300 if arguments.quick else 5000
    extract = load_extractor("fashion_mnist")
    real = extract_features(load_reference("fashion-mnist-test-5000")[0][:count], extract)
    networks, rows, files = models(arguments.pruned), [], {}
    with tempfile.TemporaryDirectory() as folder:
        sides = {}
        for name, model in networks.items():
            path = Path(folder, name)
            files[name] = (
                gz.export(model, path).bytes,
                gz.OnnxGenerator.from_pretrained(path, threads=arguments.threads),
            )
            inputs = torch.randn(_BATCH, model.config.z_dim), torch.arange(_BATCH) % model.config.num_classes
            sides |= {
                (name, "torch"): partial(draw, model, *inputs),
                (name, "onnx"): partial(draw, files[name][1], *inputs),
            }
        seconds = {side: min(each) / _BATCH for side, each in interleaved(sides, arguments.repeats).items()}
        for name, model in networks.items():
            drawn = sample_images(files[name][1] if "int8" in name else model, count)[0]
            found = measure(
                real=real,
                generated=extract_features(drawn, extract),
                metrics=("frechet_distance", "knn_precision_recall"),
            )
            row = {
                "model": name,
                "KiB": files[name][0] / 1024,
                "torch_ms": 1e3 * seconds[name, "torch"],
                "onnx_ms": 1e3 * seconds[name, "onnx"],
            }
            row["times"] = seconds["full", "torch"] / seconds[name, "onnx"]
            distances, near = found["frechet_distance"], found["knn_precision_recall"]
            rows.append(row | {"FD": distances["frechet_distance"], "P": near["precision"], "R": near["recall"]})
    report(rows, conditions(arguments, "onnxruntime"), arguments.json)


if __name__ == "__main__":
    main()
