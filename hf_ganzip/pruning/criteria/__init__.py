# SPDX-License-Identifier: Apache-2.0
"""Criteria: which channels matter. A criterion, given (model, channel sets), returns a score for every channel."""

from __future__ import annotations

from .content_aware import ContentAware
from .dcp import DCP
from .diff_prune import DiffPrune, Taylor
from .gan_slimming import GANSlimming
from .magnitude import Magnitude
from .random import Random


CRITERIA = {
    "magnitude": Magnitude,
    "random": Random,
    "dcp": DCP,
    "content_aware": ContentAware,
    "gan_slimming": GANSlimming,
    "diff_prune": DiffPrune,
    "taylor": Taylor,
}
