# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of networks and, as a script, of what a snippet loads without this package; needs torch alone."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


MARK = "fingerprint "
Inputs = tuple[tuple[Any, ...], dict[str, Any]]  # of a forward pass


def fingerprint_of(model: nn.Module, inputs: Inputs | None) -> dict[str, str | None]:
    """SHA-256 of all tensors, and of the output for ``inputs`` (None without), of a contiguous copy on the CPU in eval
    mode, gradients off.
    """
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    tensors = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        tensors.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + _bytes(tensor))
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    if inputs is None:
        return {"tensors": tensors.hexdigest(), "output": None}
    args, kwargs = inputs
    with torch.no_grad():
        output = model(*args, return_dict=False, **kwargs)[0]
    output = getattr(output, "mean", output) if not isinstance(output, Tensor) else output  # latents of autoencoders
    return {"tensors": tensors.hexdigest(), "output": hashlib.sha256(_bytes(output)).hexdigest()}


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def main(snippet: str, threads: str, inputs_file: str, blocked: str) -> None:
    """Execute a snippet that loads ``model`` or ``pipe``; print the fingerprints of its networks."""
    sys.path.pop(0)  # the folder of this file
    torch.set_num_threads(int(threads))
    if blocked:
        sys.modules[blocked] = None  # type: ignore[assignment]  # whoever imports it gets an ImportError
    names: dict[str, Any] = {}
    exec(compile(Path(snippet).read_text(encoding="utf-8"), "snippet", "exec"), names)  # our own card's snippet
    inputs: Mapping[str, Inputs | None] = torch.load(inputs_file, weights_only=True)
    networks = names["pipe"].components if "pipe" in names else {"model": names["model"]}
    found = {name: fingerprint_of(networks[name], each) for name, each in inputs.items()}
    print(MARK + json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
