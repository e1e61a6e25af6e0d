# SPDX-License-Identifier: Apache-2.0
"""Which classes can be pruned, and how."""

from __future__ import annotations

from torch import nn

from ..core.registry import of_class
from . import gan_sets
from .channels import PruningRule, keep_after_removing, keep_at_least_three, keep_rounded_down
from .unet_sets import unet_sets


RULES: dict[str, PruningRule] = {
    "StyleGAN2Generator": PruningRule(
        gan_sets.stylegan2_sets, gan_sets.stylegan2_config, keep_after_removing, "synthesis"
    ),
    "StyleGAN3Generator": PruningRule(
        gan_sets.stylegan3_sets, gan_sets.stylegan3_config, keep_at_least_three, "synthesis", gan_sets.stylegan3_names
    ),
    "BigGANGenerator": PruningRule(gan_sets.biggan_sets, gan_sets.biggan_config, keep_after_removing),
    "UNet2DModel": PruningRule(unet_sets, None, keep_rounded_down),
    "UNet2DConditionModel": PruningRule(unet_sets, None, keep_rounded_down),
}


def rule_of(model: nn.Module) -> PruningRule:
    """Rule of the model's class or of the nearest base class that has one.

    Raises:
        ValueError: There is none.
    """
    found: PruningRule | None = of_class(RULES, type(model))
    if found is None:
        raise ValueError(
            f"prune_: there is no rule for {type(model).__name__}; rules exist for {', '.join(RULES)}. Add one: a "
            "PruningRule in hf_ganzip.pruning.RULES under the class name."
        )
    return found
