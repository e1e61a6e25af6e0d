# SPDX-License-Identifier: Apache-2.0
"""Feature quantizers inside any discriminator: put in by module path, taken out without a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from .codebook import Collected, running_perplexity
from .feature_quantizer import FeatureQuantizer


_CONTAINER = "codebooks"
_COLLECTED = tuple(field.name for field in fields(Collected))


@dataclass(frozen=True)
class FQConfig:
    """Options of one :class:`.FeatureQuantizer`; None: those of the preset.

    Args:
        num_codes: K.
        dim: Channels at that place; None: those of the last convolution of the module.
        preset: "paper" or "official".
        decay: See :class:`.FeatureQuantizer`.
        weight: See there.
        feed: See there.
        warmup_steps: See there.
        anneal_steps: See there.
        update_on: See there.
        init: See there.
        init_state: See there.
        revive_below: See there.
        accumulate: See there.
    """

    num_codes: int
    dim: int | None = None
    preset: str = "paper"
    decay: float | None = None
    weight: float | None = None
    feed: str | None = None
    warmup_steps: int | None = None
    anneal_steps: int | None = None
    update_on: str | None = None
    init: str = "normal"
    init_state: str | None = None
    revive_below: float = 0.0
    accumulate: str = "forward"


def _official(paths, num_codes: int, decay: float, weight: float) -> dict[str, FQConfig]:
    return {path: FQConfig(num_codes, preset="official", decay=decay, weight=weight) for path in paths}


# Positions and values of the released training scripts (before the attention of a block).
FQ_PRESETS: dict[str, dict[str, FQConfig]] = {
    "biggan-cifar10": _official([f"blocks.{i}.0" for i in range(4)], 1024, 0.8, 1.0),
    "biggan-cifar100": _official([f"blocks.{i}.0" for i in range(4)], 64, 0.9, 10.0),
    "tac-gan-cifar100": _official([f"blocks.{i}.0" for i in range(4)], 64, 0.9, 10.0),
    "biggan-imagenet-64": _official(["blocks.2.0"], 1024, 0.7, 0.5),
    "biggan-imagenet-128": _official([f"blocks.{i}.0" for i in range(4)], 1024, 0.8, 15.0),
    "stylegan2-ffhq": _official(["b32", "b16"], 128, 0.8, 0.25),
    "ugatit-global": {
        path: FQConfig(codes, preset="official", decay=0.85, weight=2.0)
        for path, codes in (("model.5", 64), ("model.8", 128), ("model.11", 128))
    },
}


def add_feature_quantizers(model: nn.Module, places: str | Mapping[str, FQConfig | Mapping[str, Any]]) -> None:
    """Quantize the outputs of modules of a discriminator, in place.

    The model's output gets a ``quantization_loss`` (B,), the sum over the places, to be added to the losses of both networks. Our own
    discriminators save and restore their quantizers. Where a module returns several values, the first is quantized.

    Args:
        model: Discriminator.
        places: Module path -> options, or a key of ``FQ_PRESETS``.

    Raises:
        ValueError: Unknown paths or presets (all named), a place whose channels cannot be told, or quantizers that are there already.
    """
    if isinstance(places, str):
        if places not in FQ_PRESETS:
            raise ValueError(f"there is no preset {places!r}; allowed are {', '.join(FQ_PRESETS)}.")
        places = FQ_PRESETS[places]
    if hasattr(model, _CONTAINER):
        raise ValueError("the model has feature quantizers already; remove_feature_quantizers first.")
    configs = {path: value if isinstance(value, FQConfig) else FQConfig(**value) for path, value in places.items()}
    modules = dict(model.named_modules())
    missing = [path for path in configs if path not in modules or not path]
    if missing:
        raise ValueError(
            f"the model has no modules {', '.join(map(repr, missing))}; it has {', '.join(list(modules)[1:9])} ..."
        )
    quantizers = nn.ModuleDict()
    for path, config in configs.items():
        options = asdict(config)
        dim = options.pop("dim") or _channels(model, modules, path)
        quantizers[path.replace(".", "/")] = FeatureQuantizer(dim, options.pop("num_codes"), **options)
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    setattr(model, _CONTAINER, quantizers.to(device).train(model.training))
    losses: list[Tensor] = []
    for path in configs:
        modules[path].register_forward_hook(_Quantize(quantizers[path.replace(".", "/")], losses))
    model.register_forward_pre_hook(_Begin(losses))
    model.register_forward_hook(_AddLoss(losses))
    if hasattr(model, "register_to_config"):
        model.register_to_config(feature_quantizers={path: asdict(config) for path, config in configs.items()})


def remove_feature_quantizers(model: nn.Module) -> None:
    """Restore the plain discriminator.

    Raises:
        ValueError: It has no quantizers.
    """
    if not hasattr(model, _CONTAINER):
        raise ValueError("the model has no feature quantizers.")
    delattr(model, _CONTAINER)
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, _Hook)]:
                del hooks[key]
    if hasattr(model, "register_to_config"):
        model.register_to_config(feature_quantizers=None)


@contextlib.contextmanager
def phase(model: nn.Module, name: str) -> Iterator[None]:
    """Say what the forward passes of the context are for: "d", "g", or "frozen" (no codebook moves: R1, evaluation).

    Raises:
        ValueError: Another name.
    """
    if name not in ("d", "g", "frozen"):
        raise ValueError(f"phase is {name!r}; allowed are d, g, frozen.")
    quantizers = [module for module in model.modules() if isinstance(module, FeatureQuantizer)]
    before = [quantizer.phase for quantizer in quantizers]
    try:
        for quantizer in quantizers:
            quantizer.phase = name
        yield
    finally:
        for quantizer, old in zip(quantizers, before):
            quantizer.phase = old


def update_codebooks_(model: nn.Module) -> None:
    """Call :meth:`FeatureQuantizer.update_` of every quantizer with ``accumulate="step"``."""
    for module in model.modules():
        if isinstance(module, FeatureQuantizer) and module.accumulate == "step":
            module.update_()


@torch.no_grad()
def effective_codes(model: nn.Module) -> Tensor:
    """:func:`running_perplexity` as mean over the model's codebooks: a scalar for the log."""
    found = [running_perplexity(m.cluster_size) for m in model.modules() if isinstance(m, FeatureQuantizer)]
    return torch.stack(found).mean()


class PendingStatistics:
    """What the codebooks with ``accumulate="step"`` have collected since their last update, for the checkpoint of a training.

    Statistics are summed over processes, and go to rank 0 when they are loaded: the next update adds up the same, for any number of processes. To be saved by
    all processes at once.
    """

    def __init__(self, model: nn.Module):
        self.quantizers = [module for module in model.modules() if isinstance(module, FeatureQuantizer)]

    def state_dict(self) -> dict[str, Tensor]:
        """For the checkpoint."""
        state: dict[str, Tensor] = {}
        for index, quantizer in enumerate(self.quantizers):
            if quantizer.pending is not None:
                found = {name: value.clone() for name, value in vars(quantizer.pending).items()}
                if quantizer.distributed:
                    dist.all_reduce(found["statistics"])
                state |= {f"{index}.{name}": value for name, value in found.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """From the checkpoint."""
        for index, quantizer in enumerate(self.quantizers):
            found = {name: state[f"{index}.{name}"] for name in _COLLECTED if f"{index}.{name}" in state}
            moved = {name: value.to(quantizer.embed.device) for name, value in found.items()}
            if moved and quantizer.distributed and dist.get_rank():
                moved["statistics"] = torch.zeros_like(moved["statistics"])
            quantizer.pending = Collected(**moved) if moved else None


class _Hook:
    """Objects, not closures: a deep copy of the model gets hooks on its own quantizers."""

    def __init__(self, losses: list[Tensor]):
        self.losses = losses


class _Begin(_Hook):
    def __call__(self, module: nn.Module, args: tuple) -> None:
        self.losses.clear()


class _Quantize(_Hook):
    def __init__(self, quantizer: FeatureQuantizer, losses: list[Tensor]):
        super().__init__(losses)
        self.quantizer = quantizer

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        features = output[0] if isinstance(output, tuple) else output
        found = self.quantizer(features)
        self.losses.append(found.loss)
        return (found.output, *output[1:]) if isinstance(output, tuple) else found.output


class _AddLoss(_Hook):
    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        loss = torch.stack(self.losses).sum(dim=0) if self.losses else None
        self.losses.clear()
        if loss is None:
            return output
        if isinstance(output, BaseOutput):
            return type(output)(**{**output, "quantization_loss": loss})
        return (*output, loss) if isinstance(output, tuple) else (output, loss)


def _channels(model: nn.Module, modules: Mapping[str, nn.Module], path: str) -> int:
    """Output channels of a module: of its last convolution, or of the last one before it."""
    names = [name for name, module in modules.items() if _width(module)]
    inside = [name for name in names if name == path or name.startswith(f"{path}.")]
    for name in ("conv1", "conv2"):  # residual blocks, whose shortcut may come last
        inside = [f"{path}.{name}"] if f"{path}.{name}" in names else inside
    if not inside:
        order = list(modules)
        inside = [name for name in names if order.index(name) < order.index(path)]
    if not inside:
        raise ValueError(f"the channels of {path!r} are not known; give dim in its FQConfig.")
    return _width(modules[inside[-1]])


def _width(module: nn.Module) -> int:
    if isinstance(module, nn.Conv2d):
        return module.out_channels
    weight = getattr(module, "weight", None)
    return weight.shape[0] if getattr(type(module), "ganzip_quantizable", False) and weight.ndim == 4 else 0
