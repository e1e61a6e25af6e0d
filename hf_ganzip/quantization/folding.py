# SPDX-License-Identifier: Apache-2.0
"""Weights that are computed from other parameters (spectral norm, weight norm): read them exactly, and fold them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..core.modes import evaluating


def is_parametrized(module: nn.Module) -> bool:
    """Whether the weight is computed from other tensors: by parametrizations, a forward pre-hook or the module."""
    return parametrize.is_parametrized(module, "weight") or _hook(module) is not None or _is_normalized(module)


@torch.no_grad()
def folded_weight(module: nn.Module) -> Tensor:
    """The weight that a forward pass in eval mode uses; no buffer changes (spectral norm makes no power iteration)."""
    if _is_normalized(module):
        return module.effective_weight()
    hook = _hook(module)
    if isinstance(hook, SpectralNorm):
        return hook.compute_weight(module, do_power_iteration=False).detach()
    if hook is not None:
        return hook.compute_weight(module).detach()
    if not parametrize.is_parametrized(module, "weight"):
        return module.weight.detach()
    with evaluating(module):
        return module.weight.detach().clone()


def remove_parametrization_(module: nn.Module) -> None:
    """Replace a parametrization of ``module.weight``, if any, by an ordinary parameter with the folded weight."""
    if _is_normalized(module):
        module.fold_spectral_norm_()
        return
    hook = _hook(module)
    if hook is None and not parametrize.is_parametrized(module, "weight"):
        return
    weight = folded_weight(module)
    if hook is not None:
        hook.remove(module)
        for key in [key for key, value in module._forward_pre_hooks.items() if value is hook]:
            del module._forward_pre_hooks[key]
    elif list(module.parametrizations) == ["weight"]:
        # torch's own function changes the class of the module, which deep copies share with it.
        del module._modules["parametrizations"]
        module.__class__ = type(module).__mro__[1]
    else:
        parametrize.remove_parametrizations(module, "weight")
        del module._parameters["weight"]
    module.weight = nn.Parameter(weight)


def fold_rest_(model: nn.Module) -> bool:
    """Fold layers of a dequantized model that were not quantized, where its config says whether weights are normalized.

    Such a model is saved with all norms or with none.

    Returns:
        Whether the config says so.
    """
    if getattr(model, "config", None) is None or "spectral_norm" not in model.config:
        return False
    for module in model.modules():
        remove_parametrization_(module)
    return True


def _is_normalized(module: nn.Module) -> bool:
    return bool(getattr(module, "is_normalized", False))


def _hook(module: nn.Module) -> SpectralNorm | WeightNorm | None:
    hooks = (hook for hook in module._forward_pre_hooks.values() if isinstance(hook, (SpectralNorm, WeightNorm)))
    return next((hook for hook in hooks if hook.name == "weight"), None)
