# SPDX-License-Identifier: Apache-2.0
"""Remove whole channels of a model in place: plan, score, choose, cut, verify, record."""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..families import family_of
from ..macs import macs_of_shapes, weight_uses
from ..quantization.packed import packed_modules
from ..record import Step, origin_of, record_step, table
from ..registry import lookup
from ..structure import set_tensor_, update_attributes_
from .channels import ChannelSet, PruningRule, cut, shapes_after
from .criteria import CRITERIA
from .rules import rule_of


INHERIT = ("all", "mapping")
INITS = ("keep", "he", "xavier")
GROUP_RULES = ("blocks", "same_positions", "exact")


@dataclass(frozen=True)
class PruneConfig:
    """Options of :func:`prune_`.

    Args:
        criterion: Key of ``CRITERIA``, or an object called with (model, channel sets) -> {set name: scores (C,)}.
        ratio: Share of the channels of every set that is removed, 0 <= ratio < 1.
        ratios: Glob pattern of set names -> ratio, where it differs.
        max_params: Find the least uniform ratio with at most so many parameters, instead of ``ratio``.
        max_macs: The same for :func:`.count_macs`.
        multiple_of: Round kept counts up to multiples of it.
        inherit: "all" weights, or "mapping": the mapping network only (StyleKD); the rest is freshly initialized.
        init: "keep", or the synthesis network is drawn again: "he" (Kaiming normal) or "xavier" (uniform), all its biases 0.
        keep_affine_bias: With ``init``, leave the biases of affine layers at 1.
        group_rule: Channels under a group norm. "blocks": every group loses its own n // G least important channels, so that less than the ratio goes
            (Diff-Pruning's code). "same_positions": the same positions of every group, by mean importance, rounded the other way
            (torch-pruning). "exact": as if there were no groups; their number becomes the largest divisor of both.
        compensate_gain: Multiply weights whose run-time gain depends on the number of input channels (the StyleGANs' image outputs and
            residual shortcuts) by sqrt(C' / C), so that what stays computes what it did. The published code does not.
        criterion_options: Options of a criterion given by name.
        seed: Of fresh weights.
    """

    criterion: Any = "magnitude"
    ratio: float = 0.7
    ratios: Mapping[str, float] = field(default_factory=dict)
    max_params: int | None = None
    max_macs: int | None = None
    multiple_of: int = 1
    inherit: str = "all"
    init: str = "keep"
    keep_affine_bias: bool = False
    group_rule: str = "blocks"
    compensate_gain: bool = False
    criterion_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self):
        problems = [
            f"{name} is {value}; allowed is 0 <= ratio < 1"
            for name, value in {"ratio": self.ratio, **self.ratios}.items()
            if not 0 <= value < 1
        ]
        if self.multiple_of < 1:
            problems.append(f"multiple_of is {self.multiple_of}; allowed are 1 and more")
        if self.group_rule not in GROUP_RULES:
            problems.append(f"group_rule is {self.group_rule!r}; allowed are {GROUP_RULES}")
        if self.max_params is not None and self.max_macs is not None:
            problems.append("max_params and max_macs are both given; allowed is one of them")
        if self.inherit not in INHERIT or self.init not in INITS:
            problems.append(f"inherit is {self.inherit!r}, init {self.init!r}; allowed are {INHERIT} and {INITS}")
        if problems:
            raise ValueError(f"PruneConfig: {'; '.join(problems)}.")
        if isinstance(self.criterion, str):
            lookup(CRITERIA, self.criterion, "criterion")

    def build_criterion(self) -> Any:
        """The criterion as an object.

        Raises:
            ValueError: It does not take these options.
        """
        if not isinstance(self.criterion, str):
            return self.criterion
        try:
            return CRITERIA[self.criterion](**self.criterion_options)
        except TypeError as error:
            raise ValueError(f"criterion {self.criterion!r}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """For the record."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["criterion"] = self.criterion if isinstance(self.criterion, str) else type(self.criterion).__name__
        options = self.criterion_options
        if dataclasses.is_dataclass(self.criterion):
            criterion = self.criterion
            options = {f.name: getattr(criterion, f.name) for f in dataclasses.fields(criterion)}
        kind = CRITERIA[self.criterion] if isinstance(self.criterion, str) else type(self.criterion)
        known = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        hidden = {f.name for f in known if not f.metadata.get("recorded", True)}
        options = {key: _recorded(value) for key, value in options.items() if key not in hidden}
        return values | {"ratios": dict(self.ratios), "criterion_options": dict(options)}


def _recorded(value: Any) -> Any:
    """JSON types as they are, a function by its name."""
    return getattr(value, "__name__", type(value).__name__) if callable(value) else value


@dataclass(frozen=True)
class PrunedSet:
    """What happened to one channel set: its name, widths before and after, and the indices that stayed."""

    name: str
    before: int
    after: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class PruneReport:
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

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [("channels", "before", "after", "removed")]
        rows += [(s.name, f"{s.before}", f"{s.after}", f"{1 - s.after / s.before:.0%}") for s in self.sets]
        change = f"{self.parameters_before:,} -> {self.parameters_after:,} parameters"
        change += f", {self.macs_before / 1e6:,.1f} -> {self.macs_after / 1e6:,.1f} million operations"
        note = "; nothing was removed" if self.parameters_before == self.parameters_after else ""
        return "\n".join(table(rows)) + f"\n{change} by {self.criterion}{note}"


def prune_(model: nn.Module, config: PruneConfig | None = None) -> PruneReport:
    """Remove channels of a model in place. Widths go into its config, so it is saved and restored as any other model.

    Args:
        model: Model in full precision of a class with a rule: StyleGAN2, StyleGAN3, BigGAN without attention, diffusers' ``UNet2DModel`` and
            ``UNet2DConditionModel``.
        config: Options.

    Returns:
        Widths before and after, and which channels stayed.

    Raises:
        ValueError: No rule for the class, a quantized model, a pattern that matches no set, scores that are not finite, a target that cannot be
            reached, or an output that is not finite afterwards. The model is unchanged then.

    Source:
        DCP-GAN, CAGAN, StyleKD, Diff-Pruning and Singular Value Scaling, in the rules of their published code.
    """
    config = config or PruneConfig()
    rule = rule_of(model)
    if packed_modules(model):
        raise ValueError("prune_: the model is quantized; prune before quantizing, or dequantize_ first.")
    criterion = config.build_criterion()
    sets = rule.sets(model)
    uses = weight_uses(model)
    counts = _plan(model, rule, sets, config, uses)
    state, before = model.state_dict(), model.num_parameters()
    widths = {channels.name: channels.width for channels in sets}
    macs = [macs_of_shapes(uses, shapes_after(state, sets, each)) for each in (widths, counts)]
    if counts == widths:
        kept = {channels.name: torch.arange(channels.width) for channels in sets}
    else:
        kept = _choose(criterion, model, sets, counts, config)
    pruned = _build(model, rule, sets, kept, config)
    _verify(pruned, rule)
    _exchange(model, pruned, rule)
    found = tuple(
        PrunedSet(channels.name, channels.width, len(kept[channels.name]), tuple(kept[channels.name].tolist()))
        for channels in sets
    )
    if rule.config is None:
        from ..integration.diffusers import attach_structure

        attach_structure(model)
    options = config.to_dict() | {"kept": {each.name: list(each.kept) for each in found}}
    record_step(model, Step("prune", options, origin_of(model)))
    return PruneReport(
        config.to_dict()["criterion"],
        found,
        before,
        model.num_parameters(),
        *macs,
    )


def _plan(
    model: nn.Module, rule: PruningRule, sets: list[ChannelSet], config: PruneConfig, uses: Mapping[str, int]
) -> dict[str, int]:
    """Number of channels of every set that stay."""
    names = [channels.name for channels in sets]
    unmatched = [pattern for pattern in config.ratios if not fnmatch.filter(names, pattern)]
    if unmatched:
        raise ValueError(
            f"prune_: {', '.join(map(repr, unmatched))} match no channels; there are {', '.join(names[:6])} ..."
        )

    limit = config.max_params or config.max_macs

    def counts(ratio: float) -> dict[str, int]:
        found = {}
        for channels in sets:
            own = next(
                (r for pattern, r in config.ratios.items() if fnmatch.fnmatchcase(channels.name, pattern)), ratio
            )
            found[channels.name] = _count(channels, rule, own, config)
            if limit is not None:
                found[channels.name] = max(found[channels.name], _blocks(channels, config))
            if found[channels.name] < 1:
                raise ValueError(f"prune_: ratio {own} leaves no channel of {channels.name} ({channels.width}).")
        return found

    if limit is None:
        return counts(config.ratio)
    option = "max_params" if config.max_params else "max_macs"
    state, parameters = model.state_dict(), dict(model.named_parameters())

    def size(ratio: float) -> int:
        shapes = shapes_after(state, sets, counts(ratio))
        if option == "max_macs":
            return macs_of_shapes(uses, shapes)
        return sum(math.prod(shapes[name]) for name in parameters)

    low, high = 0.0, 1 - 1 / max(channels.width for channels in sets)
    if size(high) > limit:
        raise ValueError(f"prune_: {option} {limit:,} cannot be reached; the least are {size(high):,}.")
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if size(middle) <= limit else (middle, high)
    return counts(0.0 if size(0.0) <= limit else high)


def _blocks(channels: ChannelSet, config: PruneConfig) -> int:
    return 1 if channels.norm and config.group_rule == "exact" else channels.blocks


def _count(channels: ChannelSet, rule: PruningRule, ratio: float, config: PruneConfig) -> int:
    """Number of channels of a set that stay."""
    blocks, width = _blocks(channels, config), channels.width
    if channels.norm and config.group_rule == "same_positions":
        each = int((width // blocks) * (1 - ratio)) or width // blocks  # groups that would be emptied stay whole
    else:
        each = width // blocks - (width - rule.keep(width, ratio)) // blocks
    step = config.multiple_of // math.gcd(config.multiple_of, blocks)
    return blocks * min(width // blocks, -(-each // step) * step)


def _choose(
    criterion: Any, model: nn.Module, sets: list[ChannelSet], counts: Mapping[str, int], config: PruneConfig
) -> dict[str, Tensor]:
    """Indices of the best channels of every set, ascending; of equal ones the later."""
    with torch.enable_grad():
        scores = criterion(model, sets)
    kept = {}
    for channels in sets:
        score = scores.get(channels.name)
        if score is None or score.shape != (channels.width,):
            raise ValueError(f"prune_: the criterion gives no ({channels.width},) scores for {channels.name}.")
        if not torch.isfinite(score).all():
            raise ValueError(f"prune_: the scores of {channels.name} are not finite; nothing was changed.")
        blocks = _blocks(channels, config)
        parts = score.detach().cpu().reshape(blocks, -1)
        if channels.norm and config.group_rule == "same_positions":
            parts = parts.mean(dim=0, keepdim=True).expand(blocks, -1)
        order = parts.argsort(dim=1, stable=True)[:, parts.shape[1] - counts[channels.name] // blocks :]
        starts = torch.arange(blocks)[:, None] * parts.shape[1]
        kept[channels.name] = (order + starts).flatten().sort().values
    return kept


def _options(model: nn.Module, rule: PruningRule, counts: Mapping[str, int]) -> dict[str, Any]:
    """Options of the pruned model's class."""
    own = {name: value for name, value in model.config.items() if not name.startswith("_")}
    return {**own, **rule.config(model, counts)}


def _build(
    model, rule: PruningRule, sets: list[ChannelSet], kept: Mapping[str, Tensor], config: PruneConfig
) -> nn.Module:
    if rule.config is None:
        return _build_structure(model, sets, kept, config)
    state = torch.random.get_rng_state()
    torch.manual_seed(config.seed)
    try:
        pruned = type(model)(**_options(model, rule, {name: len(index) for name, index in kept.items()}))
        values = cut(model.state_dict(), sets, kept)
        for old, new in rule.rename(model, pruned).items():
            values[new] = values.pop(old)
        if config.inherit == "mapping":
            values = {name: value for name, value in values.items() if name.startswith("mapping.")}
            if not values:
                raise ValueError(
                    f"prune_: inherit='mapping' needs a mapping network; {type(model).__name__} has none."
                )
        _load(pruned, values, strict=config.inherit == "all")
        if config.init != "keep":
            _initialize(pruned, config)
        if config.compensate_gain:
            _compensate(model, pruned)
    finally:
        torch.random.set_rng_state(state)
    for name, tensor in pruned.state_dict().items():
        if name in values and tensor.dtype != values[name].dtype:
            owner, _, leaf = name.rpartition(".")
            set_tensor_(pruned.get_submodule(owner), leaf, tensor.to(values[name].dtype))
    return pruned.to(next(model.parameters()).device).train(model.training)


def _build_structure(
    model: nn.Module, sets: list[ChannelSet], kept: Mapping[str, Tensor], config: PruneConfig
) -> nn.Module:
    """A copy with the cut tensors, whose class options stay."""
    if config.inherit != "all":
        raise ValueError(f"prune_: inherit='mapping' needs a mapping network; {type(model).__name__} has none.")
    values = cut({name: tensor.detach() for name, tensor in model.state_dict().items()}, sets, kept)
    memo = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}  # not copied
    pruned = copy.deepcopy(model, memo)
    for name, value in values.items():
        owner, _, leaf = name.rpartition(".")
        set_tensor_(pruned.get_submodule(owner), leaf, value.clone(memory_format=torch.contiguous_format))
    for module in pruned.modules():
        if isinstance(module, nn.GroupNorm) and module.affine and len(module.weight) % module.num_groups:
            module.num_groups = math.gcd(module.num_groups, len(module.weight))
    update_attributes_(pruned)
    if config.init != "keep":
        state = torch.random.get_rng_state()
        torch.manual_seed(config.seed)
        _initialize(pruned, config)
        torch.random.set_rng_state(state)
    return pruned


def _load(pruned: nn.Module, values: Mapping[str, Tensor], strict: bool) -> None:
    own = pruned.state_dict()
    wrong = [name for name in values if name not in own or own[name].shape != values[name].shape]
    wrong += [name for name in own if strict and name not in values]
    if wrong:
        raise ValueError(f"prune_: the rule does not fit: {', '.join(wrong[:5])}.")
    for name, value in values.items():
        own[name].copy_(value)


@torch.no_grad()
def _initialize(model: nn.Module, config: PruneConfig) -> None:
    """Draw the synthesis network again (Singular Value Scaling, table 7): weights by fan-in, biases 0."""
    family = family_of(model)
    prefix = family.refine_prefix if family else ""
    for name, parameter in model.named_parameters():
        if not name.startswith(prefix):
            continue
        if name.endswith("weight") and parameter.ndim >= 2:
            if config.init == "he":
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(parameter)
        elif name.endswith("bias") and not (config.keep_affine_bias and "affine" in name):
            nn.init.zeros_(parameter)


@torch.no_grad()
def _compensate(model: nn.Module, pruned: nn.Module) -> None:
    for old, new in zip(model.modules(), pruned.modules()):
        if hasattr(new, "weight_gain") or getattr(new, "is_image", False):
            new.weight.mul_(math.sqrt(new.weight.shape[1] / old.weight.shape[1]))


@torch.no_grad()
def _verify(model: nn.Module, rule: PruningRule) -> None:
    """One forward pass; the error names the first module whose output is not finite."""
    broken: list[str] = []

    def watch(name: str):
        def look(module: nn.Module, args: tuple, output: Any) -> None:
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                broken.append(name)

        return look

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    modes = {module: module.training for module in model.modules()}
    try:
        args, kwargs = family_of(model).example_inputs(model)  # type: ignore[union-attr]
        if rule.config is None:
            args = (args[0].to(model.dtype), *args[1:])
        output = model.eval()(*args, **kwargs).sample
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    if broken or not torch.isfinite(output).all():
        where = broken[0] if broken else "the output"
        raise ValueError(f"prune_: {where} is not finite after pruning; nothing was changed.")


def _exchange(model: nn.Module, pruned: nn.Module, rule: PruningRule) -> None:
    """Put the pruned parts into the model, and their widths into its config."""
    names = [rule.part] if rule.part else [name for name, _ in pruned.named_children()]
    for name in names:
        setattr(model, name, getattr(pruned, name))
    if rule.part and hasattr(pruned, "mapping"):
        model.mapping.load_state_dict(copy.deepcopy(pruned.mapping.state_dict()))
    changed = {
        key: value
        for key, value in pruned.config.items()
        if not key.startswith("_") and model.config.get(key) != value
    }
    model.register_to_config(**changed)
