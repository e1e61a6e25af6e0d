# SPDX-License-Identifier: Apache-2.0
"""A codebook that follows features by exponential moving averages, identical on every process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


_STATE = ("embed", "embed_avg", "cluster_size")


@dataclass
class Collected:
    """Statistics of forward passes that did not yet move a codebook.

    Args:
        statistics: (K, 1 + C): counts and sums of the features of every code.
        rows: (R, C): R <= K features drawn from all that were seen, each with equal probability; none where codes are
            not revived.
        keys: (R,) random numbers of the draw: the largest stay.
    """

    statistics: Tensor
    rows: Tensor
    keys: Tensor

    def add(self, other: Collected) -> Collected:
        """Of both; the rows stay K."""
        keys = torch.cat([self.keys, other.keys])
        kept = keys.topk(min(len(self.statistics), len(keys))).indices
        rows = torch.cat([self.rows, other.rows])[kept]
        return Collected(self.statistics + other.statistics, rows, keys[kept])


class MovingCodebook(nn.Module):
    r"""Codes e (K, C) with moving averages of counts N (K,) and sums m (K, C).

    With n_k features assigned to code k, of sum s_k (summed over processes):
    :math:`N_k \leftarrow \lambda N_k + (1 - \lambda) n_k`, :math:`m_k \leftarrow \lambda m_k + (1 - \lambda) s_k`,
    :math:`e_k = m_k / \hat N_k` with Laplace-smoothed counts.

    The options are those of :class:`.FeatureQuantizer`.

    Source:
        Zhao et al., "Feature Quantization Improves GAN Training", equation 8.
    """

    eps = 1e-5  # smoothing of the counts
    decay: float
    init: str
    init_state: str
    settle_steps: int
    revive_below: float
    follow: bool
    accumulate: str
    embed: Tensor
    embed_avg: Tensor
    cluster_size: Tensor
    num_updates: Tensor
    initted: Tensor

    def __init__(self, dim: int, num_codes: int, **options: Any):
        super().__init__()
        self.dim, self.num_codes = dim, num_codes
        for name, value in options.items():
            setattr(self, name, value)
        bound = (6 / (num_codes * dim)) ** 0.5
        embed = torch.randn(num_codes, dim)
        if self.init == "kaiming":
            embed = torch.rand(num_codes, dim) * 2 * bound - bound
        self.register_buffer("embed", embed)
        self.register_buffer("embed_avg", torch.zeros_like(embed) if self.init_state == "zero" else embed.clone())
        self.register_buffer("cluster_size", torch.full((num_codes,), float(self.init_state == "consistent")))
        self.register_buffer("num_updates", torch.zeros([], dtype=torch.int64))
        self.register_buffer("initted", torch.zeros([], dtype=torch.bool))
        self.pending: Collected | None = None
        self.scale: Tensor | None = None  # (2, C) mean and standard deviation of the first features of the last update
        self.last_counts: Tensor | None = None  # (K,) of the last update

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MovingCodebook:
        """Move, but keep the averages in float32 when the model is cast."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own
        for name, value in before.items():
            moved = self._buffers[name]
            if value is not None and moved is not None and moved.dtype != value.dtype:
                self._buffers[name] = value.to(moved.device)
        return self

    @torch.no_grad()
    def update_(self) -> None:
        """Move the codebook by the collected statistics; for ``accumulate="step"``, once per optimizer step, on every
        process.
        """
        found, self.pending = self.pending, None
        self._blend(found or self._collected(self.embed.new_zeros(self.num_codes, self.dim + 1), self.embed[:0]))

    @property
    def started(self) -> bool:
        """Whether the codes are in use: the network has settled."""
        return int(self.num_updates) >= self.settle_steps

    @property
    def distributed(self) -> bool:
        """Whether there are other processes with this codebook."""
        return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

    @torch.no_grad()
    def _initialize(self, flat: Tensor) -> None:
        """At the first training forward: codes from the data where asked, and rank 0's state everywhere."""
        if not self.training or bool(self.initted):
            return
        if self.init == "data" and self.started and len(flat):
            chosen = torch.randint(len(flat), (self.num_codes,), device=flat.device)
            self.embed.copy_(flat[chosen])
            if self.init_state != "zero":
                self.embed_avg.copy_(self.embed)
        if self.distributed:
            for name in _STATE:
                dist.broadcast(getattr(self, name), 0)
        self.initted.fill_(True)

    @torch.no_grad()
    def _follow(self, flat: Tensor) -> None:
        """Before the first features (N, C) of an update are matched: move the codes as mean and spread of every
        channel have moved.

        A step of the optimizer moves all features of a layer by up to their own spread, further than moving averages
        follow: all of them would be nearest to the same few codes.
        """
        count = torch.full((1, self.dim), float(len(flat)), dtype=torch.float64, device=flat.device)
        var, mean = torch.var_mean(flat, dim=0, correction=0) if len(flat) else (flat.new_zeros(self.dim),) * 2
        moments = count * torch.stack([torch.ones_like(mean), mean, var + mean.double().square()]).double()
        if self.distributed:
            dist.all_reduce(moments)
        if not float(moments[0, 0]):
            return
        mean, square = moments[1:] / moments[0]
        var = (square - mean.square()).clamp_min(0)
        scale = torch.stack([mean, (var + 1e-3 * var.mean() + 1e-12).sqrt()]).float()
        if self.scale is not None and self.started:
            (old, old_spread), (new, new_spread) = self.scale, scale
            ratio, mass = new_spread / old_spread, self.cluster_size[:, None]
            self.embed.copy_(new + (self.embed - old) * ratio)
            self.embed_avg.copy_(new * mass + (self.embed_avg - old * mass) * ratio)
        self.scale = scale

    def _collected(self, statistics: Tensor, flat: Tensor) -> Collected:
        if not self.revive_below and self.started:
            flat = flat[:0]
        keys = torch.rand(len(flat), device=flat.device)
        kept = keys.topk(min(self.num_codes, len(flat))).indices
        return Collected(statistics, flat[kept], keys[kept])

    @torch.no_grad()
    def _collect(self, statistics: Tensor, flat: Tensor) -> None:
        """Take in counts and sums (K, 1 + C) of the features (N, C) of a forward pass."""
        found = self._collected(statistics, flat)
        if self.accumulate == "step":
            self.pending = found if self.pending is None else self.pending.add(found)
        else:
            self._blend(found)

    def _blend(self, found: Collected) -> None:
        """Equation 8 with counts and sums of all processes; while the network settles, only count."""
        statistics = found.statistics
        if self.distributed:
            dist.all_reduce(statistics)  # a sum: one message per update
        counts, sums = statistics[:, 0], statistics[:, 1:]
        if not float(counts.sum()):
            return
        settling = not self.started
        self.num_updates += 1
        if settling:
            if self.init == "data" and self.started:
                self._move(torch.ones_like(counts, dtype=torch.bool), found.rows, counts.mean())
            return
        self.last_counts = counts
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.embed_avg.lerp_(sums, 1 - self.decay)
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + self.eps) / (total + self.num_codes * self.eps) * total
        codes = self.embed_avg / smoothed[:, None]
        if self.init_state == "zero":
            codes = torch.where(self.cluster_size[:, None] > 0, codes, self.embed)
        self.embed.copy_(codes)
        if self.revive_below > 0:
            self._move(self.cluster_size < self.revive_below * counts.mean(), found.rows, counts.mean())

    def _move(self, dead: Tensor, rows: Tensor, count: Tensor) -> None:
        """Move codes (K,), the same on every process, to random features of rank 0, each to another as long as there
        are some.

        They start with the mean count: as slow as the others, and alive for as long as these would be without features.
        """
        number = int(dead.sum())
        if not number:
            return
        rows = rows if len(rows) else self.embed
        order = torch.randperm(len(rows), device=rows.device)
        moved = rows[order.repeat(-(-number // len(rows)))[:number]]
        if self.distributed:
            dist.broadcast(moved, 0)
        self.embed[dead] = moved
        self.embed_avg[dead] = moved * count
        self.cluster_size[dead] = count


def running_perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of running counts (K,): 1 for one code in use, K for all alike."""
    shares = counts.double() / counts.double().sum().clamp_min(1e-12)
    return torch.special.entr(shares).sum().exp()
