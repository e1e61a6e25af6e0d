# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a side of a comparison, in a process of its own."""

from __future__ import annotations

import importlib
import importlib.util
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from ..cost import peak_so_far, printed_by
from .drawing import Plan, draw
from .sides import Side, open_side


def peak_of(side: Side, plan: Plan) -> int:
    """Bytes by which a fresh process grows that opens the folder of ``side`` and draws one image.

    Raises:
        ValueError: An option of the plan is not plain data.
        RuntimeError: The process failed.
    """
    steps = None if plan.steps is None and not side.denoises else 2  # the memory is that of one step
    given = replace(plan, prompts=plan.prompts and plan.prompts[:1], steps=steps)
    try:
        text = json.dumps(asdict(given))
    except TypeError as error:
        raise ValueError(f"an option cannot be handed to another process: {error}.") from error
    opened = (str(side.folder), str(side.device), str(side.dtype).removeprefix("torch."))
    return printed_by("comparing.peak_memory", "peak_of_drawing", *opened, text)


def peak_of_drawing(folder: str, device: str, dtype: str, plan: str) -> None:
    """Print the bytes by which opening a side and drawing an image raise the memory of the process or accelerator."""
    given = json.loads(plan)
    _import_quantizers(Path(folder))
    torch.zeros(1) @ torch.zeros(1)
    before = peak_so_far(reset=True)
    side = open_side("side", folder, device, None if dtype == "None" else getattr(torch, dtype))
    with torch.no_grad():
        draw(side, 0, 1, Plan(**given | {"prompts": given["prompts"] and tuple(given["prompts"])}))
    on_accelerator = side.device.type == "cuda"
    print(torch.cuda.max_memory_allocated(side.device) if on_accelerator else peak_so_far() - before)


def _import_quantizers(folder: Path) -> None:
    """The libraries that opening the folder will need, so that their own memory is not counted."""
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text(encoding="utf-8")).get("quantization_config") or {}
        method: Any = config.get("quant_method")
        if method in AUTO_QUANTIZER_MAPPING and importlib.util.find_spec(method):
            importlib.import_module(method)
