# SPDX-License-Identifier: Apache-2.0
"""Bits where they matter, without calibration: layers that are small or known to be sensitive get more, as many as a
small share of all bytes pays for.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping


_HIGHEST = 8
_FULL = 32  # what a weight left alone is counted with
_LEAVE_ALONE = 2  # bits above the highest from which on a layer is left alone
_SENSITIVE = 2  # bits that a sensitive layer is ahead of others of its size


def spread_bits(
    sizes: Mapping[str, int], bits: Mapping[str, int], share: float, sensitive: Collection[str] = ()
) -> dict[str, int | None]:
    r"""Bits of every layer, none below what is asked; None: left in full precision.

    The error of an output, :math:`\sum_l s_l 4^{-b_l}`, is least under a budget of :math:`\sum_l n_l b_l` bits for
    :math:`b_l = c + \tfrac{1}{2} \log_2 (s_l / n_l)` (reverse water-filling). Without calibration nothing is known of
    the sensitivities :math:`s_l` of most layers; taken as equal, they leave half a bit for every halving of the size
    :math:`n_l`. Those of the sensitive ones are taken as 16 times as large: two bits. :math:`c` is the largest that
    keeps within the budget, layers of one size together. Layers that would get 10 bits and more are left alone.

    Args:
        sizes: Number of weights of every layer.
        bits: Asked bits of every layer, 2 to 8.
        share: Budget on top of the bits asked, as a share of them.
        sensitive: Names of sensitive layers (:func:`~hf_ganzip.families.sensitive_layers`).

    Source:
        Cover and Thomas, "Elements of information theory", section 10.3.3.

    Example:
        >>> spread_bits({"in": 288, "middle": 100_000, "out": 4096}, dict.fromkeys(["in", "middle", "out"], 4), 0.1)
        {'in': 8, 'middle': 4, 'out': 7}
    """
    found: dict[str, int | None] = dict(bits)
    left = share * sum(sizes[name] * bits[name] for name in sizes)
    steps: dict[float, dict[str, int | None]] = {}
    for name, size in sizes.items():
        levels = [*range(bits[name] + 1, _HIGHEST + 1), _HIGHEST + _LEAVE_ALONE]
        for level in levels:
            threshold = level + math.log2(size) / 2 - _SENSITIVE * (name in sensitive)
            steps.setdefault(threshold, {})[name] = level if level <= _HIGHEST else None
    for _, group in sorted(steps.items()):
        left -= sum(sizes[name] * ((after or _FULL) - (found[name] or _FULL)) for name, after in group.items())
        if left < 0:
            break
        found |= group
    return found
