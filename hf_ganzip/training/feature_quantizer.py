# SPDX-License-Identifier: Apache-2.0
"""Feature quantization of GAN discriminators (Zhao et al., "Feature Quantization Improves GAN Training", ICML 2020).

Every position of a feature map is matched with the nearest of K codes; the codes follow the features by exponential moving
averages, identical on every process. A commitment loss pulls features towards their codes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from ..registry import lookup


PRESETS: dict[str, dict[str, Any]] = {
    # Equations 6-9 and section 3.3: quantized features go on after a warm-up, the weight grows; updates in discriminator steps.
    "paper": {
        "feed": "quantized",
        "warmup_steps": 1000,
        "anneal_steps": 1000,
        "update_on": "d",
        "init_state": "consistent",
        "decay": 0.9,
        "weight": 0.25,
    },
    # What the released code does: continuous features go on always, updates in every training-mode forward.
    "official": {
        "feed": "continuous",
        "warmup_steps": 0,
        "anneal_steps": 0,
        "update_on": "d+g",
        "init_state": "official",
        "decay": 0.8,
        "weight": 0.5,
    },
}
_CHOICES = {
    "feed": ("quantized", "continuous"),
    "update_on": ("d", "d+g"),
    "init": ("normal", "kaiming", "data"),
    "init_state": ("consistent", "official", "zero"),
    "accumulate": ("forward", "step"),
}
_STATE = ("embed", "embed_avg", "cluster_size")


@dataclass(frozen=True)
class FeatureQuantizerOutput:
    """Result of a :class:`FeatureQuantizer`.

    Args:
        output: What the next layer gets, in shape and dtype of the input.
        indices: Code of every position, int64: (B, H, W), (B, L) or (N,).
        loss: Weighted commitment loss of every sample (B,), float32; (1,) for an input of rows.
        perplexity: exp of the entropy of the codes in this call, float32 scalar; 1 to min(K, positions).
        codes_used: Number of codes in this call, int64 scalar.
    """

    output: Tensor
    indices: Tensor
    loss: Tensor
    perplexity: Tensor
    codes_used: Tensor


class FeatureQuantizer(nn.Module):
    r"""Codebook e (K, C) for features h.

    With n_k features assigned to code k, of sum s_k (summed over processes):
    :math:`N_k \leftarrow \lambda N_k + (1 - \lambda) n_k`, :math:`m_k \leftarrow \lambda m_k + (1 - \lambda) s_k`,
    :math:`e_k = m_k / \hat N_k` with Laplace-smoothed counts (paper, equation 8). Output: h, or the code of h with the gradient of h
    (straight-through). Loss of a sample: weight times the mean of (code - h)^2 over channels and positions (equation 7).

    Args:
        dim: C, channels of the features.
        num_codes: K.
        preset: "paper" or "official": values of the options below that are None; see ``PRESETS``.
        decay: lambda, 0 to 1.
        weight: Of the loss: alpha * beta of the paper.
        feed: "quantized" or "continuous" features go on to the next layer.
        warmup_steps: Updates during which continuous features go on.
        anneal_steps: Updates over which the weight grows from 0.
        update_on: "d" (discriminator steps) or "d+g"; see :func:`phase`.
        init: Codes at the start: "normal", "kaiming" (uniform, bound sqrt(6 / (K C))) or "data" (features of the first batch).
        init_state: Averages at the start: "consistent" (N = 1, m = e), "official" (N = 0, m = e) or "zero" (N = m = 0; codes that were
            never used stay where they are).
        revive_below: Codes with N_k below it are moved to random features of the batch, with N_k = 1; 0 turns that off.
        accumulate: "forward": every forward updates; "step": statistics are collected until :func:`update_codebooks_`.
        sync: Sum statistics over processes, when there are any.
        process_group: Of the sum; None: all.
        eps: Smoothing of the counts.
        chunk: Entries of the distance matrix that are in memory at a time.

    Raises:
        ValueError: An option is not allowed.

    Example:
        >>> quantizer = FeatureQuantizer(8, 16, preset="official")
        >>> found = quantizer(torch.randn(2, 8, 4, 4))
        >>> found.output.shape, found.indices.shape, found.loss.shape
        (torch.Size([2, 8, 4, 4]), torch.Size([2, 4, 4]), torch.Size([2]))
    """

    def __init__(
        self,
        dim: int,
        num_codes: int,
        preset: str = "paper",
        *,
        decay: float | None = None,
        weight: float | None = None,
        feed: str | None = None,
        warmup_steps: int | None = None,
        anneal_steps: int | None = None,
        update_on: str | None = None,
        init: str = "normal",
        init_state: str | None = None,
        revive_below: float = 0.0,
        accumulate: str = "forward",
        sync: bool = True,
        process_group: Any = None,
        eps: float = 1e-5,
        chunk: int = 2**20,
    ):
        super().__init__()
        given = {"decay": decay, "weight": weight, "feed": feed, "warmup_steps": warmup_steps}
        given |= {"anneal_steps": anneal_steps, "update_on": update_on, "init_state": init_state}
        options = lookup(PRESETS, preset, "preset") | {k: v for k, v in given.items() if v is not None}
        options |= {"init": init, "accumulate": accumulate}
        problems = [
            f"{name} is {options[name]!r}; allowed are {', '.join(allowed)}"
            for name, allowed in _CHOICES.items()
            if options[name] not in allowed
        ]
        if dim < 1 or num_codes < 1:
            problems.append(f"dim is {dim}, num_codes {num_codes}; allowed are 1 and more")
        if not 0 <= options["decay"] <= 1:
            problems.append(f"decay is {options['decay']}; allowed is 0 to 1")
        if problems:
            raise ValueError(f"FeatureQuantizer: {'; '.join(problems)}.")
        self.dim, self.num_codes, self.eps, self.chunk = dim, num_codes, eps, chunk
        self.revive_below, self.sync, self.process_group = revive_below, sync, process_group
        for name, value in options.items():
            setattr(self, name, value)
        bound = (6 / (num_codes * dim)) ** 0.5
        embed = torch.randn(num_codes, dim)
        if init == "kaiming":
            embed = torch.rand(num_codes, dim) * 2 * bound - bound
        self.register_buffer("embed", embed)
        self.register_buffer("embed_avg", torch.zeros_like(embed) if self.init_state == "zero" else embed.clone())
        self.register_buffer("cluster_size", torch.full((num_codes,), float(self.init_state == "consistent")))
        self.register_buffer("num_updates", torch.zeros([], dtype=torch.int64))
        self.register_buffer("num_nonfinite", torch.zeros([], dtype=torch.int64))
        self.register_buffer("initted", torch.zeros([], dtype=torch.bool))
        self.phase = "d"
        self._pending: Tensor | None = None

    def _apply(self, fn, recurse=True):
        """Move, but keep the averages in float32 when the model is cast."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, value in before.items():
            moved = self._buffers[name]
            if moved.dtype != value.dtype:
                self._buffers[name] = value.to(moved.device)
        return self

    def forward(self, h: Tensor) -> FeatureQuantizerOutput:
        """Quantize features.

        Args:
            h: Float (B, C, H, W), (B, L, C) or (N, C).

        Raises:
            TypeError: Integer features.
            ValueError: Another number of channels or dimensions.
        """
        channel = 1 if h.ndim == 4 else h.ndim - 1
        if not h.is_floating_point():
            raise TypeError(f"FeatureQuantizer: features are {h.dtype}; allowed are floating-point ones.")
        if h.ndim not in (2, 3, 4) or h.shape[channel] != self.dim:
            raise ValueError(
                f"FeatureQuantizer: features have shape {tuple(h.shape)}; allowed are (B, {self.dim}, H, W), "
                f"(B, L, {self.dim}) and (N, {self.dim})."
            )
        with torch.autocast(h.device.type, enabled=False):
            rows = (h.movedim(1, -1) if h.ndim == 4 else h).float()
            flat = rows.reshape(-1, self.dim)
            # A finite sum has finite terms, and costs a tenth of a look at each of them.
            whole = bool(flat.detach().sum().isfinite()) or bool(flat.detach().isfinite().all())
            finite = None if whole else flat.detach().isfinite().all(dim=1)
            clean = flat if whole else torch.where(finite[:, None], flat, 0.0)
            seen = clean.detach() if whole else clean.detach()[finite]
            self._initialize(seen)
            indices = self._nearest(clean.detach())
            codes = self.embed[indices]
            continuous = self.feed == "continuous" or int(self.num_updates) < self.warmup_steps
            loss = self._loss(codes, clean, finite, 1 if h.ndim == 2 else len(h))
            shape = rows.shape
            if continuous:
                output = h
            else:
                values = codes.view(shape)
                values = (values.movedim(-1, 1) if h.ndim == 4 else values).to(h.dtype)
                output = values + (h - h.detach())  # exactly the code, with the gradient of h
            chosen = indices if whole else indices[finite]
            counts = torch.bincount(chosen, minlength=self.num_codes).float()
            if self.updating:
                sums = torch.zeros_like(self.embed).index_add_(0, chosen, seen)
                self.num_nonfinite += len(flat) - len(chosen)
                self._collect(torch.cat([counts[:, None], sums], dim=1), seen)
        share = counts / counts.sum().clamp_min(1)
        perplexity = (-(share * (share + 1e-10).log()).sum()).exp()
        return FeatureQuantizerOutput(
            output=output,
            indices=indices.view(shape[:-1]),
            loss=loss,
            perplexity=perplexity,
            codes_used=(counts > 0).sum(),
        )

    @property
    def updating(self) -> bool:
        """Whether a forward pass moves the codebook: in training mode, in a phase that ``update_on`` names."""
        return self.training and self.phase in self.update_on.split("+")

    @property
    def current_weight(self) -> float:
        """Weight of the loss at this step."""
        return self.weight * min(1.0, int(self.num_updates) / self.anneal_steps) if self.anneal_steps else self.weight

    @torch.no_grad()
    def update_(self) -> None:
        """Move the codebook by the collected statistics; for ``accumulate="step"``, once per optimizer step, on every process."""
        statistics = self._pending if self._pending is not None else self.embed.new_zeros(self.num_codes, self.dim + 1)
        self._pending = None
        self._blend(statistics, None)

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.num_codes}, feed={self.feed}, decay={self.decay}, weight={self.weight}"

    # -- parts --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _nearest(self, flat: Tensor) -> Tensor:
        """Index of the nearest code of every row (N, C), the lowest at ties."""
        square = self.embed.square().sum(dim=1)
        step = max(1, self.chunk // self.num_codes)
        found = [torch.addmm(square, part, self.embed.T, alpha=-2).argmin(dim=1) for part in flat.split(step)]
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=flat.device)

    def _loss(self, codes: Tensor, flat: Tensor, finite: Tensor | None, samples: int) -> Tensor:
        error = functional.mse_loss(flat, codes, reduction="none")
        if finite is not None:
            error = error * finite[:, None]
        if not samples or not len(flat):
            return error.sum() * 0 + flat.new_zeros(samples)
        return error.unflatten(0, (samples, -1)).mean(dim=(1, 2)) * self.current_weight

    @property
    def _distributed(self) -> bool:
        return (
            self.sync and dist.is_available() and dist.is_initialized() and dist.get_world_size(self.process_group) > 1
        )

    @torch.no_grad()
    def _initialize(self, flat: Tensor) -> None:
        """At the first training forward: codes from the data where asked, and rank 0's state everywhere."""
        if not self.training or bool(self.initted):
            return
        if self.init == "data" and len(flat):
            chosen = torch.randint(len(flat), (self.num_codes,), device=flat.device)
            self.embed.copy_(flat[chosen])
            if self.init_state != "zero":
                self.embed_avg.copy_(self.embed)
        if self._distributed:
            for name in _STATE:
                self._broadcast(getattr(self, name))
        self.initted.fill_(True)

    def _broadcast(self, tensor: Tensor) -> None:
        source = dist.get_global_rank(self.process_group, 0) if self.process_group is not None else 0
        dist.broadcast(tensor, source, group=self.process_group)

    @torch.no_grad()
    def _collect(self, statistics: Tensor, flat: Tensor) -> None:
        if self.accumulate == "step":
            self._pending = statistics if self._pending is None else self._pending + statistics
        else:
            self._blend(statistics, flat)

    def _blend(self, statistics: Tensor, flat: Tensor | None) -> None:
        """Equation 8 with counts (K, 1) and sums (K, C) of all processes."""
        if self._distributed:
            dist.all_reduce(statistics, group=self.process_group)  # a sum: one message per update
        counts, sums = statistics[:, 0], statistics[:, 1:]
        if not float(counts.sum()):
            return
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.embed_avg.lerp_(sums, 1 - self.decay)
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + self.eps) / (total + self.num_codes * self.eps) * total
        found = self.embed_avg / smoothed[:, None]
        if self.init_state == "zero":
            found = torch.where(self.cluster_size[:, None] > 0, found, self.embed)
        self.embed.copy_(found)
        self.num_updates += 1
        if self.revive_below > 0:
            self._revive(flat)

    def _revive(self, flat: Tensor | None) -> None:
        """Move dead codes, the same on every process, to features of rank 0's batch (or to live codes without one)."""
        dead = self.cluster_size < self.revive_below
        if not bool(dead.any()):
            return
        pool = flat if flat is not None and len(flat) else self.embed[~dead]
        pool = pool if len(pool) else self.embed
        moved = pool[torch.randint(len(pool), (int(dead.sum()),), device=pool.device)].clone()
        if self._distributed:
            self._broadcast(moved)
        self.embed[dead] = moved
        self.embed_avg[dead] = moved
        self.cluster_size[dead] = 1.0


@contextlib.contextmanager
def phase(model: nn.Module, name: str) -> Iterator[None]:
    """Say what the forward passes of the context are for: "d", "g", or "frozen" (no codebook moves: R1, evaluation).

    Raises:
        ValueError: Another name.
    """
    if name not in ("d", "g", "frozen"):
        raise ValueError(f"phase is {name!r}; allowed are d, g, frozen.")
    quantizers = [module for module in model.modules() if isinstance(module, FeatureQuantizer)]
    before = [quantizer.phase for quantizer in quantizers]
    try:
        for quantizer in quantizers:
            quantizer.phase = name
        yield
    finally:
        for quantizer, old in zip(quantizers, before):
            quantizer.phase = old


def update_codebooks_(model: nn.Module) -> None:
    """Call :meth:`FeatureQuantizer.update_` of every quantizer with ``accumulate="step"``."""
    for module in model.modules():
        if isinstance(module, FeatureQuantizer) and module.accumulate == "step":
            module.update_()


def running_perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of running counts (K,): 1 for one code in use, K for all alike."""
    shares = counts.double() / counts.double().sum().clamp_min(1e-12)
    return (-(shares * shares.clamp_min(1e-300).log()).sum()).exp()


@torch.no_grad()
def effective_codes(model: nn.Module) -> Tensor:
    """:func:`running_perplexity` as mean over the model's codebooks: a scalar for the log."""
    found = [running_perplexity(m.cluster_size) for m in model.modules() if isinstance(m, FeatureQuantizer)]
    return torch.stack(found).mean()


def from_official_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of one official layer (``embed`` and ``embed_avg`` are (C, K) there) as ours."""
    found = {name: state[name] for name in _STATE}
    found |= {name: state[name].T.contiguous() for name in ("embed", "embed_avg")}
    return found | _counters(found["cluster_size"])


def to_official_state(quantizer: FeatureQuantizer) -> dict[str, Tensor]:
    """The inverse of :func:`from_official_state`."""
    turned = {name: getattr(quantizer, name).T.contiguous() for name in ("embed", "embed_avg")}
    return turned | {"cluster_size": quantizer.cluster_size.clone()}


def from_vector_quantize_pytorch(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of ``vector_quantize_pytorch.VectorQuantize`` with one codebook as ours."""
    found = {name: state[f"_codebook.{name}"].squeeze(0).clone() for name in _STATE}
    return found | _counters(found["cluster_size"])


def to_vector_quantize_pytorch(quantizer: FeatureQuantizer) -> dict[str, Tensor]:
    """The inverse of :func:`from_vector_quantize_pytorch`."""
    found = {f"_codebook.{name}": getattr(quantizer, name)[None].clone() for name in _STATE}
    return found | {"_codebook.initted": torch.ones(1)}


def _counters(like: Tensor) -> dict[str, Tensor]:
    return {
        "num_updates": torch.zeros([], dtype=torch.int64, device=like.device),
        "num_nonfinite": torch.zeros([], dtype=torch.int64, device=like.device),
        "initted": torch.ones([], dtype=torch.bool, device=like.device),
    }
