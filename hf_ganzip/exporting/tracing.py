# SPDX-License-Identifier: Apache-2.0
"""A graph of a network by torch's exporter, in which every tensor of the model is an input.

Inputs are never folded: whatever the exporter does with constants, each tensor of the model reaches the graph under
its name and in its shape, and can be put there in the form in which it is stored.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .interface import Interface, noise_slices
from .libraries import library


_OF_MODEL = "model."
# torch's says that torchvision is missing, that of onnx_ir that an input with a default is not merged with another.
_LOGGERS = (
    "torch.onnx._internal.exporter._registration",
    "onnx_ir.passes.common.initializer_deduplication",
)


class _WithTensors(nn.Module):
    """An interface's network, called with inputs and with all tensors of the model by name."""

    def __init__(self, interface: Interface):
        super().__init__()
        self.network = interface.network
        self._noise = interface.noise

    def forward(self, inputs: dict[str, Tensor], tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        inputs = dict(inputs)
        replaced = {f"{_OF_MODEL}{name}": tensor for name, tensor in tensors.items()}
        if "noise" in inputs:
            noise = noise_slices(self.network.model, self._noise, inputs.pop("noise"))
            replaced |= {f"{_OF_MODEL}{name}": tensor for name, tensor in noise.items()}
        found: tuple[Tensor, ...] = torch.func.functional_call(self.network, replaced, (), inputs)
        return found


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each under its first name if it has several."""
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


@torch.no_grad()
def run_in_torch(interface: Interface, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """What the exported network is compared with."""
    kept = {name: tensor.clone() for name, tensor in tensors_of(interface.network.model).items()}
    return _WithTensors(interface)({name: tensor.clone() for name, tensor in inputs.items()}, kept)


@torch.no_grad()
def trace(interface: Interface, opset: int) -> Any:
    """The graph as an ``onnx_ir.Model``; inputs are those of the interface, then the tensors of its model by name.

    Raises:
        ValueError: An operator that cannot be exported; names it and its layer.
        ImportError: onnx or onnxscript is missing.
    """
    library("onnx"), library("onnxscript")
    tensors = tensors_of(interface.network.model)
    tensors = {name: each for name, each in tensors.items() if not name.startswith(interface.unused)}
    # Some models have a fixed number of tokens.
    free = {"batch": torch.export.Dim.DYNAMIC, "tokens": torch.export.Dim.AUTO}
    shapes = {name: {axis: free[size] for axis, size in axes.items()} for name, axes in interface.dynamic.items()}
    given = {"inputs": dict(interface.example), "tensors": tensors}
    sizes = {"inputs": shapes, "tensors": {name: {} for name in tensors}}
    names = {"input_names": [*interface.example, *tensors], "output_names": list(interface.outputs)}
    network, program = _WithTensors(interface).eval(), None
    with quiet():
        try:
            program = torch.export.export(network, (), kwargs=given, dynamic_shapes=sizes, strict=False)
            _simplify_(program)
            exported = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False, **names)
        except (torch.onnx.OnnxExporterError, torch._dynamo.exc.UserError, RuntimeError) as error:
            raise ValueError(_explained(interface, program, error)) from error
    graph = exported.model.graph
    for value, (name, axes) in zip(graph.inputs, interface.dynamic.items()):
        sizes = [size if isinstance(size, int) else axes[axis] for axis, size in enumerate(value.shape)]
        value.shape, value.name = library("onnx_ir").Shape(sizes), name
    return exported.model


def _simplify_(program: Any) -> None:
    """Leave out what the exporter cannot handle: checks of the shapes of inputs, which it cannot evaluate for some
    models, and ``squeeze`` of a dimension that is not 1, which does nothing in torch and is an error in ONNX.
    """
    if hasattr(program, "_guards_code"):  # there is no public way to leave them out
        program._guards_code = []
    for node in list(program.graph.find_nodes(op="call_function", target=torch.ops.aten.squeeze.dim)):
        source, dim = node.args
        if source.meta["val"].shape[dim] != 1:
            node.replace_all_uses_with(source)
            program.graph.erase_node(node)


def _explained(interface: Interface, program: Any, error: BaseException) -> str:
    """The operator that an error of the exporter names, and the layers that have it."""
    name, last = type(interface.network.model).__name__, error
    while last.__cause__ is not None:
        last = last.__cause__
    operator = re.search(r"torch\.ops\.([\w.]+)", str(error))
    if operator is None or program is None:
        return f"export: torch cannot trace the {name}: {str(last).partition(chr(10))[0]}"
    kind = operator[1].split(".")[1]
    found = (node.meta.get("nn_module_stack", {}) for node in program.graph.nodes if kind in str(node.target))
    layers = dict.fromkeys(list(stack.values())[-1][0] for stack in found if stack)
    where = ", ".join(layer.rpartition(f"network.{_OF_MODEL}")[2] for layer in layers)
    return (
        f"export: {operator[1]}{f' in the layer {where}' if where else ''} of the {name} has no operator of ONNX; "
        "write it with others."
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what torch and onnx_ir say of themselves: a deprecation within torch, and the notes of two loggers."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
