# SPDX-License-Identifier: Apache-2.0
"""Feature quantizers inside any discriminator: put in by module path, taken out without a trace."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from .codebook import Collected, running_perplexity
from .feature_quantizer import FeatureQuantizer


logger = logging.getLogger(__name__)

_CONTAINER = "codebooks"
_DEAD = 0.1  # share of the codes, beyond the first, that a living codebook uses at least
_JUDGED_AFTER = 50  # updates
_COLLECTED = tuple(field.name for field in fields(Collected))


@dataclass(frozen=True)
class FQConfig:
    """Options of one :class:`.FeatureQuantizer`, which explains them; None: those of the preset.

    Args:
        num_codes: K.
        dim: Channels at that place; None: those of the last convolution of the module.
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
    init: str | None = None
    init_state: str | None = None
    settle_steps: int | None = None
    revive_below: float | None = None
    follow: bool | None = None
    accumulate: str = "forward"
    share: float = 1.0


def _official(paths: Iterable[str], num_codes: int, decay: float, weight: float) -> dict[str, FQConfig]:
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

    The model's output gets a ``quantization_loss`` (B,), the sum over the places, to be added to the losses of both
    networks. Our own discriminators save and restore their quantizers. Where a module returns several values, the
    first is quantized.

    Args:
        model: Discriminator.
        places: Module path -> options, or a key of ``FQ_PRESETS``.

    Raises:
        ValueError: Unknown paths or presets (all named), a place whose channels cannot be told, or quantizers that are
            there already.
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
    quantizers: Any = nn.ModuleDict()
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
        options = {path: asdict(config) for path, config in configs.items()}
        model.register_to_config(feature_quantizers=options)  # type: ignore[operator]  # ConfigMixin's


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
        model.register_to_config(feature_quantizers=None)  # type: ignore[operator]  # ConfigMixin's


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
def codes_in_use(model: nn.Module) -> dict[str, Tensor]:
    """Perplexity of the codes (:func:`.running_perplexity`) in the last update of every started codebook.

    Returns:
        ``codes_in_use``, the mean, and ``codes_in_use/PLACE`` of every codebook, float64 scalars; nothing before the
        first update.
    """
    counts = {place: quantizer.last_counts for place, quantizer in _places(model).items()}
    found = {f"codes_in_use/{place}": running_perplexity(each) for place, each in counts.items() if each is not None}
    return {"codes_in_use": torch.stack(list(found.values())).mean()} | found if found else {}


def warn_of_dead_codebooks(model: nn.Module, known: set[str]) -> None:
    """Name codebooks of which hardly a code is in use, some updates after their start.

    Args:
        model: With feature quantizers or without.
        known: Places that were named before, and are not again; takes the new ones in.
    """
    for place, quantizer in _places(model).items():
        young = int(quantizer.num_updates) < quantizer.settle_steps + _JUDGED_AFTER
        if place in known or young or quantizer.last_counts is None:
            continue
        used = float(running_perplexity(quantizer.last_counts))
        if used - 1 < _DEAD * (quantizer.num_codes - 1):
            known.add(place)
            logger.warning(
                "the codebook at %s is dead: %.1f of its %d codes are in use (perplexity); "
                'preset="paper" keeps codes alive by init, settle_steps, follow and revive_below.',
                place,
                used,
                quantizer.num_codes,
            )


def _places(model: nn.Module) -> dict[str, FeatureQuantizer]:
    """Place -> quantizer; of a module with several discriminators, each place behind the path of its own."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, FeatureQuantizer):
            owner, _, place = name.rpartition(f"{_CONTAINER}.")
            found[owner + place.replace("/", ".")] = module
    return found


class PendingStatistics:
    """What the codebooks hold for the training alone, for its checkpoint: where the features were at the last update
    (``follow``), and what was collected since (``accumulate="step"``).

    Statistics of every process are kept, and go back to it where there are as many: the next update adds up in the same
    order. Where there are not, rank 0 takes their sum. To be saved by all processes at once.
    """

    def __init__(self, model: nn.Module):
        self.quantizers = [module for module in model.modules() if isinstance(module, FeatureQuantizer)]

    def state_dict(self) -> dict[str, Tensor]:
        """For the checkpoint."""
        state: dict[str, Tensor] = {}
        for index, quantizer in enumerate(self.quantizers):
            found = {} if quantizer.scale is None else {"scale": quantizer.scale}
            if quantizer.pending is not None:
                found |= {name: value.clone() for name, value in vars(quantizer.pending).items()}
                parts = [torch.empty_like(found["statistics"]) for _ in range(_world_size(quantizer))]
                if len(parts) > 1:
                    dist.all_gather(parts, found["statistics"])
                    found["statistics"] = torch.stack(parts)
            state |= {f"{index}.{name}": value for name, value in found.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """From the checkpoint."""
        for index, quantizer in enumerate(self.quantizers):
            names = [name for name in ("scale", *_COLLECTED) if f"{index}.{name}" in state]
            found = {name: state[f"{index}.{name}"].to(quantizer.embed.device) for name in names}
            quantizer.scale = found.pop("scale", None)
            if found:
                parts, rank = found["statistics"], dist.get_rank() if quantizer.distributed else 0
                parts = parts[None] if parts.ndim == 2 else parts  # (processes, K, 1 + C)
                alike = len(parts) == _world_size(quantizer)
                found["statistics"] = parts[rank] if alike else parts.sum(0) * float(rank == 0)
            quantizer.pending = Collected(**found) if found else None


def _world_size(quantizer: FeatureQuantizer) -> int:
    return dist.get_world_size() if quantizer.distributed else 1


class _Hook:
    """Objects, not closures: a deep copy of the model gets hooks on its own quantizers."""

    def __init__(self, losses: list[Tensor]):
        self.losses = losses


class _Begin(_Hook):
    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.losses.clear()


class _Quantize(_Hook):
    def __init__(self, quantizer: FeatureQuantizer, losses: list[Tensor]):
        super().__init__(losses)
        self.quantizer = quantizer

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        features = output[0] if isinstance(output, tuple) else output
        found = self.quantizer(features)
        self.losses.append(found.loss)
        return (found.output, *output[1:]) if isinstance(output, tuple) else found.output


class _AddLoss(_Hook):
    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
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
    weight: Any = getattr(module, "weight", None)
    return weight.shape[0] if getattr(type(module), "ganzip_quantizable", False) and weight.ndim == 4 else 0
