# SPDX-License-Identifier: Apache-2.0
"""Options of pruning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.registry import lookup, named_options
from .criteria import CRITERIA


INHERIT = ("all", "mapping")
INITS = ("keep", "he", "xavier")
GROUP_RULES = ("blocks", "same_positions", "exact", "whole_groups")


@named_options
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
        init: "keep", or the synthesis network is drawn again: "he" (Kaiming normal) or "xavier" (uniform), all its
            biases 0.
        keep_affine_bias: Generators, with ``init``: leave the biases of affine layers at 1.
        group_rule: Channels under a group norm. "blocks": every group loses its own n // G least important channels,
            so that less than the ratio goes (Diff-Pruning's code). "same_positions": the same positions of every
            group, by mean importance, rounded the other way (torch-pruning). "exact": as if there were no groups;
            their number becomes the largest divisor of both. "whole_groups": groups go whole, those of least mean
            importance, so that what stays is normalized as it was; the others leave groups smaller, at last of one
            channel, whose mean such a norm takes away.
        compensate_gain: Generators: multiply weights whose run-time gain depends on the number of input channels (the
            StyleGANs' image outputs and residual shortcuts) by sqrt(C' / C), so that what stays computes what it did.
            The published code does not.
        criterion_options: Options of a criterion given by name.
        seed: Of fresh weights.

    Raises:
        ValueError: An unknown name, a value out of range, or an option that would have no effect.
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

    def __post_init__(self) -> None:
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
        problems += [
            f"{name} is {value}; allowed are 1 and more"
            for name, value in {"max_params": self.max_params, "max_macs": self.max_macs}.items()
            if value is not None and value < 1
        ]
        if self.criterion_options and not isinstance(self.criterion, str):
            problems.append(
                "criterion_options belong to a criterion given by name; set them in the criterion object instead"
            )
        if self.keep_affine_bias and self.init == "keep":
            problems.append(f"keep_affine_bias belongs to init; allowed for it are {INITS[1:]}")
        if self.inherit not in INHERIT or self.init not in INITS:
            problems.append(f"inherit is {self.inherit!r}, init {self.init!r}; allowed are {INHERIT} and {INITS}")
        if problems:
            raise ValueError(f"PruneConfig: {'; '.join(problems)}.")
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

    @property
    def criterion_name(self) -> str:
        """Name of the criterion, of the function or of the object's class."""
        if isinstance(self.criterion, str):
            return self.criterion
        return str(getattr(self.criterion, "__name__", type(self.criterion).__name__))

    def to_dict(self) -> dict[str, Any]:
        """For the record."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["criterion"] = self.criterion_name
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
    return str(getattr(value, "__name__", type(value).__name__)) if callable(value) else value
