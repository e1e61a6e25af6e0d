# SPDX-License-Identifier: Apache-2.0
"""Reading of the reference vectors."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file


GOLDEN = Path(__file__).parents[1] / "golden"


def load_golden(name):
    """(options, weights, inputs and outputs) of a set."""
    path = GOLDEN / name
    options = json.loads(path.with_suffix(".json").read_text())
    return options, load_file(f"{path}.weights.safetensors"), load_file(f"{path}.io.safetensors")


def part(weights, prefix):
    """Tensors below ``prefix``, without it."""
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def close(actual, expected, tolerance=1e-5, relative=0.0):
    torch.testing.assert_close(actual, expected, rtol=relative, atol=tolerance)
