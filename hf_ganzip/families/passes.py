# SPDX-License-Identifier: Apache-2.0
"""What calibrates a model: passes, which run it forward on inputs of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn


Pass = Callable[[nn.Module], Tensor]  # the model -> its output (B, ...), the same each time
Calibration = Callable[[nn.Module, int, int], Iterator[Pass]]  # (model, batch size, seed) -> endless passes
