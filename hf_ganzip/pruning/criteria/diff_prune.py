# SPDX-License-Identifier: Apache-2.0
"""Taylor importance of diffusion UNets over the timesteps that matter."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...core.modes import evaluating, only_gradients_of
from ..channels import ChannelSet
from .base import Scores, per_channel


IMPORTANCES = ("squared", "absolute", "sum")
_STATE = "diff_prune.json"
_SAVE_EVERY = 50  # timesteps
_TOLERANCE = 1e-3  # of [-1, 1]: resizing rounds


@dataclass(frozen=True)
class DiffPrune:
    """First-order Taylor importance of the noise prediction's loss, summed over timesteps until the loss is small.

    L_t = mean over images of the sum of (e - model(x_t, t))^2, with the same noise e at every t. The sum stops at the
    first t with L_t < threshold * (largest loss so far).

    Args:
        images: (N, C, H, W) float in [-1, 1], in the size of the network, or latents of four and more channels; the
            published runs take one batch, 128 images of CIFAR-10, 64 of CelebA. On the command line and in recipes: a
            source as for ``hf-ganzip evaluate``.
        threshold: 0.05 for CIFAR-10, 0 (all timesteps) for CelebA.
        num_images: How many images of a source are taken.
        batch_size: Images of one pass; gradients are summed, so that it changes memory only.
        timesteps: Of the noise schedule.
        beta_start: First of the linear schedule.
        beta_end: Last of the linear schedule.
        include_last: Also count the timestep at which the sum stops, as the published diffusers script does.
        train_mode: Score with dropout, as the published fine-tuning script does.
        importance: Of a weight slice: "squared" sum (w g)^2, "absolute" sum |w g|, "sum" \\|sum w g\\|; norms always
            \\|w g\\|, biases nothing.
        model_inputs: Further inputs of the model, for example ``encoder_hidden_states`` (N, L, D) or ``class_labels``
            (N,).
        seed: Of the noise.
        checkpoint_dir: Folder in which the state is kept every 50 timesteps; a run that finds one goes on from it.
        progress: Show a progress bar with timesteps per second.

    Raises:
        ValueError: No images, images of another shape or range, a model that predicts no noise, or a threshold that
            leaves no timestep.

    Source:
        Fang et al., "Structural Pruning for Diffusion Models", equation 7 and code.
    """

    images: Any = field(default=None, metadata={"recorded": False})
    threshold: float = 0.05
    num_images: int = 128
    batch_size: int = 32
    timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    include_last: bool = False
    train_mode: bool = False
    importance: str = "squared"
    model_inputs: Mapping[str, Tensor] = field(default_factory=dict, metadata={"recorded": False})
    seed: int = 0
    checkpoint_dir: str | None = field(default=None, metadata={"recorded": False})
    progress: bool = field(default=True, metadata={"recorded": False})

    def __post_init__(self) -> None:
        if self.importance not in IMPORTANCES:
            raise ValueError(f"importance is {self.importance!r}; allowed are {', '.join(IMPORTANCES)}.")
        if self.threshold < 0 or self.batch_size < 1 or self.timesteps < 1:
            raise ValueError(
                f"threshold is {self.threshold}, batch_size {self.batch_size}, timesteps {self.timesteps}; allowed "
                "are a threshold of at least 0, and 1 or more of the others."
            )

    def __call__(self, model: nn.Module, sets: Sequence[ChannelSet]) -> Scores:
        images = self._images(model)
        names = sorted({part.tensor for channels in sets for part in channels.slices})
        weights = {name: p for name, p in model.named_parameters() if name in names and not name.endswith("bias")}
        with evaluating(model), only_gradients_of(weights.values(), model):
            model.train(self.train_mode)
            gradients = self._accumulate(model, weights, images)
        return {channels.name: self._score(channels, weights, gradients) for channels in sets}

    def _images(self, model: nn.Module) -> Tensor:
        if not hasattr(model, "conv_in") or "sample_size" not in model.config:
            raise ValueError(f"diff_prune scores diffusion UNets; {type(model).__name__} is none.")
        images, channels = self.images, model.config.in_channels
        if images is None:
            raise ValueError("diff_prune needs images: (N, C, H, W) in [-1, 1], or --data on the command line.")
        size = model.config.sample_size
        given_size = tuple(images.shape[-2:]) if isinstance(images, Tensor) and images.ndim == 4 else ("H", "W")
        height, width = given_size if size is None else (size, size) if isinstance(size, int) else size
        given = type(images).__name__
        if isinstance(images, Tensor):
            given = f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}"
            if images.numel():
                given += f" from {float(images.min()):.3g} to {float(images.max()):.3g}"
            if images.shape[1:] == (channels, height, width) and len(images) and images.is_floating_point():
                # Latents have no bound.
                limit = 1 + _TOLERANCE if channels in (1, 3) else torch.finfo(images.dtype).max
                if bool((images.abs() <= limit).all()):
                    return images
        raise ValueError(
            f"diff_prune: images are {given}; allowed are tensors (N, {channels}, {height}, {width}) of floats in "
            "[-1, 1]. Convert them by hf_ganzip.images.to_model_range, and resize them to the network's sample_size."
        )

    def _accumulate(self, model: nn.Module, weights: Mapping[str, Tensor], images: Tensor) -> dict[str, Tensor]:
        """Gradients of the sum of the losses."""
        betas = torch.linspace(self.beta_start, self.beta_end, self.timesteps, dtype=torch.float64)
        signal = torch.cumprod(1 - betas, dim=0)
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(self.seed))
        gradients = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
        start, largest = self._resume(weights, images, gradients)
        with tqdm(
            total=self.timesteps, initial=start, desc="diff_prune", unit="step", disable=not self.progress
        ) as bar:
            for t in range(start, self.timesteps):
                scale = float(signal[t].sqrt()), float((1 - signal[t]).sqrt())
                loss, found = self._step(model, list(weights.values()), images, noise, scale, t)
                largest = max(largest, loss)
                stop = loss < self.threshold * largest
                if not stop or self.include_last:
                    for total, gradient in zip(gradients.values(), found):
                        total += gradient
                if stop and t == 0 and not self.include_last:
                    raise ValueError(f"diff_prune: threshold {self.threshold} stops before the first timestep.")
                bar.update()
                bar.set_postfix(loss=f"{loss:.4g}", largest=f"{largest:.4g}")
                if stop:
                    break
                if (t + 1) % _SAVE_EVERY == 0:
                    self._save(weights, images, gradients, t + 1, largest)
        return gradients

    def _step(self, model, weights, images, noise, scale, t) -> tuple[float, list[Tensor]]:
        loss, gradients = 0.0, [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
        device, dtype = weights[0].device, weights[0].dtype
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            target = noise[part].to(device, dtype)
            state = scale[0] * images[part].to(device, dtype) + scale[1] * target
            inputs = {name: value[part].to(device) for name, value in self.model_inputs.items()}
            prediction = model(state, t, return_dict=False, **inputs)[0]
            each = (target - prediction).float().square().sum() / len(images)
            for total, gradient in zip(gradients, torch.autograd.grad(each, weights)):
                total += gradient
            loss += float(each.detach())
        return loss, gradients

    def _score(self, channels: ChannelSet, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros(channels.width)
        for part in channels.slices:
            if part.tensor not in weights:
                continue
            product = weights[part.tensor].detach().float() * gradients[part.tensor]
            if product.ndim == 1:
                total += per_channel(product.abs(), part, channels).cpu()
            elif self.importance == "sum":
                total += per_channel(product, part, channels).abs().cpu()
            else:
                values = product.square() if self.importance == "squared" else product.abs()
                total += per_channel(values, part, channels).cpu()
        return total

    # -- interrupted runs ---------------------------------------------------------------------------------------------

    def _digest(self, weights: Mapping[str, Tensor], images: Tensor) -> str:
        found = hashlib.sha256(repr((self.threshold, self.timesteps, self.beta_start, self.beta_end)).encode())
        found.update(repr((self.include_last, self.train_mode, self.seed, tuple(images.shape))).encode())
        for name, value in {"images": images, **self.model_inputs}.items():
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        for tensor in weights.values():
            found.update(tensor.detach().double().sum().cpu().numpy().tobytes())
        return found.hexdigest()

    def _resume(self, weights, images, gradients) -> tuple[int, float]:
        if self.checkpoint_dir is None or not Path(self.checkpoint_dir, _STATE).is_file():
            return 0, 0.0
        state = json.loads(Path(self.checkpoint_dir, _STATE).read_text())
        if state["digest"] != self._digest(weights, images):
            raise ValueError(f"diff_prune: {self.checkpoint_dir} belongs to another model, other images or options.")
        for name, value in load_file(Path(self.checkpoint_dir, state["file"])).items():
            gradients[name].copy_(value)
        return state["timestep"], state["largest"]

    def _save(self, weights, images, gradients, timestep: int, largest: float) -> None:
        if self.checkpoint_dir is None:
            return
        folder = Path(self.checkpoint_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"gradients-{timestep}.safetensors"
        save_file({key: value.contiguous() for key, value in gradients.items()}, folder / name)
        state = {"timestep": timestep, "largest": largest, "file": name, "digest": self._digest(weights, images)}
        partial = folder / f"{_STATE}.partial"
        partial.write_text(json.dumps(state))
        os.replace(partial, folder / _STATE)
        for old in folder.glob("gradients-*.safetensors"):
            if old.name != name:
                old.unlink()


@dataclass(frozen=True)
class Taylor(DiffPrune):
    """:class:`DiffPrune` over all timesteps."""

    threshold: float = 0.0
