# SPDX-License-Identifier: Apache-2.0
"""Bytes that networks hold, whoever quantized them."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


_NO_HOLDERS = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType, str, bytes)


def held_bytes(*networks: Any) -> int:
    """Bytes of every tensor that can be reached from ``networks``, each once.

    These are parameters, buffers, and what quantizers keep elsewhere: the tensors inside of a tensor subclass
    (torchao, SDNQ), the state that hangs on a parameter (bitsandbytes), plain attributes of modules. Unpacked weights
    that are kept count, too.

    Example:
        >>> from torch import nn
        >>> held_bytes(nn.Linear(3, 2))
        32
    """
    queue: list[Any] = list(networks)
    seen: dict[int, Any] = {}  # the objects too, so that no id is given twice
    sizes: dict[tuple[Any, ...], int] = {}
    while queue:
        item = queue.pop()
        if id(item) in seen or isinstance(item, _NO_HOLDERS):
            continue
        seen[id(item)] = item
        if isinstance(item, Tensor) and is_traceable_wrapper_subclass(item):
            queue += [getattr(item, name) for name in item.__tensor_flatten__()[0]]
        elif isinstance(item, Tensor) and item.device.type != "meta":
            size = item.numel() * item.element_size()
            if item.layout == torch.strided:
                size = min(size, item.untyped_storage().nbytes())
                sizes[(item.device, item.data_ptr(), size)] = size
            else:  # a weight that oneDNN packed: nobody else's memory
                sizes[(item.device, id(item), size)] = size
        elif isinstance(item, Mapping):
            queue += item.values()
        elif isinstance(item, (list, tuple, set)):
            queue += item
        queue += getattr(item, "__dict__", {}).values()
    return sum(sizes.values())
