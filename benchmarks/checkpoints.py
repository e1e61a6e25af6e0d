# SPDX-License-Identifier: Apache-2.0
"""Opening foreign checkpoints against plain torch reading the same file.

A StyleGAN2 for 256 pixels with base widths (30M parameters), as an official pickle (read by `pickle` with the classes
it names, then nothing is done with the tensors) and as a rosinality file (read by `torch.load(weights_only=True)`).
"""

import pickle
import statistics
import sys
import tempfile
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

import hf_ganzip as gz
from benchmarks._timing import conditions, interleaved, parser, ratio, report
from tests.checkpoints.foreign import Persistent, persistent_pickle, rosinality_generator


def persistent(module):
    """A module as the official pickles hold it, under the class names and attributes it has here."""
    kept = ("training", "_parameters", "_buffers")
    state = {k: v for k, v in module.__dict__.items() if k in kept or isinstance(v, (int, float, str))}
    state["_modules"] = {name: persistent(child) for name, child in module._modules.items()}
    return Persistent(state, type(module).__name__)


class Reader(pickle.Unpickler):
    """Python's reader; objects of the network's classes become dicts."""

    def find_class(self, module, name):
        return dict if module.startswith("torch_utils") else super().find_class(module, name)


def main() -> None:
    arguments = parser(__doc__, repeats=5).parse_args()
    torch.set_num_threads(arguments.threads)
    width = 256 if arguments.quick else 32768
    model = gz.StyleGAN2Generator(resolution=256, channel_base=width).eval()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        official, other = Path(folder, "network.pkl"), Path(folder, "550000.pt")
        official.write_bytes(persistent_pickle({"G_ema": persistent(model)}))
        torch.save({"g_ema": rosinality_generator(model.state_dict())}, other)

        def read_pickle():
            with open(official, "rb") as file:
                return Reader(file).load()

        for name, file, read in (
            ("official pickle", official, read_pickle),
            ("rosinality", other, lambda: torch.load(other, weights_only=True)),
        ):
            seconds = interleaved({"convert": lambda file=file: gz.convert(file), "read": read}, arguments.repeats)
            row = {"file": name, "parameters": model.num_parameters(), "MiB": file.stat().st_size / 2**20}
            row |= {f"{side} ms": 1000 * statistics.median(values) for side, values in seconds.items()}
            rows.append(row | ratio(seconds["convert"], seconds["read"]) | {"limit": 2.0})
    report(rows, conditions(arguments, "numpy"), arguments.json)


if __name__ == "__main__":
    main()
