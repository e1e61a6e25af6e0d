# SPDX-License-Identifier: Apache-2.0
"""A model from a configuration and tensors that come from a file nobody vouches for, and where they come from: file,
SHA-256, URL and licence, in the config and on the card.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

import torch
from torch import Tensor

from .pickle_reader import CheckpointError, DamagedCheckpointError, Instance


MAX_DEPTH = 32
MAX_BLOCKS = 64


def build_model(
    cls: Any,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    fill: Callable[[str], Tensor | None] | None = None,
) -> Any:
    """Instance of ``cls`` in eval mode that holds copies of exactly ``tensors`` (float32); nothing else is allocated.

    Args:
        cls: Model class.
        config: Its options.
        tensors: State dict.
        fill: Name of a missing tensor -> its value, or None; for constants that a format leaves out.

    Raises:
        DamagedCheckpointError: A wrong config, or names or shapes that do not fit it; all of them named.
    """
    try:
        with torch.device("meta"):
            model = cls(**config)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError, RuntimeError) as error:
        raise DamagedCheckpointError(f"the checkpoint describes no {cls.__name__}: {error}") from error
    expected = model.state_dict()
    if fill is not None:
        missing = {name: fill(name) for name in expected if name not in tensors}
        tensors = {**tensors, **{name: value for name, value in missing.items() if value is not None}}
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} is not expected" for name in tensors if name not in expected]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise DamagedCheckpointError(f"the tensors do not fit a {cls.__name__}: {'; '.join(problems[:8])}{more}.")
    plain = torch.contiguous_format
    values = {
        name: tensors[name].detach().to(value.dtype, copy=True, memory_format=plain)
        for name, value in expected.items()
    }
    model.load_state_dict(values, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def module_tensors(module: Any, prefix: str = "", depth: int = 0) -> dict[str, Tensor]:
    """Parameters and buffers of a pickled torch module (an :class:`Instance`) and its children, by name."""
    if not isinstance(module, Instance) or not isinstance(module.state, dict) or depth > MAX_DEPTH:
        raise DamagedCheckpointError(f"{prefix or 'the network'} is no torch module, or nested too deeply.")
    found: dict[str, Tensor] = {}
    for kind in ("_parameters", "_buffers"):
        for name, value in (module.get(kind) or {}).items():
            if value is not None:
                if not isinstance(value, Tensor):
                    raise DamagedCheckpointError(f"{prefix}{name} is no tensor.")
                found[f"{prefix}{name}"] = value
    for name, child in (module.get("_modules") or {}).items():
        if child is not None:
            found |= module_tensors(child, f"{prefix}{name}.", depth + 1)
    return found


def submodule(module: Any, path: str) -> Instance:
    """A child of a pickled torch module by its dotted path.

    Raises:
        DamagedCheckpointError: There is none.
    """
    for name in path.split("."):
        children = module.get("_modules") if isinstance(module, Instance) else None
        module = children.get(name) if isinstance(children, dict) else None
    if not isinstance(module, Instance):
        raise DamagedCheckpointError(f"the network has no {path}.")
    return module


def as_dict(value: Any) -> Mapping[Any, Any]:
    """A dict, or what a pickled object that is one holds; empty for anything else."""
    value = value.items if isinstance(value, Instance) else value
    return value if isinstance(value, dict) else {}


def network_state(data: Mapping[str, Any], names: Mapping[str, str], network: str) -> dict[str, Tensor]:
    """State dict of a network in a checkpoint of several; ``names``: of the networks, and of their entries.

    Raises:
        CheckpointError: The checkpoint lacks the network.
        DamagedCheckpointError: It holds something else than tensors.
    """
    state = data.get(names.get(network, ""))
    if not isinstance(state, dict):
        present = [name for name, key in names.items() if isinstance(data.get(key), dict)]
        raise CheckpointError(f"the checkpoint has no network {network!r}; it has {', '.join(present)}.")
    return checked_state(state, names[network])


def checked_state(state: Any, name: str) -> dict[str, Tensor]:
    """``state`` as it is.

    Raises:
        DamagedCheckpointError: It is no dict, or holds something else than tensors.
    """
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise DamagedCheckpointError(f"{name} holds something that is no tensor.")
    return dict(state)


def tensor_of(tensors: Mapping[str, Tensor], name: str, dims: int | None = None) -> Tensor:
    """A tensor that a converter needs.

    Raises:
        DamagedCheckpointError: It is missing, or has another number of dimensions than ``dims``.
    """
    value = tensors.get(name)
    if value is None or dims is not None and value.ndim != dims:
        with_dims = "" if dims is None else f" with {dims} dimensions"
        raise DamagedCheckpointError(f"the checkpoint has no tensor {name}{with_dims}.")
    return value


def shape_of(tensors: Mapping[str, Tensor], name: str, dims: int) -> tuple[int, ...]:
    """Shape of :func:`tensor_of`."""
    return tuple(tensor_of(tensors, name, dims).shape)


def count_blocks(tensors: Container[str], name: str, start: int = 0) -> int:
    """How many of ``name.format(0)``, ``name.format(1)``, ... are there.

    Raises:
        DamagedCheckpointError: None, or more than any known network has.
    """
    count = 0
    while count <= MAX_BLOCKS and name.format(start + count) in tensors:
        count += 1
    if not 0 < count <= MAX_BLOCKS:
        raise DamagedCheckpointError(
            f"the checkpoint has {count} tensors {name.format('*')}; allowed are 1 to {MAX_BLOCKS}."
        )
    return count


def number(value: Any, name: str, low: float, high: float) -> float:
    """A finite number of the checkpoint within limits, also from an array or tensor of equal entries.

    Raises:
        DamagedCheckpointError: It is none.
    """
    if hasattr(value, "reshape") and hasattr(value, "tolist"):
        entries = value.reshape(-1).tolist()
        value = entries[0] if entries and len(set(entries)) == 1 else entries
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise DamagedCheckpointError(f"the checkpoint sets {name} to {value!r}; allowed are {low} to {high}.")
    return value


def conv_clamp(value: Any) -> float | None:
    """Option of a convolution, within limits."""
    return None if value is None else number(value, "conv_clamp", 1e-6, 1e9)


def w_avg_beta(value: Any) -> float:
    """Option of a mapping network, within limits."""
    return 0.995 if value is None else number(value, "w_avg_beta", 0, 1)


def card(model: Any) -> str:
    """README.md of a converted model, from the origin in its config.

    ``format`` is a key of ``CONVERTERS``, ``license`` what whoever converted it ``stated``, else what is known of the
    format, never freer than that; ``notes`` say what conversion left out or assumed.
    """
    source = model.config["_ganzip_source"]
    terms, url = source["license"], source["url"]
    name = "unknown" if terms.startswith("unknown") else terms
    licence = f"license: {terms}" if source["stated"] else f"license: other\nlicense_name: {name}"
    link = f"license_link: {url}\n" if url and not source["stated"] else ""
    rows = {key: source[key] for key in ("format", "file")} | {"SHA-256": source["sha256"]}
    rows |= {"network": source["network"], "URL": url or "not stated", "licence": terms}
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    notes = "".join(f"\n- {note}" for note in source["notes"])
    return f"""---
library_name: hf_ganzip
{licence}
{link}tags:
- gan
- {type(model).__name__}
---

# {type(model).__name__} from {source["file"]}

Converted by hf_ganzip without running code of the checkpoint. The weights remain under the terms of their source.

| source | |
|---|---|
{table}
{notes}

```python
import hf_ganzip as gz

model = gz.load_model("THIS_FOLDER_OR_HUB_ID")
```
"""
