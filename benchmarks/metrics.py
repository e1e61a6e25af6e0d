# SPDX-License-Identifier: Apache-2.0
"""Precision and recall: time and memory against peers and limits, as ratios within one run.

Sections: `sum` (LSH against one sum over the features), `peers` (against torch-fidelity, prdc and faiss where they are
installed), `growth` (exponent of LSH+KNN in n, and the plot of time against n), `memory` (peak above the features),
`skew` (all samples in few cells). Features are synthetic and in memory before the clock starts; one draw of
hyperplanes.
"""

import functools
import importlib.util
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._features import relu_features
from benchmarks._memory import peak_above
from benchmarks._timing import conditions, interleaved, parser, ratio, report
from hf_ganzip.evaluation.plotting import new_figure
from hf_ganzip.metrics import knn_precision_recall, lsh_precision_recall


SECTIONS = ("sum", "peers", "growth", "memory", "skew")


def sets(count: int, dim: int, shift: float = -0.3) -> dict[str, torch.Tensor]:
    return {
        "real": relu_features(count, dim, 0, shift=shift),
        "generated": relu_features(count, dim, 1, shift=shift, narrow=0.9),
    }


def lsh(features) -> dict:
    return lsh_precision_recall(**features, k=None, draws=1)


def lsh_knn(features) -> dict:
    return lsh_precision_recall(**features, draws=1)


def knn(features) -> dict:
    return knn_precision_recall(**features)


def row(section, what, count, dim, slow, fast, target) -> dict:
    """How many times longer ``slow`` takes than ``fast``."""
    medians = {"slow s": statistics.median(slow), "fast s": statistics.median(fast)}
    return (
        {"section": section, "ratio of": what, "n": count, "d": dim} | medians | ratio(slow, fast) | {"target": target}
    )


def sum_section(arguments) -> list[dict]:
    count, dim = (2000, 512) if arguments.quick else (50_000, 4096)
    features = sets(count, dim)
    arrays = [x.numpy() for x in features.values()]
    seconds = interleaved(
        {
            "lsh": lambda: lsh(features),
            "numpy": lambda: [x.sum() for x in arrays],
            "torch": lambda: [x.sum() for x in features.values()],
        },
        arguments.repeats,
    )
    return [
        row("sum", f"LSH / {name} sum", count, dim, seconds["lsh"], seconds[name], "<= 3")
        for name in ("numpy", "torch")
    ]


def torch_fidelity(features) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    options = {"prc_neighborhood": 3, "prc_batch_size": 10_000, "verbose": False, "save_cpu_ram": False}
    prc_features_to_metric(features["generated"], features["real"], **options)


def prdc(features) -> None:
    import contextlib
    import io

    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()):
        compute_prdc(features["real"].numpy(), features["generated"].numpy(), nearest_k=3)


def faiss(features) -> None:
    """Radii by a flat L2 index, membership in a union of balls as a maximum inner product search."""
    import faiss as library

    library.omp_set_num_threads(torch.get_num_threads())

    def radii(x):
        index = library.IndexFlatL2(x.shape[1])
        index.add(x)
        return index.search(x, 4)[0][:, 3]

    def covered(x, queries):
        limits = radii(x) - np.square(x).sum(1)
        index = library.IndexFlatIP(x.shape[1] + 1)
        index.add(np.concatenate([2 * x, limits[:, None]], 1))
        best = index.search(np.concatenate([queries, np.ones((len(queries), 1), "float32")], 1), 1)[0][:, 0]
        return (best >= np.square(queries).sum(1)).mean()

    real, generated = features["real"].numpy(), features["generated"].numpy()
    covered(real, generated), covered(generated, real)


def peers_section(arguments) -> list[dict]:
    count, dim = (1000, 256) if arguments.quick else (20_000, 4096)
    features = sets(count, dim)
    ours = {"LSH": (lsh, 1000), "LSH+KNN": (lsh_knn, 100), "KNN": (knn, 1.3)}
    peers = {"torch_fidelity": torch_fidelity, "prdc": prdc, "faiss": faiss}
    peers = {name: run for name, run in peers.items() if importlib.util.find_spec(name)}
    timed = {name: functools.partial(run, features) for name, run in peers.items()}
    timed |= {name: functools.partial(run, features) for name, (run, _) in ours.items()}
    lsh_knn(features)  # warms up what is short; runs of a minute need none
    seconds = interleaved(timed, arguments.repeats, warm_up=arguments.quick)
    rows = []
    for peer in peers:
        for name, (_, target) in ours.items():
            wanted = f">= {target}" if name == "KNN" or peer == "torch_fidelity" else None
            rows.append(row("peers", f"{peer} / {name}", count, dim, seconds[peer], seconds[name], wanted))
    return rows


def growth_section(arguments) -> list[dict]:
    counts, dim = ((500, 1000, 2000), 64) if arguments.quick else ((5000, 10_000, 20_000, 50_000), 512)
    rows, medians = [], {}
    for count in counts:
        features = sets(count, dim)
        methods = {"LSH": lsh, "LSH+KNN": lsh_knn, "KNN": knn}
        seconds = interleaved(
            {name: functools.partial(run, features) for name, run in methods.items()}, arguments.repeats
        )
        medians[count] = {name: statistics.median(values) for name, values in seconds.items()}
    for name in medians[counts[0]]:
        logs = np.log([[count, medians[count][name]] for count in counts])
        exponent = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
        wanted = "<= 1.2" if name == "LSH+KNN" else None
        what = {"section": "growth", "ratio of": f"exponent of {name}", "n": f"{counts[0]}..{counts[-1]}", "d": dim}
        rows.append(
            what | {"ratio": exponent, "target": wanted, "seconds": [medians[count][name] for count in counts]}
        )
    if arguments.plot:
        plot(counts, medians, dim, arguments.plot)
    return rows


def plot(counts, medians, dim, path) -> None:
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for name in medians[counts[0]]:
        axes.loglog(counts, [medians[count][name] for count in counts], marker="o", label=name)
    axes.set(
        xlabel="real samples, and as many generated",
        ylabel="seconds",
        title=f"Time of precision and recall, d = {dim}",
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120)


def memory_section(arguments) -> list[dict]:
    sizes = [(2000, 256)] if arguments.quick else [(20_000, 4096), (50_000, 512)]
    rows = []
    for count, dim in sizes:
        for name in ("knn", "lsh_knn"):
            command = [
                sys.executable,
                __file__,
                "--peak",
                name,
                str(count),
                str(dim),
                "--threads",
                str(arguments.threads),
            ]
            extra = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rows.append(
                {"section": "memory", "ratio of": f"{name}: peak MiB above features / 512", "n": count, "d": dim}
                | {"ratio": extra / 512, "target": "<= 1"}
            )
    return rows


def peak_above_features(name: str, count: int, dim: int) -> float:
    """MiB that one call needs besides its features, after a small call that loads what is loaded lazily (Linux)."""
    features = sets(count, dim)
    globals()[name](sets(500, dim))
    return peak_above(lambda: globals()[name](features))


def skew_section(arguments) -> list[dict]:
    count, dim = (1000, 64) if arguments.quick else (20_000, 512)
    skewed, usual = sets(count, dim, shift=30.0), sets(count, dim)
    sides = {"skewed": lambda: lsh_knn(skewed), "usual": lambda: lsh_knn(usual), "knn": lambda: knn(skewed)}
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lsh_precision_recall: .* of all pairs share")
        seconds = interleaved(sides, arguments.repeats)
    return [
        row("skew", "LSH+KNN skewed / exact KNN", count, dim, seconds["skewed"], seconds["knn"], None),
        row("skew", "LSH+KNN skewed / usual", count, dim, seconds["skewed"], seconds["usual"], None),
    ]


def main() -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument("--only", choices=SECTIONS, nargs="+", default=SECTIONS, help="sections to run")
    options.add_argument("--plot", type=Path, help="PNG of time against n (section growth)")
    options.add_argument("--peak", nargs=3, metavar=("METHOD", "N", "D"), help="print the MiB one call needs, and end")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(peak_above_features(arguments.peak[0], *map(int, arguments.peak[1:])))
        return
    rows = [found for section in arguments.only for found in globals()[f"{section}_section"](arguments)]
    peers = {"torch_fidelity": "torch-fidelity", "prdc": "prdc", "faiss": "faiss-cpu"}
    installed = [package for module, package in peers.items() if importlib.util.find_spec(module)]
    report(rows, conditions(arguments, *installed), arguments.json)


if __name__ == "__main__":
    main()
