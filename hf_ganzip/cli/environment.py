# SPDX-License-Identifier: Apache-2.0
"""Command env: what a bug report needs."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from . import flags
from .shared import app, show


_PACKAGES = (
    "hf_ganzip torch torchvision numpy diffusers transformers accelerate huggingface_hub safetensors datasets "
    "evaluate torch-pruning matplotlib gradio peft onnx onnxscript onnxruntime"
)


@app.command()
def env(as_json: flags.Json = False) -> None:
    """Show versions and the machine, for bug reports."""
    found = environment()
    show(found, "\n".join(f"{name:18} {value}" for name, value in found.items()), as_json)


def environment() -> dict[str, Any]:
    """Versions of what hf_ganzip works with, "not installed" where it is not, and the machine."""
    found: dict[str, Any] = {"platform": platform.platform(), "python": platform.python_version()}
    for name in _PACKAGES.split():
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    import torch

    cuda = torch.cuda.is_available()
    found |= {"threads": torch.get_num_threads(), "accelerator": torch.cuda.get_device_name() if cuda else "none"}
    return found
