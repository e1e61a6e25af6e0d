# SPDX-License-Identifier: Apache-2.0
"""Models as ONNX files: traced by torch's exporter, weights as they are stored, compared with torch."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import nn

from ..core.components import network_of, networks_of, refuse_name
from ..quantization import dequantize_
from ..quantization.packed import packed_modules
from .activations import measured_ranges, round_activations_
from .graph import add_default_, save, spell_out_norms_, trim_
from .interface import Interface, autoencoder_interface, interface_of
from .libraries import Session, library
from .report import Compared, ExportReport
from .tracing import quiet, run_in_torch, tensors_of, trace
from .weights import FIRST_OPSET, LAST_OPSET, Builder, store_weights_


FORMATS = ("onnx",)
FILE, CONFIG = "model.onnx", "config.json"
TOLERANCE = 1e-4  # of a graph in floating point
_BATCHES = (2, 1, 3)  # of the comparison, in turn
SQNR_DB = 20.0  # of one with integer products against ours, which do not round their outputs


def export(
    model: Any,
    folder: str | Path,
    *,
    format: str = "onnx",
    opset: int = FIRST_OPSET,
    truncation_psi: float | None = None,
    class_label: int | None = None,
    noise: str | None = None,
    checks: int = 4,
    activation_inputs: Callable[..., Any] | None = None,
) -> ExportReport:
    """Write a model as ``model.onnx`` and ``config.json``, which :class:`.OnnxGenerator` and others open.

    The batch may have any size. Packed weights are stored as their integers with their scales: 4 and 8 bits
    in ONNX's types, as is 2 in operator set 25, others in the bytes of our packed form, which bit operators
    cut apart; all other weights in the dtype that they have. It computes in float32. The file is run in
    ONNX Runtime and compared with torch first: a difference above 1e-4 is an error, and nothing is left.

    Args:
        model: Generator of this library, or a diffusion model of diffusers that has a family; compressed or not; of a
            pipeline its denoiser. It stays as it is.
        folder: New folder.
        format: "onnx".
        opset: Operator set, 21 to 25.
        truncation_psi: StyleGANs and BigGAN-deep: fixed; None: an input of StyleGANs (one number for each style), 1
            for BigGAN-deep.
        class_label: Fixed; None: an input (B, num_classes) of generators with classes, rows that sum to 1.
        noise: StyleGAN 1 and 2: "input" (an input (B, all pixels) that may be left out, which means the stored noise),
            "const" or "none"; None: "input".
        checks: Inputs that are compared.
        activation_inputs: What the ranges of outputs are measured with where products are computed with integers, as
            for ``QuantizeConfig``; None: the family's own inputs.

    Raises:
        ImportError: The extra ``export`` is missing.
        ValueError: An operator that has no counterpart (named, with its layer), an option that does not fit the model,
            an operator set that is too old, a folder that is not empty, or a file that differs from torch.
        TypeError: No model.
    """
    refuse_name(model)
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; allowed are {', '.join(FORMATS)}.")
    if checks < 1:
        raise ValueError(f"checks is {checks}; allowed are 1 and more.")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty; choose a new folder.")
    if not FIRST_OPSET <= opset <= LAST_OPSET:
        raise ValueError(
            f"opset is {opset}; allowed are {FIRST_OPSET}, which brought 4-bit integers, to {LAST_OPSET}, which "
            "brought 2-bit ones."
        )
    for name in ("onnx", "onnxscript", "onnxruntime"):
        library(name)
    model = network_of(model)
    if not isinstance(model, nn.Module):
        raise TypeError(f"export: a {type(model).__name__} is no model; allowed are generators and diffusion models.")
    interface = partial(interface_of, truncation_psi=truncation_psi, class_label=class_label, noise=noise)
    return _export(model, folder, interface, opset=opset, checks=checks, activation_inputs=activation_inputs)


def export_parts(
    pipeline: Any, folder: str | Path, components: Sequence[str] | None = None, **options: Any
) -> dict[str, ExportReport]:
    """:func:`.export` of networks of a pipeline, each into a folder of its own called as optimum calls it: ``unet``,
    ``vae_decoder``, ``vae_encoder``.

    Args:
        pipeline: Of diffusers.
        folder: New folder.
        components: Names of networks that have a family, so not text encoders; None: the denoiser.
        **options: ``opset``, ``checks``, ``activation_inputs`` of :func:`.export`.

    Raises:
        ValueError: As :func:`.export`, or a network that the pipeline has not. Parts before that one are complete.
    """
    found: dict[str, ExportReport] = {}
    for name, network in networks_of(pipeline, components).items():
        if type(network).__name__ != "AutoencoderKL":
            found[name] = export(network, Path(folder, name), **options)
            continue
        for part in ("vae_decoder", "vae_encoder"):
            found[part] = _export(network, Path(folder, part), partial(autoencoder_interface, part), **options)
    return found


def _export(
    model: nn.Module,
    folder: Path,
    interface_for: Callable[[nn.Module], Interface],
    *,
    opset: int = FIRST_OPSET,
    checks: int = 4,
    activation_inputs: Any = None,
) -> ExportReport:
    interface = interface_for(_plain(model))
    integer = any(module.packed_compute == "int8" for module in packed_modules(model).values())
    with tempfile.TemporaryDirectory() as parent:
        report = _write(model, interface, Path(parent), opset, integer, activation_inputs)
        reference = interface_for(_copy(model)) if integer else interface
        compared = compare_with_torch(Path(parent, FILE), reference, checks, integer=integer)
        _refuse_differences(compared, integer)
        folder.mkdir(parents=True, exist_ok=True)
        for file in Path(parent).iterdir():
            shutil.move(file, folder / file.name)
    return dataclasses.replace(report, file=str(folder / FILE), compared=compared)


def _refuse_differences(compared: Compared, integer: bool) -> None:
    sqnr = math.inf if compared.sqnr_db is None else compared.sqnr_db
    if compared.largest_error <= TOLERANCE or integer and math.isfinite(compared.largest_error) and sqnr >= SQNR_DB:
        return
    said = f"by {compared.largest_error:.1e}; allowed is {TOLERANCE:g}"
    said = f"to {sqnr:.1f} dB; allowed are {SQNR_DB:g} and more" if integer else said
    raise ValueError(f"export: ONNX Runtime differs from torch {said}. Nothing was written.")


def _copy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to("cpu").float().eval().requires_grad_(False)


def _plain(model: nn.Module) -> nn.Module:
    """A copy with ordinary float32 weights, in eval mode."""
    plain = _copy(model)
    if packed_modules(plain):
        dequantize_(plain)
    return plain.requires_grad_(False)


def _write(
    model: nn.Module, interface: Interface, folder: Path, opset: int, integer: bool, activation_inputs: Any
) -> ExportReport:
    plain: Any = interface.network.model
    graph_model = trace(interface, opset)
    spell_out_norms_(graph_model)
    traced = {value.name for value in graph_model.graph.inputs}
    # Where adapters are fused the weight is stored as it is computed with.
    packed = {f"{name}.weight": module for name, module in packed_modules(model).items() if not module.packed_fused}
    packed = {name: module for name, module in packed.items() if name in traced}
    own = tensors_of(model)
    # In the dtype that they have; those of the copy, whose spectral norms are folded.
    stored = {name: tensor.to(own.get(name, tensor).dtype) for name, tensor in tensors_of(plain).items()}
    ranges = measured_ranges(model, plain, activation_inputs) if integer else {}
    builder = Builder(opset, integer)
    rounded = round_activations_(graph_model, builder, stored, packed, ranges)
    weights = store_weights_(graph_model, builder, stored, packed)
    if "noise" in interface.example:
        parts = [plain.get_buffer(name).flatten() for name in interface.noise]
        add_default_(graph_model, "noise", torch.cat(parts)[None].numpy())
    with quiet():
        trim_(graph_model)
    size = save(graph_model, folder / FILE)
    inputs = {
        value.name: tuple(each if isinstance(each, int) else each.value for each in value.shape)
        for value in graph_model.graph.inputs
    }
    config = json.dumps(_config(model, interface, opset, integer), indent=2)
    (folder / CONFIG).write_text(config + "\n", encoding="utf-8")
    total = sum(tensor.nbytes for tensor in model.state_dict().values())
    names = (interface.outputs, tuple(weights), tuple(rounded))
    return ExportReport(str(folder / FILE), size, total, opset, inputs, *names)


def _config(model: Any, interface: Interface, opset: int, integer: bool) -> dict[str, Any]:
    from .. import __version__

    config = json.loads(model.to_json_string())
    config |= {"_class_name": "OnnxModel", "_diffusers_version": diffusers.__version__}
    return config | {
        "export": {
            "class_name": type(model).__name__,
            "format": "onnx",
            "opset": opset,
            "activations": "int8" if integer else None,
            **interface.settings,
            "hf_ganzip": __version__,
            "torch": torch.__version__,
            "onnxruntime": library("onnxruntime").__version__,
        }
    }


def compare_with_torch(file: Path, interface: Interface, count: int, *, integer: bool = False) -> Compared:
    """Run ``count`` inputs of different batch sizes through both; the first leaves out the noise, if there is any."""
    session = Session(file, integer=integer)
    largest = signal = error = 0.0
    for number in range(count):
        inputs = interface.example if number == 0 else interface.draw(_BATCHES[number % len(_BATCHES)], number)
        if number == 0:
            inputs = {name: value for name, value in inputs.items() if name != "noise"}
        found = session({name: value.numpy() for name, value in inputs.items()}, interface.outputs)
        expected = [tensor.numpy() for tensor in run_in_torch(interface, inputs)]
        largest = max(largest, *(_difference(*pair) for pair in zip(found, expected)))
        signal += float(np.square(expected[0], dtype=np.float64).sum())
        error += float(np.square(expected[0] - found[0], dtype=np.float64).sum())
    sqnr = 10 * math.log10(signal / error) if signal and error else None
    return Compared(count, largest, sqnr)


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference in units of the largest expected magnitude, at least 1; infinite for other shapes or NaN."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return math.inf
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
