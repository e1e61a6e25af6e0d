# SPDX-License-Identifier: Apache-2.0
"""How a pruned model differs from what its own config builds: shapes of tensors and plain attributes of modules.

Classes of diffusers cannot express the widths of a pruned network in their configs. The difference is stored in
``config.json`` and applied to the model that the config builds before weights load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


Structure = dict[str, dict[str, Any]]  # {"attributes": {module: {name: value}}, "shapes": {tensor: [sizes]}}

_PLAIN = (bool, int, float, str, type(None))
_PASSING = {"training", "gradient_checkpointing"}  # attributes of a run, not of the network


def structure_of(model: nn.Module, reference: nn.Module) -> Structure:
    """The difference between ``model`` and ``reference``, which has the same modules.

    Raises:
        ValueError: Modules were added or removed, or a buffer that is not saved changed its shape.
    """
    own, other = dict(model.named_modules()), dict(reference.named_modules())
    if own.keys() != other.keys():
        changed = sorted(own.keys() ^ other.keys())
        raise ValueError(
            f"modules were added or removed ({', '.join(changed[:5])}); only changed widths can be saved."
        )
    attributes: dict[str, dict[str, Any]] = {}
    for name, module in own.items():
        before = _attributes(other[name])
        changes = {k: v for k, v in _attributes(module).items() if k in before and before[k] != v}
        if changes:
            attributes[name] = changes
    shapes = {}
    sizes, saved = {name: tensor.shape for name, tensor in _tensors(reference)}, model.state_dict().keys()
    for name, tensor in _tensors(model):
        if tensor.shape != sizes.get(name):
            if name not in saved:
                raise ValueError(f"{name} has another shape, but it is not saved; the model could not be restored.")
            shapes[name] = list(tensor.shape)
    return {"attributes": attributes, "shapes": shapes}


def apply_structure_(model: nn.Module, structure: Mapping[str, Mapping[str, Any]]) -> None:
    """Give a model that its config has built the widths of a pruned one; changed tensors are fresh (uninitialized).

    Raises:
        ValueError: The structure is damaged, or names modules or tensors that the model does not have.
    """
    if not _is_structure(structure):
        raise ValueError(
            "the structure in config.json is damaged; allowed are the keys attributes and shapes, both tables."
        )
    modules, problems = dict(model.named_modules()), []
    for name, changes in structure["attributes"].items():
        for key, value in changes.items():
            module = modules.get(name)
            old = getattr(module, key, ...)
            if old is ... or key.startswith("_") or not _is_plain(old) or not _is_plain(value):
                problems.append(f"{name}.{key}")
                continue
            setattr(module, key, tuple(value) if isinstance(old, (tuple, torch.Size)) else value)
    for name, shape in structure["shapes"].items():
        owner, _, leaf = name.rpartition(".")
        module = modules.get(owner)
        tensor = None if module is None else module._parameters.get(leaf, module._buffers.get(leaf))
        if tensor is None or not _is_shape(shape) or len(shape) != tensor.ndim:
            problems.append(name)
            continue
        set_tensor_(module, leaf, torch.empty(shape, dtype=tensor.dtype, device=tensor.device))
    if problems:
        raise ValueError(
            f"{type(model).__name__}: the structure in config.json does not fit the model: {', '.join(problems[:5])}."
        )


def set_tensor_(module: nn.Module, name: str, value: Tensor) -> None:
    """Replace a parameter or buffer by one of another shape."""
    if name in module._parameters:
        old = module._parameters[name]
        module._parameters[name] = nn.Parameter(value, requires_grad=old is None or old.requires_grad)
    else:
        module._buffers[name] = value


def update_attributes_(model: nn.Module) -> None:
    """Make the attributes of layers and of diffusers' blocks agree with the shapes of their tensors."""
    for module in model.modules():
        kind = type(module).__name__
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            module.out_channels, module.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Embedding):
            module.num_embeddings, module.embedding_dim = module.weight.shape
        elif isinstance(module, nn.GroupNorm) and module.affine:
            module.num_channels = module.weight.shape[0]
        elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            module.normalized_shape = tuple(module.weight.shape)
        elif kind in ("Upsample2D", "Downsample2D") and isinstance(getattr(module, "conv", None), nn.Conv2d):
            module.out_channels, module.channels = module.conv.weight.shape[:2]
        elif kind == "ResnetBlock2D":
            module.in_channels, module.out_channels = module.conv1.weight.shape[1], module.conv2.weight.shape[0]
        elif kind == "Attention":
            module.inner_dim, module.query_dim = module.to_q.weight.shape
            module.inner_kv_dim, module.cross_attention_dim = module.to_k.weight.shape
            module.out_dim = module.to_out[0].weight.shape[0]
            if module.scale_qk:
                module.scale = (module.inner_dim / module.heads) ** -0.5
        elif kind == "Transformer2DModel" and module.is_input_continuous:
            module.inner_dim, module.in_channels = module.proj_in.weight.shape[:2]
            module.out_channels = module.proj_out.weight.shape[0]


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, (tuple, list)) else value
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in _PASSING and _is_plain(value)
    }


def _is_structure(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and value.keys() == {"attributes", "shapes"}
        and isinstance(value["shapes"], Mapping)
        and isinstance(value["attributes"], Mapping)
        and all(isinstance(changes, Mapping) for changes in value["attributes"].values())
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or isinstance(value, (tuple, list)) and all(isinstance(x, _PLAIN) for x in value)


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size > 0 for size in value)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
