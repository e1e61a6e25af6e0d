# SPDX-License-Identifier: Apache-2.0
"""The `evaluate` module against the plain function: what passing 50,000 + 50,000 x 4096 features through `evaluate`
costs.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

import evaluate

from benchmarks._features import relu_features
from benchmarks._timing import conditions, interleaved, parser, ratio, report
from hf_ganzip.core.shipped import metric_folders
from hf_ganzip.metrics import lsh_precision_recall


def main() -> None:
    arguments = parser(__doc__, repeats=3).parse_args()
    torch.set_num_threads(arguments.threads)
    count, dim = (1000, 64) if arguments.quick else (50_000, 4096)
    real, generated = (relu_features(count, dim, seed).numpy() for seed in (0, 1))
    with tempfile.TemporaryDirectory() as cache:
        metric = evaluate.load(str(metric_folders()["lsh_precision_recall"]), cache_dir=cache)
        seconds = interleaved(
            {
                "module": lambda: metric.compute(predictions=generated, references=real, draws=1),
                "function": lambda: lsh_precision_recall(real=real, generated=generated, draws=1),
            },
            arguments.repeats,
        )
    medians = {f"{side} s": statistics.median(values) for side, values in seconds.items()}
    row = {"n": count, "d": dim} | medians | ratio(seconds["module"], seconds["function"]) | {"target": "<= 1.1"}
    report([row], conditions(arguments, "evaluate"), arguments.json)


if __name__ == "__main__":
    main()
