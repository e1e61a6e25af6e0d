# SPDX-License-Identifier: Apache-2.0
"""Feature quantization of GAN discriminators (Zhao et al., "Feature Quantization Improves GAN Training", ICML 2020).

Every position of a feature map is matched with the nearest of K codes; the codes follow the features by exponential
moving averages, identical on every process. A commitment loss pulls features towards their codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..core.registry import lookup
from .codebook import MovingCodebook


PRESETS: dict[str, dict[str, Any]] = {
    # Equations 6-9 and section 3.3: quantized features go on after a warm-up, the weight grows; updates in
    # discriminator steps. The paper says nothing of the start: normal codes lie outside of the features, whose length
    # falls while spectral norms settle.
    "paper": {
        "feed": "quantized",
        "warmup_steps": 1000,
        "anneal_steps": 1000,
        "update_on": "d",
        "init": "data",
        "init_state": "consistent",
        "settle_steps": 100,
        "revive_below": 0.5,
        "follow": True,
        "decay": 0.9,
        "weight": 0.25,
    },
    # What the released code does: continuous features go on always, updates in every training-mode forward.
    "official": {
        "feed": "continuous",
        "warmup_steps": 0,
        "anneal_steps": 0,
        "update_on": "d+g",
        "init": "normal",
        "init_state": "official",
        "settle_steps": 0,
        "revive_below": 0.0,
        "follow": False,
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


@dataclass(frozen=True)
class FeatureQuantizerOutput:
    """Result of a :class:`FeatureQuantizer`.

    Args:
        output: What the next layer gets, in shape and dtype of the input.
        indices: Code of every position, int64: (B, H, W), (B, L) or (N,); -1 where ``share`` left it out.
        loss: Weighted commitment loss of every sample (B,), float32; (1,) for an input of rows.
        perplexity: exp of the entropy of the codes in this call, float32 scalar; 1 to min(K, positions).
        codes_used: Number of codes in this call, int64 scalar.
    """

    output: Tensor
    indices: Tensor
    loss: Tensor
    perplexity: Tensor
    codes_used: Tensor


class FeatureQuantizer(MovingCodebook):
    """Nearest codes of features h, in a codebook (K, C) that follows them (:class:`.MovingCodebook`, equation 8 of the
    paper).

    Output: h, or the code of h with the gradient of h (straight-through). Loss of a sample: weight times the mean of
    (code - h)^2 over channels and positions (equation 7).

    Args:
        dim: C, channels of the features.
        num_codes: K.
        preset: "paper" or "official": values of the options below that are None; see ``PRESETS``.
        decay: lambda, 0 to 1.
        weight: Of the loss: alpha * beta of the paper.
        feed: "quantized" or "continuous" features go on to the next layer.
        warmup_steps: Updates during which continuous features go on.
        anneal_steps: Updates over which the weight grows from 0, after ``settle_steps``.
        update_on: "d" (discriminator steps) or "d+g"; see :func:`phase`.
        init: Codes at the start: "normal", "kaiming" (uniform, bound sqrt(6 / (K C))) or "data" (features of the
            update that ends ``settle_steps``, or of the first forward pass).
        init_state: Averages at the start: "consistent" (N = 1, m = e), "official" (N = 0, m = e) or "zero" (N = m = 0;
            codes that were never used stay where they are).
        settle_steps: Updates before the codes are in use: continuous features go on, the loss is 0 and codes do not
            move.
        revive_below: Codes with N_k below this share of the mean count are moved to random features that the update
            has seen, with the mean count; 0 turns that off.
        follow: Before the first features of an update are matched, codes move as mean and standard deviation of every
            channel have moved since the first ones of the update before; with ``accumulate="step"`` alone: single
            forward passes may be of real or of generated images.
        accumulate: "forward": every forward updates; "step": statistics are collected until :func:`update_codebooks_`.
        share: Of the positions of every sample, in (0, 1], drawn anew in every pass in training mode: only these are
            matched, move the codes, have a loss (the mean over them) and, where quantized features go on, are
            quantized. The time falls with it.

    Raises:
        ValueError: An option is not allowed.

    Example:
        >>> quantizer = FeatureQuantizer(8, 16, preset="official")
        >>> found = quantizer(torch.randn(2, 8, 4, 4))
        >>> found.output.shape, found.indices.shape, found.loss.shape
        (torch.Size([2, 8, 4, 4]), torch.Size([2, 4, 4]), torch.Size([2]))
    """

    feed: str
    weight: float
    warmup_steps: int
    anneal_steps: int
    update_on: str
    share: float
    chunk = 2**20  # entries of the distance matrix that are in memory at a time

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
        init: str | None = None,
        init_state: str | None = None,
        settle_steps: int | None = None,
        revive_below: float | None = None,
        follow: bool | None = None,
        accumulate: str = "forward",
        share: float = 1.0,
    ):
        given = {"decay": decay, "weight": weight, "feed": feed, "warmup_steps": warmup_steps}
        given |= {"anneal_steps": anneal_steps, "update_on": update_on, "init": init, "init_state": init_state}
        given |= {"settle_steps": settle_steps, "revive_below": revive_below, "follow": follow}
        options = lookup(PRESETS, preset, "preset") | {k: v for k, v in given.items() if v is not None}
        options |= {"accumulate": accumulate, "share": share}
        problems = [
            f"{name} is {options[name]!r}; allowed are {', '.join(allowed)}"
            for name, allowed in _CHOICES.items()
            if options[name] not in allowed
        ]
        if dim < 1 or num_codes < 1:
            problems.append(f"dim is {dim}, num_codes {num_codes}; allowed are 1 and more")
        if not 0 <= options["decay"] <= 1:
            problems.append(f"decay is {options['decay']}; allowed is 0 to 1")
        if not 0 < share <= 1:
            problems.append(f"share is {share}; allowed is above 0, to 1")
        if problems:
            raise ValueError(f"FeatureQuantizer: {'; '.join(problems)}.")
        super().__init__(dim, num_codes, **options)
        self.phase = "d"

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
        with torch.no_grad(), torch.autocast(h.device.type, enabled=False):
            rows = h.movedim(1, -1) if h.ndim == 4 else h
            shape, samples = rows.shape, 1 if h.ndim == 2 else len(h)
            flat = rows.to(torch.float32, memory_format=torch.contiguous_format).reshape(-1, self.dim)
            every = flat = flat.contiguous()
            drawn = self._draw(samples, len(flat)) if self.training and self.share < 1 else None
            if drawn is not None:
                flat = flat[drawn]
            # A finite sum has finite terms, and costs a tenth of a look at each of them.
            whole = bool(flat.sum().isfinite()) or bool(flat.isfinite().all())
            finite = None if whole else flat.isfinite().all(dim=1)
            clean = flat if finite is None else torch.where(finite[:, None], flat, 0.0)
            seen = clean if finite is None else clean[finite]
            self._initialize(seen)
            if self.follow and self.updating and self.accumulate == "step" and self.pending is None:
                self._follow(seen)
            indices = self._nearest(clean)
            codes = self.embed[indices]
            waiting = int(self.num_updates) < max(self.warmup_steps, self.settle_steps)
            continuous = self.feed == "continuous" or waiting
            weight, errors = self.current_weight, clean - codes
            if finite is not None:
                errors *= finite[:, None]
            if not continuous:
                values = (codes if drawn is None else every.index_copy(0, drawn, codes)).view(shape)
                values = (values.movedim(-1, 1) if h.ndim == 4 else values).to(h.dtype)
            chosen = indices if whole else indices[finite]
            counts = torch.bincount(chosen, minlength=self.num_codes).float()
            if self.updating:
                sums = torch.zeros_like(self.embed).index_add_(0, chosen, seen)
                self._collect(torch.cat([counts[:, None], sums], dim=1), seen)
            if drawn is not None:
                indices = indices.new_full((len(every),), -1).index_copy(0, drawn, indices)
        share = counts / counts.sum().clamp_min(1)
        perplexity = (-(share * (share + 1e-10).log()).sum()).exp()
        loss = _SquaredError.apply(h, errors, drawn, samples)  # type: ignore[no-untyped-call]  # torch's own
        return FeatureQuantizerOutput(
            output=h if continuous else values + (h - h.detach()),  # exactly the code, with the gradient of h
            indices=indices.view(shape[:-1]),
            loss=loss * weight,
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
        updates = int(self.num_updates) - self.settle_steps
        if updates < 0:
            return 0.0
        return self.weight * min(1.0, updates / self.anneal_steps) if self.anneal_steps else self.weight

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.num_codes}, feed={self.feed}, decay={self.decay}, weight={self.weight}"

    # -- parts --------------------------------------------------------------------------------------------------------

    def _draw(self, samples: int, rows: int) -> Tensor:
        """Rows of the random positions that are matched, as many of every sample."""
        positions = rows // samples if samples else 0
        keys = torch.rand(samples, positions, device=self.embed.device)
        chosen = keys.topk(min(positions, math.ceil(self.share * positions))).indices
        return (chosen + positions * torch.arange(samples, device=chosen.device)[:, None]).flatten()

    @torch.no_grad()
    def _nearest(self, flat: Tensor) -> Tensor:
        """Index of the nearest code of every row (N, C), the lowest at ties."""
        square = self.embed.square().sum(dim=1)
        step = max(1, self.chunk // self.num_codes)
        found = [_argmin(torch.addmm(square, part, self.embed.T, alpha=-2)) for part in flat.split(step)]
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=flat.device)


def _argmin(values: Tensor) -> Tensor:
    """Of every row, the first at ties; numpy's takes a tenth of the time of torch's on a CPU."""
    if values.device.type != "cpu":
        return values.argmin(dim=1)
    return torch.from_numpy(values.numpy().argmin(axis=1))


class _SquaredError(torch.autograd.Function):
    """Mean of squares of every sample (B,), of errors (N, C): h minus codes, where ``drawn`` says or at all positions.

    The gradient has dtype and layout of h: autograd's own is in those of the rows, and slow to add to that of the next
    layer.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, errors: Tensor, drawn: Tensor | None, samples: int) -> Tensor:
        ctx.save_for_backward(errors, drawn)
        ctx.like = torch.empty_like(h, device="meta")
        size = errors.numel() // max(1, samples)
        return errors.view(samples, size).square().sum(dim=1) / max(1, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        errors, drawn = ctx.saved_tensors
        like = torch.empty_like(ctx.like, device=grad.device)
        by_row = like.movedim(1, -1) if like.ndim == 4 else like
        size = errors.numel() // max(1, len(grad))
        values = (errors.view(len(grad), size) * (grad[:, None] * (2 / max(1, size)))).view_as(errors)
        if drawn is not None:
            values = values.new_zeros(like.numel() // errors.shape[1], errors.shape[1]).index_copy(0, drawn, values)
        by_row.copy_(values.to(like.dtype).view(by_row.shape))
        return like, None, None, None
