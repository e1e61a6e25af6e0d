# SPDX-License-Identifier: Apache-2.0
"""Remove whole channels of a model in place: plan, score, choose, cut, verify, record, report."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.components import network_of
from ..core.modes import evaluating, watching
from ..core.record import Step, origin_of, record_step, table
from ..core.reports import Report
from ..families import example_inputs
from ..quantization.packed import packed_modules
from .build import build
from .channels import PruningRule, shapes_after
from .choose import kept_channels, kept_counts
from .config import PruneConfig
from .macs import macs_of_shapes, weight_uses
from .rules import rule_of


if TYPE_CHECKING:
    from diffusers import ModelMixin


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrunedSet:
    """What happened to one channel set: its name, widths before and after, and the indices that stayed."""

    name: str
    before: int
    after: int
    kept: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class PruneReport(Report):
    """Result of :func:`prune_`.

    Args:
        criterion: Name of the criterion.
        sets: Channel sets in the order of the data.
        parameters_before: Parameters of the model.
        parameters_after: The same afterwards.
        macs_before: Operations of one sample, see :func:`.count_macs`.
        macs_after: The same afterwards.
    """

    criterion: str
    sets: tuple[PrunedSet, ...]
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int

    def facts(self) -> dict[str, str]:
        return {
            "criterion": self.criterion,
            "parameters": f"{self.parameters_before:,} -> {self.parameters_after:,}",
            "million operations": f"{self.macs_before / 1e6:,.1f} -> {self.macs_after / 1e6:,.1f}",
        }

    def rows(self) -> list[dict[str, Any]]:
        return [asdict(each) for each in self.sets]

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        rows = [(s.name, f"{s.before}", f"{s.after}", f"{1 - s.after / s.before:.0%}") for s in self.sets]
        return {"channels": [("channels", "before", "after", "removed"), *rows]}

    def __str__(self) -> str:
        change = f"{self.parameters_before:,} -> {self.parameters_after:,} parameters"
        change += f", {self.macs_before / 1e6:,.1f} -> {self.macs_after / 1e6:,.1f} million operations"
        note = "; nothing was removed" if self.parameters_before == self.parameters_after else ""
        return "\n".join(table(self.tables()["channels"])) + f"\n{change} by {self.criterion}{note}"


def prune_(model: ModelMixin, config: PruneConfig | None = None) -> PruneReport:
    """Remove channels of a model in place. Widths go into its config, so it is saved and restored as any other model.

    Args:
        model: Model in full precision of a class with a rule: StyleGAN2, StyleGAN3, BigGAN without attention,
            diffusers' ``UNet2DModel`` and ``UNet2DConditionModel``; or a pipeline, whose denoiser is pruned.
        config: Options.

    Returns:
        Widths before and after, and which channels stayed.

    Raises:
        ValueError: No rule for the class, a quantized model, an option that it has no use for, a pattern that matches
            no set, scores that are not finite, a target that cannot be reached, an output that is not finite
            afterwards, or a structure that could not be saved. The model is unchanged then.

    Source:
        DCP-GAN, CAGAN, StyleKD, Diff-Pruning and Singular Value Scaling, in the rules of their published code.
    """
    config, model = config or PruneConfig(), network_of(model)
    rule = rule_of(model)
    if packed_modules(model):
        raise ValueError("prune_: the model is quantized; prune before quantizing, or dequantize_ first.")
    if rule.config is None and (config.compensate_gain or config.keep_affine_bias):
        raise ValueError(
            f"prune_: compensate_gain and keep_affine_bias are for generators with gains and affine layers; a "
            f"{type(model).__name__} has none."
        )
    criterion = config.build_criterion()
    sets = rule.sets(model)
    uses = weight_uses(model)
    counts = kept_counts(model, rule, sets, config, uses)
    state, before = model.state_dict(), model.num_parameters()
    widths = {channels.name: channels.width for channels in sets}
    macs = [macs_of_shapes(uses, shapes_after(state, sets, each)) for each in (widths, counts)]
    if counts == widths:
        kept = {channels.name: torch.arange(channels.width) for channels in sets}
    else:
        kept = kept_channels(criterion, model, sets, counts, config)
    pruned = build(model, rule, sets, kept, config)
    _verify(pruned)
    if rule.config is None:
        from ..integration.diffusers import attach_structure

        attach_structure(pruned)
    if single := _newly_single(model, pruned):
        logger.warning(
            "prune_: %d group norms are left with one channel per group, among them %s: such a norm takes the mean of "
            "every channel away. A lower ratio or group_rule='whole_groups' avoids it.",
            len(single),
            single[-1],
        )
    _exchange(model, pruned, rule)
    found = tuple(
        PrunedSet(channels.name, channels.width, len(kept[channels.name]), tuple(kept[channels.name].tolist()))
        for channels in sets
    )
    options = config.to_dict() | {"kept": {each.name: list(each.kept) for each in found}}
    record_step(model, Step("prune", options, origin_of(model)))
    return PruneReport(config.criterion_name, found, before, model.num_parameters(), *macs)


@torch.no_grad()
def _verify(model: nn.Module) -> None:
    """One forward pass; the error names the first module whose output is not finite."""
    broken: list[str] = []

    def look(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and not torch.isfinite(output).all():
            broken.append(name)

    args, kwargs = example_inputs(model)
    with evaluating(model), watching({name: module for name, module in model.named_modules() if name}, look):
        look("the output", model, args, model(*args, **kwargs).sample)
    if broken:
        raise ValueError(f"prune_: {broken[0]} is not finite after pruning; nothing was changed.")


def _newly_single(model: nn.Module, pruned: nn.Module) -> list[str]:
    """Group norms with one channel per group that had more."""
    pairs = zip(model.named_modules(), pruned.modules())
    norms = [
        (n, old, new) for (n, old), new in pairs if isinstance(old, nn.GroupNorm) and isinstance(new, nn.GroupNorm)
    ]
    return [name for name, old, new in norms if new.num_channels == new.num_groups < old.num_channels]


def _exchange(model: ModelMixin, pruned: ModelMixin, rule: PruningRule) -> None:
    """Put the pruned parts into the model, and their widths, or their structure, into its config."""
    names = [rule.part] if rule.part else [name for name, _ in pruned.named_children()]
    for name in names:
        setattr(model, name, getattr(pruned, name))
    if rule.part and hasattr(pruned, "mapping"):
        model.mapping.load_state_dict(pruned.mapping.state_dict())
    changed = {
        key: value
        for key, value in pruned.config.items()
        # Any two quantization configs of diffusers are equal: they are dataclasses without fields.
        if not key.startswith("_") and (key == "quantization_config" or model.config.get(key) != value)
    }
    model.register_to_config(**changed)
