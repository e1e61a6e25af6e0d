# SPDX-License-Identifier: Apache-2.0
"""Channel pruning of generators."""

from .channels import ChannelSet, PruningRule, Slice
from .config import PruneConfig
from .criteria import CRITERIA
from .prune import PrunedSet, PruneReport, prune_
from .rules import RULES


__all__ = [
    "CRITERIA",
    "RULES",
    "ChannelSet",
    "PruneConfig",
    "PruneReport",
    "PrunedSet",
    "PruningRule",
    "Slice",
    "prune_",
]
