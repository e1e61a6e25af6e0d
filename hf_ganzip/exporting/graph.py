# SPDX-License-Identifier: Apache-2.0
"""Whole graphs: what is not needed is left out, parts are cut out, files are written."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .libraries import library


EXTERNAL = 1_900_000_000  # bytes of tensors from which on they are a file of their own: protobuf ends at 2 GiB


def trim_(model: Any) -> None:
    """Drop what nothing computes with (nodes, initializers) and traces of the exporter; values get short names."""
    graph, passes = model.graph, library("onnx_ir.passes.common")
    for name in ("DeduplicateInitializers", "CommonSubexpressionElimination", "RemoveUnusedNodes"):
        getattr(passes, f"{name}Pass")()(model)
    named, number = (*graph.inputs, *graph.outputs, *graph.initializers.values()), 0
    kept = {id(value) for value in named}
    model.doc_string = graph.doc_string = None
    for each in (model, graph, *named):
        each.metadata_props.clear()
    for value in graph.initializers.values():
        if not value.is_graph_input():
            value.type = value.shape = None
    for node in graph:
        node.name, node.doc_string = None, None
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if id(value) not in kept:
                value.name, number = f"v{number}", number + 1
                value.type = value.shape = None


def spell_out_norms_(model: Any) -> None:
    """Group norms as instance norms of groups: ONNX Runtime computes others by a dozen passes on CPUs."""
    ir = library("onnx_ir")
    for node in [node for node in model.graph if node.op_type == "GroupNormalization"]:
        x, weight, bias = node.inputs
        if x.shape is None or not all(isinstance(size, int) for size in x.shape[1:]):
            continue
        groups, tape = node.attributes["num_groups"].as_int(), ir.tape.Tape()
        stored = functools.partial(_constant, model.graph)
        ones, zeros = (stored(np.full(groups, each, dtype=np.float32)) for each in (1, 0))
        flat = tape.op("Reshape", [x, stored(np.array([0, groups, -1]))])
        epsilon = {"epsilon": node.attributes["epsilon"].as_float()}
        normed = tape.op("InstanceNormalization", [flat, ones, zeros], epsilon)
        value = tape.op("Reshape", [normed, stored(np.array([0, *x.shape[1:]]))])
        each = stored(np.array([-1, *[1] * (len(x.shape) - 2)]))
        value = tape.op("Mul", [value, tape.op("Reshape", [weight, each])])
        value = tape.op("Add", [value, tape.op("Reshape", [bias, each])])
        model.graph.insert_before(node, tape.nodes)
        ir.convenience.replace_all_uses_with(node.outputs[0], value)
        model.graph.remove(node, safe=True)


def _constant(graph: Any, array: np.ndarray) -> Any:
    ir = library("onnx_ir")
    name = f"norm{len(graph.initializers)}"
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value


def add_default_(model: Any, name: str, array: Any) -> None:
    """Give an input the value that it has where it is not fed."""
    graph, ir = model.graph, library("onnx_ir")
    value = next(each for each in graph.inputs if each.name == name)
    value.const_value = ir.tensor(array, name=name)
    graph.register_initializer(value)


def part(file: Path, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """The part of a saved graph between two sets of values, serialized."""
    ir = library("onnx_ir")
    model = ir.load(file)
    cut = ir.Model(ir.convenience.extract(model.graph, list(inputs), list(outputs)), ir_version=model.ir_version)
    return ir.to_proto(cut).SerializeToString()


def save(model: Any, file: Path) -> int:
    """Write a graph; large tensors go into a file beside it. Returns all bytes."""
    ir = library("onnx_ir")
    large = sum(value.const_value.nbytes for value in model.graph.initializers.values()) > EXTERNAL
    ir.save(model, file, **({"external_data": f"{file.name}.data"} if large else {}))
    return sum(each.stat().st_size for each in file.parent.glob(f"{file.name}*"))
