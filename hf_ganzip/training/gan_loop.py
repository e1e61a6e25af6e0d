# SPDX-License-Identifier: Apache-2.0
"""Training loop for a generator and a discriminator with Accelerate: one process or many, exact resume.

Every random draw of a micro-step comes from a generator seeded by (seed, micro-step, process), so a resumed run repeats
an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ..core.registry import lookup
from ..core.seeding import derive_seed
from ..images import to_model_range, to_uint8
from ..images.grids import save_image_grid
from .augment import DIFF_AUGMENTATIONS, diff_augment
from .average import RAMPUP, WeightAverage
from .feature_quantization import PendingStatistics, codes_in_use, phase, update_codebooks_, warn_of_dead_codebooks
from .losses import LOSSES, r1_penalty, twin_discriminator_loss, twin_generator_loss
from .run import TrainingRun
from .run_config import RunConfig, enable_gradient_checkpointing_
from .sampler import ClassGroupedBatchSampler


@dataclasses.dataclass(frozen=True)
class GANTrainingConfig(RunConfig):
    """Options of :func:`train_gan`."""

    learning_rate: float = 0.0025
    discr_learning_rate: float = 0.0025
    adam_beta2: float = 0.99  # beta1 is 0
    loss: str = "logistic"  # or "hinge"
    discriminator_steps: int = 1  # of the discriminator per step of the generator, each with images of its own
    twin_weight: float = 1.0  # of the classification terms of a discriminator with TAC-GAN heads
    r1_gamma: float = 0.1
    r1_every: int = 16  # steps between R1 penalties (lazy regularization); 0 turns R1 off
    ema_images: float = 20_000.0  # half-life of the averaged generator, in images
    ema_rampup: float = RAMPUP  # half-life is at most this share of the images seen; 0: no ramp-up
    ema_buffers: bool = False  # average buffers (batch statistics), too, instead of copying them
    class_group_size: int = 1  # > 1: batches of one-class groups of this size, see ClassGroupedBatchSampler
    diffaugment: str = ""  # "color,translation,cutout" or some of them, for everything that the discriminator sees

    def __post_init__(self):
        super().__post_init__()
        if self.loss not in LOSSES:
            raise ValueError(f"loss is {self.loss!r}; allowed are {', '.join(LOSSES)}.")
        for name in filter(None, self.diffaugment.split(",")):
            lookup(DIFF_AUGMENTATIONS, name, "augmentation")
        if self.discriminator_steps < 1:
            raise ValueError(f"discriminator_steps is {self.discriminator_steps}; allowed are 1 and more.")


def lazy_adam(parameters, learning_rate: float, every: int, beta2: float = 0.99) -> torch.optim.Adam:
    """Adam (beta1 0) corrected for a regularizer that runs every ``every`` steps (StyleGAN2, appendix B)."""
    ratio = every / (every + 1) if every else 1.0
    return torch.optim.Adam(parameters, lr=learning_rate * ratio, betas=(0.0, beta2**ratio), eps=1e-8)


def train_gan(
    generator: nn.Module,
    discriminator: nn.Module,
    dataset: TensorDataset,
    config: GANTrainingConfig,
    accelerator: Accelerator,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
) -> nn.Module:
    """Train in place and return the averaged generator; checkpoints, grids and a log go to ``config.output_dir``.

    Args:
        generator: ``generator(z, class_labels, generator=)`` with ``.sample``; its config has ``z_dim``,
            ``num_classes``.
        discriminator: ``discriminator(images, class_labels)`` with what :class:`.DiscriminatorOutput` names:
            ``logits``, and ``class_logits``, ``twin_logits``, ``quantization_loss`` or None.
        dataset: (image uint8 (C, H, W), label int64) pairs.
        config: Options.
        accelerator: With ``mixed_precision="no"``; the loop applies ``config.mixed_precision`` itself.
        validate: Generator -> figures for the log, every ``validation_steps``, of the averaged and of the trained
            weights.

    Raises:
        ValueError: Images fill no step, or the accelerator or options do not fit each other.
        FileExistsError: ``config.output_dir`` holds a run that is not continued.
        SystemExit: A signal stopped the run; there is a checkpoint.
        FloatingPointError: A loss is not finite; the last checkpoint is kept.
    """
    return _Training(generator, discriminator, dataset, config, accelerator, validate).run()


class _Training(TrainingRun):
    average_folder = "generator_ema"

    def __init__(
        self, generator, discriminator, dataset, config: GANTrainingConfig, accelerator: Accelerator, validate
    ):
        enable_gradient_checkpointing_(config, generator, discriminator)
        self.conditional = generator.config.num_classes > 0
        self.z_dim = generator.config.z_dim
        self.discriminator_phase = getattr(generator, "discriminator_phase", {})
        self.discriminator_loss, self.generator_loss = LOSSES[config.loss]
        self.sampler = None
        batch = config.train_batch_size * config.discriminator_steps
        if config.class_group_size > 1:
            labels = dataset.tensors[1]
            self.sampler = ClassGroupedBatchSampler(labels, batch, config.class_group_size, config.seed)
            batches = {"batch_sampler": self.sampler}
        else:
            batches = {"batch_size": batch, "shuffle": True, "drop_last": True}
        loader = DataLoader(dataset, num_workers=config.dataloader_num_workers, **batches)
        self.generator, self.discriminator, self.optimizer_g, self.optimizer_d, self.loader = accelerator.prepare(
            generator,
            discriminator,
            lazy_adam(generator.parameters(), config.learning_rate, 0, config.adam_beta2),
            lazy_adam(discriminator.parameters(), config.discr_learning_rate, config.r1_every, config.adam_beta2),
            loader,
        )
        self.accumulation = accelerator.gradient_accumulation_steps
        config = config.in_steps(len(self.loader) // self.accumulation)
        if self.accumulation > 1 and config.discriminator_steps > 1:
            raise ValueError(
                f"discriminator_steps is {config.discriminator_steps} with gradient_accumulation_steps "
                f"{self.accumulation}; allowed is one of them above 1."
            )
        images_per_step = config.train_batch_size * accelerator.num_processes * self.accumulation
        average = WeightAverage(generator, images_per_step, config.ema_images, config.ema_rampup, config.ema_buffers)
        super().__init__(accelerator, config, generator, images_per_step, average, validate)
        self.register(PendingStatistics(discriminator), lr_g=self.optimizer_g, lr_d=self.optimizer_d)
        self.dead: set[str] = set()  # codebooks that a warning has named
        labels = dataset.tensors[1].unique()
        self.grid_labels = labels[:10].repeat_interleave(10)

    # -- one optimizer step -------------------------------------------------------------------------------------------

    def random(self, micro_step: int) -> torch.Generator:
        seed = derive_seed(self.config.seed, micro_step, self.accelerator.process_index)
        return torch.Generator(self.accelerator.device).manual_seed(seed)

    def latents(self, batch: int, random: torch.Generator) -> Tensor:
        return torch.randn(batch, self.z_dim, device=self.accelerator.device, generator=random)

    def train_discriminator(self, real: Tensor, labels: Tensor | None, random: torch.Generator) -> dict[str, Tensor]:
        regularize = self.config.r1_every and self.step % self.config.r1_every == 0
        self.discriminator.requires_grad_(True)
        with self.autocast():
            with torch.no_grad():
                options = {"generator": random} | self.discriminator_phase
                generated = self.generator(self.latents(len(real), random), labels, **options).sample
            of_generated = self.discriminator(diff_augment(generated, self.config.diffaugment, random), labels)
        with self.autocast(enabled=not regularize):
            real = real.requires_grad_(bool(regularize))
            of_real = self.discriminator(diff_augment(real, self.config.diffaugment, random), labels)
        real_logits = of_real.logits
        loss = self.discriminator_loss(real_logits, of_generated.logits)
        if of_real.class_logits is not None:
            twin = twin_discriminator_loss(of_real.class_logits, of_generated.twin_logits, labels)
            loss = loss + self.config.twin_weight * twin
        losses = {}
        if of_real.quantization_loss is not None:
            quantization = of_real.quantization_loss.mean() + of_generated.quantization_loss.mean()
            losses["quantization"] = quantization.detach()
            loss = loss + quantization
        losses |= {"loss_d": loss.detach(), "real": real_logits.detach().sign().mean()}
        if regularize:
            penalty = r1_penalty(real_logits, real)
            losses["r1"] = penalty.detach()
            loss = loss + penalty * (self.config.r1_gamma * self.config.r1_every)
        self.check_finite(losses)
        self.accelerator.backward(loss)
        if self.accelerator.sync_gradients:
            update_codebooks_(self.discriminator)
            losses |= codes_in_use(self.accelerator.unwrap_model(self.discriminator))
        self.optimize(self.discriminator, self.optimizer_d)
        return losses

    def train_generator(self, labels: Tensor | None, batch: int, random: torch.Generator) -> dict[str, Tensor]:
        self.discriminator.requires_grad_(False)
        with self.autocast(), phase(self.discriminator, "g"):
            generated = self.generator(self.latents(batch, random), labels, generator=random).sample
            output = self.discriminator(diff_augment(generated, self.config.diffaugment, random), labels)
            loss = self.generator_loss(output.logits)
            if output.class_logits is not None:
                twin = twin_generator_loss(output.class_logits, output.twin_logits, labels)
                loss = loss + self.config.twin_weight * twin
            if output.quantization_loss is not None:
                loss = loss + output.quantization_loss.mean()
        losses = {"loss_g": loss.detach()}
        self.check_finite(losses)
        self.accelerator.backward(loss)
        self.optimize(self.generator, self.optimizer_g)
        return losses

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> nn.Module:
        self.resume()
        with self.running():
            for position, (images, labels) in self.batches(self.loader, self.accumulation, self.sampler):
                with self.accelerator.accumulate(self.generator, self.discriminator):
                    losses = self.micro_step(to_model_range(images), labels, self.random(position))
                if self.accelerator.sync_gradients:
                    self.after_step(losses)
                    if self.logging_due and self.accelerator.is_main_process:
                        warn_of_dead_codebooks(self.accelerator.unwrap_model(self.discriminator), self.dead)
        return self.average.model

    def micro_step(self, real: Tensor, labels: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """The discriminator, as often as it is to be trained, then the generator."""
        batch = self.config.train_batch_size
        for images, classes in zip(real.split(batch), labels.split(batch)):
            chosen = classes if self.conditional else None
            losses = self.train_discriminator(images, chosen, random)
        return losses | self.train_generator(chosen, batch, random)

    def save_grid(self, generator: nn.Module, path: Path) -> None:
        """Ten latents per class, the same in every grid."""
        save_samples(generator, self.grid_labels.to(self.accelerator.device), self.config.seed, path)


def save_samples(generator: nn.Module, labels: Tensor, seed: int, path: Path) -> None:
    """Write images of the latents of a seed and of labels, which networks without classes ignore, ten in a row."""
    z = torch.randn(len(labels), generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
    classes = labels if generator.config.num_classes else None
    save_image_grid(to_uint8(generator(z.to(labels.device), classes, noise_mode="const").sample), path, columns=10)
