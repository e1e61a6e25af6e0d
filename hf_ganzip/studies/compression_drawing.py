# SPDX-License-Identifier: Apache-2.0
"""How the images of a study are drawn, the same for every setting: GAN generators and diffusion UNets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor

from ..core.alignment import align_
from ..core.components import all_networks, is_pipeline, network_of
from ..core.hub import PIPELINE_FILES, model_folder
from ..core.modes import evaluating
from ..evaluation.comparing.noise_prediction import Replay
from ..evaluation.diffusion_sampling import ddim_timesteps, sample_diffusion
from ..evaluation.sampling import sample_images
from ..integration.opening import load_model
from ..quantization.packed import computing
from ..saved.folder import open_saved
from .compression_config import StudyConfig


_AT_ONCE = 500  # images between two steps of the progress bar
_BATCH = 50  # images of a diffusion model; larger ones are slower on processors
_OF_DIFFUSION = ("steps", "spacing", "clip_sample", "sqnr_images")
_LINEAR = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
_EXPECTED = {  # what sample_diffusion samples by
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}


class Drawing:
    """Draws from a network and its compressed copies.

    Args:
        model: GAN generator, diffusion UNet, pipeline of one, or where it is saved. Of a pipeline the noise schedule
            counts, too.
        config: Options of the study.

    Attributes:
        network: The model in full precision.
        name: How it is called.
        diffuses: Whether it is a diffusion model.

    Raises:
        ValueError: Networks that are neither, or a pipeline that draws otherwise: from latents of an autoencoder, or
            by another schedule.
    """

    def __init__(self, model: Any, config: StudyConfig) -> None:
        if isinstance(model, (str, Path)):
            folder = model_folder(model, patterns=PIPELINE_FILES)
            model = open_saved(folder) if (folder / "model_index.json").is_file() else load_model(folder)
        self.network: Any = network_of(model).eval()
        align_(self.network)
        self.config = config
        kind = type(model).__name__
        self.name = str(getattr(model, "config", {}).get("_name_or_path") or kind).rpartition("/")[2]
        self.diffuses = isinstance(self.network, UNet2DModel)
        if self.diffuses and is_pipeline(model) and len(all_networks(model)) > 1:
            raise ValueError(f"study: {kind} decodes what its UNet draws; allowed are UNets that draw pixels.")
        if not self.diffuses and "z_dim" not in self.network.config:
            raise ValueError(f"study: {kind} is no GAN generator (its config has no z_dim) and has no UNet2DModel.")
        if not self.diffuses and config.steps is not None:
            raise ValueError(f"study: steps is {config.steps}, but {kind} takes one step; leave it out.")
        self._schedule = self._schedule_of(getattr(model, "scheduler", None))
        self._steps = 50 if config.steps is None else config.steps
        if self.diffuses:
            self._timesteps()  # refuses wrong numbers of steps

    def _schedule_of(self, scheduler: Any) -> dict[str, Any]:
        given = {} if scheduler is None else dict(scheduler.config)
        if other := [f"{key} {given[key]!r}" for key, value in _EXPECTED.items() if given.get(key, value) != value]:
            raise ValueError(
                f"study: the scheduler has {', '.join(other)}; allowed are "
                f"{', '.join(f'{key} {value!r}' for key, value in _EXPECTED.items())}."
            )
        return {key: given.get(key, value) for key, value in _LINEAR.items()}

    def _timesteps(self) -> list[int]:
        return ddim_timesteps(self._steps, self.config.spacing, self._schedule["num_train_timesteps"])

    def conditions(self) -> dict[str, Any]:
        """Options that decide the study's figures, but for methods, bits and draws, more of which continue a study."""
        options = asdict(self.config)
        for name in ("methods", "bits", "draws", *(() if self.diffuses else _OF_DIFFUSION)):
            del options[name]
        if not self.diffuses:
            return options
        return options | {"sampler": "DDIM, eta 0", "steps": len(self._timesteps()), **self._schedule}

    def images(self, model: Any, seed: int, drawn: Callable[[int], Any]) -> tuple[Tensor, Tensor | None]:
        """Images (N, C, H, W) uint8 of one draw and their classes (N,), or None; ``drawn`` is told of every few."""
        found = []
        for first in range(0, self.config.num_samples, _AT_ONCE):
            count = min(_AT_ONCE, self.config.num_samples - first)
            found.append(self._sample(model, count, seed, first))
            drawn(count)
        images, labels = zip(*found)
        return torch.cat(images), None if labels[0] is None else torch.cat(labels)

    def _sample(self, model: Any, count: int, seed: int, first: int = 0) -> tuple[Tensor, Tensor | None]:
        if not self.diffuses:
            return sample_images(model, count, seed=seed, first=first, progress=False)
        options = {"spacing": self.config.spacing, "clip_sample": self.config.clip_sample, "steps": self._steps}
        options |= {"seed": seed, "first": first, "batch_size": _BATCH, "progress": False}
        schedule = {name.removeprefix("num_train_"): value for name, value in self._schedule.items()}
        return sample_diffusion(model, count, **options, **schedule)

    def sqnr(self, model: Any, seed: int) -> float:
        """Signal to noise in dB of predictions on full-precision trajectories, from sums over images and timesteps."""
        replay = Replay({"": self.network}, {"": model})
        count = min(self.config.sqnr_images, self.config.num_samples)
        with torch.no_grad(), evaluating(model), computing(model, "dequantized"):
            for first in range(0, count, _BATCH):
                with replay.recording(number := min(_BATCH, count - first)):
                    self._sample(self.network, number, seed, first)
        signal, noise, _ = replay.sums()
        return float(10 * (signal.sum() / noise.sum()).log10())
