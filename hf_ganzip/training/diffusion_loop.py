# SPDX-License-Identifier: Apache-2.0
"""Training loop for diffusion UNets that predict noise, with Accelerate: one process or many, exact resume.

All random numbers of a step are drawn for the whole step from (seed, step), and every process and
micro-batch takes its part: a resumed run repeats an uninterrupted one, and the number of processes and of
micro-batches does not change what is learned (but for dropout).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ..core.seeding import derive_seed
from ..images import to_model_range, to_uint8
from ..images.grids import save_image_grid
from .average import RAMPUP, WeightAverage, half_life_of
from .run import TrainingRun
from .run_config import RunConfig, enable_gradient_checkpointing_


@dataclasses.dataclass(frozen=True)
class DiffusionTrainingConfig(RunConfig):
    """Options of :func:`train_diffusion`.

    Defaults are those of Diff-Pruning and Singular Value Scaling, but that the average ramps up.
    """

    max_train_steps: int = 100_000
    train_batch_size: int = 128  # images per process and micro-step
    learning_rate: float = 2e-4
    ema_decay: float = 0.9999  # of the averaged network, per step
    ema_rampup: float = RAMPUP  # the half-life is at most this share of the images seen; 0, as published: no ramp-up
    max_grad_norm: float = 1.0
    dropout: float | None = None  # 0.1 in the papers; None leaves the model's
    random_flip: bool = True
    distillation_weight: float = (
        0.0  # of |teacher - student|^2, 0.7 in Diff-Pruning; 1 minus it of |noise - student|^2
    )
    timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    checkpointing_steps: int = 5000
    validation_steps: int = 5000  # sample grids
    grid_steps: int = 50  # of DDIM, for sample grids

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.grid_steps <= self.timesteps:
            raise ValueError(f"grid_steps is {self.grid_steps}; allowed are 1 to {self.timesteps}.")
        if not 0 <= self.distillation_weight <= 1 or not 0 <= self.ema_decay < 1:
            raise ValueError(
                f"distillation_weight is {self.distillation_weight}, ema_decay {self.ema_decay}; allowed are 0 to 1, "
                "and 0 to below 1."
            )


def antithetic_timesteps(count: int, timesteps: int, generator: torch.Generator) -> Tensor:
    """(count,) timesteps: uniform ones, then their mirror images T - 1 - t.

    Source:
        Denoising diffusion implicit models, published code.
    """
    half = torch.randint(timesteps, (count // 2 + 1,), generator=generator, device=generator.device)
    return torch.cat([half, timesteps - 1 - half])[:count]


def train_diffusion(
    unet: nn.Module,
    dataset: TensorDataset,
    config: DiffusionTrainingConfig,
    accelerator: Accelerator,
    teacher: nn.Module | None = None,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
) -> nn.Module:
    """Train in place and return the averaged network; checkpoints, grids and a log go to ``config.output_dir``.

    The loss is the mean over images of the sum over values of (e - unet(x_t, t))^2.

    Args:
        unet: ``UNet2DModel``; a pruned one keeps its structure.
        dataset: (image uint8 (C, H, W), label int64) pairs; labels go to networks with ``num_class_embeds``.
        config: Options.
        accelerator: With ``mixed_precision="no"``; the loop applies ``config.mixed_precision`` itself.
        teacher: Network whose prediction is learned with ``config.distillation_weight``.
        validate: Network -> figures for the log, every ``validation_steps``, of the averaged and of the trained
            weights.

    Raises:
        ValueError: Images do not fit the network or fill no step, or a distillation weight without a teacher.
        FileExistsError: ``config.output_dir`` holds a run that is not continued.
        SystemExit: A signal stopped the run; there is a checkpoint.
        FloatingPointError: The loss is not finite; the last checkpoint is kept.
    """
    return _Training(unet, dataset, config, accelerator, teacher, validate).run()


class _Training(TrainingRun):
    average_folder = "unet_ema"

    def __init__(self, unet, dataset, config: DiffusionTrainingConfig, accelerator: Accelerator, teacher, validate):
        size, channels = unet.config.sample_size, unet.config.in_channels
        given, taken = tuple(dataset.tensors[0].shape[1:]), (channels, size, size)
        if given != taken:
            raise ValueError(f"train_diffusion: images are {given}; the network takes {taken}.")
        if config.distillation_weight and teacher is None:
            raise ValueError("train_diffusion: distillation_weight needs a teacher.")
        self.teacher = teacher.to(accelerator.device).eval().requires_grad_(False) if teacher is not None else None
        self.conditional = bool(unet.config.get("num_class_embeds"))
        if config.dropout is not None:
            for module in unet.modules():
                if isinstance(module, nn.Dropout):
                    module.p = config.dropout
        betas = torch.linspace(config.beta_start, config.beta_end, config.timesteps, dtype=torch.float64)
        self.signal = torch.cumprod(1 - betas, dim=0).float().to(accelerator.device)
        optimizer = torch.optim.Adam(unet.parameters(), lr=config.learning_rate, betas=(0.9, 0.999), eps=1e-8)
        batch, workers = config.train_batch_size, config.dataloader_num_workers
        loader = DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True, num_workers=workers)
        self.unet, self.optimizer, self.loader = accelerator.prepare(unet.train(), optimizer, loader)
        self.accumulation = accelerator.gradient_accumulation_steps
        config = config.in_steps(len(self.loader) // self.accumulation)
        images_per_step = batch * accelerator.num_processes * self.accumulation
        half_life = half_life_of(config.ema_decay, images_per_step)
        average = WeightAverage(unet, images_per_step, half_life, config.ema_rampup)
        enable_gradient_checkpointing_(config, unet)
        super().__init__(accelerator, config, unet, images_per_step, average, validate)
        self.register(lr=self.optimizer)

    def run(self) -> nn.Module:
        self.resume()
        with self.running():
            for position, (images, labels) in self.batches(self.loader, self.accumulation):
                with self.accelerator.accumulate(self.unet):
                    losses = self.train_step(to_model_range(images), labels, position % self.accumulation)
                if self.accelerator.sync_gradients:
                    self.after_step(losses)
        return self.average.model

    def train_step(self, images: Tensor, labels: Tensor, micro: int) -> dict[str, Tensor]:
        config, accelerator = self.config, self.accelerator
        place = micro * accelerator.num_processes + accelerator.process_index
        torch.manual_seed(derive_seed(config.seed, self.step, place))  # dropout
        random = torch.Generator().manual_seed(derive_seed(config.seed, self.step))
        total = len(images) * accelerator.num_processes * self.accumulation
        part = slice(place * len(images), (place + 1) * len(images))
        flipped = (torch.rand(total, generator=random) < 0.5)[part].to(images.device)
        timesteps = antithetic_timesteps(total, config.timesteps, random)[part].to(images.device)
        noise = torch.randn(total, *images.shape[1:], generator=random)[part].to(images.device)
        if config.random_flip:
            images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        signal = self.signal[timesteps][:, None, None, None]
        state = signal.sqrt() * images + (1 - signal).sqrt() * noise
        kwargs = {"class_labels": labels} if self.conditional else {}
        with self.autocast():
            predicted = self.unet(state, timesteps, return_dict=False, **kwargs)[0].float()
            if config.distillation_weight:
                with torch.no_grad():
                    taught = self.teacher(state, timesteps, return_dict=False, **kwargs)[0].float()
        loss = _squared_error(noise, predicted)
        losses = {"noise": loss.detach()}
        if config.distillation_weight:
            distilled = _squared_error(taught, predicted)
            losses["distillation"] = distilled.detach()
            loss = config.distillation_weight * distilled + (1 - config.distillation_weight) * loss
        losses["loss"] = loss.detach()
        self.check_finite(losses)
        accelerator.backward(loss)
        self.optimize(self.unet, self.optimizer)
        return losses

    def save_grid(self, unet: nn.Module, path: Path) -> None:
        """Fifty images, from the same noise in every grid."""
        config = self.config
        random = torch.Generator().manual_seed(config.seed)
        scheduler = DDIMScheduler(config.timesteps, config.beta_start, config.beta_end, clip_sample=False)
        scheduler.set_timesteps(config.grid_steps)
        shape = (50, unet.config.in_channels, *(unet.config.sample_size,) * 2)
        state = torch.randn(shape, generator=random).to(self.accelerator.device)
        classes = unet.config.get("num_class_embeds")
        kwargs = {"class_labels": torch.arange(50, device=state.device) % classes} if self.conditional else {}
        for timestep in scheduler.timesteps:
            predicted = unet(state, timestep, return_dict=False, **kwargs)[0]
            state = scheduler.step(predicted, timestep, state).prev_sample
        save_image_grid(to_uint8(state), path, columns=10)


def _squared_error(target: Tensor, predicted: Tensor) -> Tensor:
    return (target - predicted).square().sum(dim=(1, 2, 3)).mean()


def save_pipeline(unet: nn.Module, config: DiffusionTrainingConfig, folder: str | Path) -> None:
    """Write a ``DDPMPipeline`` with the noise schedule of the training."""
    scheduler = DDPMScheduler(config.timesteps, config.beta_start, config.beta_end, "linear")
    DDPMPipeline(unet, scheduler).save_pretrained(folder)
