# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning a compressed StyleGAN against its teacher and a discriminator, with Accelerate.

One step makes four phases, as the published code does: the generator's loss, every few steps its path length, the
discriminator's loss, every few steps R1. All random numbers of a step are drawn for the whole step from (seed, step),
and every process and micro-batch takes its part: the number of processes and of accumulated micro-batches does not
change what is learned, as long as micro-batches are even (path lengths take half of each).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ..images import to_model_range
from ..quantization.folding import remove_parametrization_
from ..refine.refine import RefineConfig, scale_weights_
from .augment import AdaptiveAugment, twice_differentiable
from .average import WeightAverage
from .distillation import StepDraws, latent_directions, relation_loss, rgb_distance, sanitize_gradients_
from .distillation_config import DistillationConfig
from .distilled_networks import Tapped, add_spectral_norms_, published_layers, student_layers, without_spectral_norms
from .feature_quantizer import FeatureQuantizer
from .gan_loop import lazy_adam, save_samples
from .losses import LOSSES, r1_penalty
from .run import TrainingRun
from .run_config import enable_gradient_checkpointing_


def train_distilled(
    student: nn.Module,
    teacher: nn.Module,
    discriminator: nn.Module,
    dataset: TensorDataset,
    config: DistillationConfig,
    accelerator: Accelerator,
    *,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    mask: Callable[[Tensor], Tensor] | None = None,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
) -> nn.Module:
    """Train a student in place and return its average; checkpoints, grids and a log go to ``config.output_dir``.

    Args:
        student: Compressed StyleGAN2 or StyleGAN3 generator.
        teacher: The generator it came from, with the same styles.
        discriminator: ``discriminator(images, class_labels)`` with ``.logits``.
        dataset: (image uint8 (C, H, W), label int64) pairs.
        config: Options.
        accelerator: With ``mixed_precision="no"`` and no gradient accumulation of its own; the loop applies those of
            the config.
        perceptual: Distance (images, images) -> (B,) or scalar, for example an LPIPS module; float32.
        mask: Teacher images -> (B, 1, H, W): where both images are compared.
        validate: Generator -> figures for the log, every ``validation_steps``, of the averaged and of the trained
            weights.

    Raises:
        ValueError: The networks, the images or the accelerator do not fit, a perceptual weight without a distance, a
            discriminator with feature quantizers, or adaptive augmentation with R1 in torch older than 2.12.
        FileExistsError: ``config.output_dir`` holds a run that is not continued.
        SystemExit: A signal stopped the run; there is a checkpoint.
        FloatingPointError: A loss is not finite; the last checkpoint is kept.

    Source:
        Singular Value Scaling, section 4; StyleKD; values of the published scripts.
    """
    return _Training(student, teacher, discriminator, dataset, config, accelerator, perceptual, mask, validate).run()


def _check(student, teacher, discriminator, dataset, config: DistillationConfig, perceptual) -> None:
    for name in ("z_dim", "w_dim", "resolution", "image_channels", "num_classes"):
        if student.config[name] != teacher.config[name]:
            raise ValueError(
                f"train_distilled: {name} is {student.config[name]} in the student, {teacher.config[name]} in the "
                "teacher."
            )
    wanted = (student.config.image_channels, student.config.resolution, student.config.resolution)
    given = tuple(dataset.tensors[0].shape[1:])
    if given != wanted:
        raise ValueError(f"train_distilled: images are {given}; the networks make {wanted}.")
    if config.perceptual_weight and perceptual is None:
        raise ValueError("train_distilled: perceptual_weight needs a perceptual distance, or 0.")
    if any(isinstance(module, FeatureQuantizer) for module in discriminator.modules()):
        raise ValueError(
            "train_distilled: the discriminator has feature quantizers, whose loss this loop does not use; "
            "remove_feature_quantizers first."
        )
    enable_gradient_checkpointing_(config, student, discriminator)
    if config.ada_target is not None and config.r1_every and not twice_differentiable():
        raise ValueError(
            "train_distilled: R1 of adaptively augmented images needs torch 2.12 or newer, and this is "
            f"{torch.__version__}; update it, or set ada_target to None or r1_every to 0."
        )


class _Training(TrainingRun):
    accumulates = False

    def __init__(self, student, teacher, discriminator, dataset, config, accelerator, perceptual, mask, validate):
        _check(student, teacher, discriminator, dataset, config, perceptual)
        self.perceptual, self.mask = perceptual, mask
        device = accelerator.device
        self.conditional = student.config.num_classes > 0
        layers, groups = published_layers(teacher)
        directions = latent_directions(teacher, groups).to(device)
        names = student_layers(student, teacher, layers)
        if config.spectral_norm:
            add_spectral_norms_(student)
        self.teacher = Tapped(teacher.eval().requires_grad_(False).to(device), layers)
        tapped = Tapped(student.train(), names)
        ratio_g = config.path_every if config.path_weight else 0
        optimizers = (
            lazy_adam(student.parameters(), config.learning_rate, ratio_g),
            lazy_adam(discriminator.parameters(), config.discr_learning_rate, config.r1_every),
        )
        self.batch = config.train_batch_size
        workers = config.dataloader_num_workers
        loader = DataLoader(dataset, batch_size=self.batch, shuffle=True, drop_last=True, num_workers=workers)
        self.student, self.discriminator, self.optimizer_g, self.optimizer_d, self.loader = accelerator.prepare(
            tapped, discriminator.train(), *optimizers, loader
        )
        config = config.in_steps(len(self.loader) // config.gradient_accumulation_steps)
        self.draws = StepDraws(config, teacher, accelerator, directions)
        images_per_step = self.batch * self.draws.parts
        average = WeightAverage(student, images_per_step, config.ema_images, config.ema_rampup)
        self.path_mean = PathMean()
        self.augment = None if config.ada_target is None else AdaptiveAugment(config.ada_target)
        if self.augment is not None:
            accelerator.register_for_checkpointing(self.augment)
        super().__init__(accelerator, config, student, images_per_step, average, validate)
        self.register(self.path_mean, lr_g=self.optimizer_g, lr_d=self.optimizer_d)
        labels = dataset.tensors[1].unique()[:10]
        self.grid_labels = labels.repeat_interleave(10) if self.conditional else torch.zeros(100, dtype=torch.int64)

    # -- phases -------------------------------------------------------------------------------------------------------

    def accumulate(self, network: nn.Module, optimizer, compute: Callable[[int], tuple[Tensor, dict]]) -> dict:
        """One optimizer step on the mean loss of the micro-batches."""
        found: dict[str, Tensor] = {}
        count = self.config.gradient_accumulation_steps
        for micro in range(count):
            last = micro == count - 1
            context = self.accelerator.no_sync(network) if not last else contextlib.nullcontext()
            with context:
                loss, terms = compute(micro)
                self.accelerator.backward(loss / count)
            for name, value in terms.items():
                found[name] = found.get(name, 0) + value.detach() / count
        sanitize_gradients_(network.parameters())
        self.check_finite(found)
        self.optimize(network, optimizer)
        return found

    def generator_loss(self, micro: int) -> tuple[Tensor, dict]:
        config, draw = self.config, self.draws(self.step, 0, micro)
        part = "relations" if config.relation_weight else "images"
        with self.autocast():
            images, features = self.student(draw, part)
            with torch.no_grad():
                taught = {**draw, "noise": draw["teacher_noise"], "noise2": draw["teacher_noise2"]}
                targets, target_features = self.teacher(taught, part)
            logits = self.discriminator(self.augmented(images, 0, micro), draw["labels"]).logits
        images, targets = images.float(), targets.float()
        terms = {"adversarial": LOSSES["logistic"][1](logits)}
        loss = config.adversarial_weight * terms["adversarial"]
        mask = self.mask(targets).to(images) if self.mask is not None else None
        if config.rgb_weight:
            terms["rgb"] = rgb_distance(images, targets, mask)
            loss = loss + config.rgb_weight * terms["rgb"]
        if config.perceptual_weight:
            pair = (images, targets) if mask is None else (images * mask, targets * mask)
            terms["perceptual"] = self.perceptual(*pair).mean()
            loss = loss + config.perceptual_weight * terms["perceptual"]
        if config.relation_weight:
            terms["relation"] = relation_loss(features, target_features, relation_batch=config.relation_batch)
            loss = loss + config.relation_weight * terms["relation"]
        return loss, terms

    def path_loss(self, micro: int) -> tuple[Tensor, dict]:
        """Lazily regularized: half as many images as the batch has, times ``path_every``."""
        config = self.config
        draw = self.draws(self.step, 1, micro, batch=max(1, self.batch // 2))
        size, channels = self.average.model.config.resolution, self.average.model.config.image_channels
        draw["directions_of_images"] = torch.cat(
            [
                torch.randn(1, channels, size, size, generator=each, device=self.accelerator.device)
                for each in draw["noise2"]
            ]
        )
        images, lengths = self.student(draw, "lengths")
        mean = self.accelerator.reduce(lengths.detach().mean(), "mean")
        penalty = (lengths - self.path_mean.value).square().mean()
        loss = penalty * config.path_weight * config.path_every
        return loss + _nothing(images), {"path": penalty, "length": mean}

    def discriminator_loss(self, real: Tensor, labels: Tensor | None, micro: int) -> tuple[Tensor, dict]:
        draw = self.draws(self.step, 2, micro)
        with self.autocast():
            with torch.no_grad():
                images, _ = self.student(draw, "fakes")
            generated = self.discriminator(self.augmented(images, 1, micro), draw["labels"]).logits
            of_real = self.discriminator(self.augmented(real, 2, micro), labels).logits
        loss = LOSSES["logistic"][0](of_real, generated)
        return loss, {"loss_d": loss, "real": of_real.detach().sign().mean()}

    def r1_loss(self, real: Tensor, labels: Tensor | None, micro: int) -> tuple[Tensor, dict]:
        real = real.detach().requires_grad_(True)
        logits = self.discriminator(self.augmented(real, 3, micro), labels).logits
        penalty = r1_penalty(logits, real)
        loss = penalty * self.config.r1_gamma * self.config.r1_every
        return loss + _nothing(logits), {"r1": penalty}

    def augmented(self, images: Tensor, use: int, micro: int) -> Tensor:
        return self.draws.augmented(self.augment, images, self.step, use, micro)

    def train_step(self, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        config, now = self.config, self.step
        real = []
        for micro, (images, labels) in enumerate(batches):
            images = to_model_range(images)
            if config.random_flip:
                flips = self.draws.flips(now, micro)
                images = torch.where(flips.to(images.device)[:, None, None, None], images.flip(3), images)
            real.append((images, labels if self.conditional else None))
        self.discriminator.requires_grad_(False)
        losses = self.accumulate(self.student, self.optimizer_g, self.generator_loss)
        if config.path_every and config.path_weight and now % config.path_every == 0:
            losses |= self.accumulate(self.student, self.optimizer_g, self.path_loss)
            self.path_mean.value += config.path_decay * (float(losses.pop("length")) - self.path_mean.value)
        self.discriminator.requires_grad_(True)
        losses |= self.accumulate(
            self.discriminator, self.optimizer_d, lambda micro: self.discriminator_loss(*real[micro], micro)
        )
        if config.r1_every and now % config.r1_every == 0:
            losses |= self.accumulate(
                self.discriminator, self.optimizer_d, lambda micro: self.r1_loss(*real[micro], micro)
            )
        losses["real"] = self.accelerator.reduce(losses["real"], "mean")
        if self.augment is not None:
            self.augment.update(float(losses["real"]), self.images_per_step)
            losses["augment"] = torch.tensor(self.augment.probability)
        return losses

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> nn.Module:
        self.resume()
        count, every, batches = self.config.gradient_accumulation_steps, self.config.svs_every, []
        with self.running():
            for _, batch in self.batches(self.loader, count):
                batches.append(batch)
                if len(batches) == count:
                    losses, batches, made = self.train_step(batches), [], self.step + 1
                    if every and made % every == 0 and 2 * made <= self.config.max_train_steps:
                        scale_weights_(self.trained, RefineConfig(progress=False))
                    self.after_step(losses)
        for module in self.trained.modules():
            remove_parametrization_(module)
        return without_spectral_norms(self.average.model)

    def save_models(self, folder: Path) -> None:
        without_spectral_norms(self.average.model).save_pretrained(folder / "generator_ema")

    def save_grid(self, generator: nn.Module, path: Path) -> None:
        """The same latents in every grid."""
        save_samples(generator, self.grid_labels.to(self.accelerator.device), self.config.seed, path)


def _nothing(output: Tensor) -> Tensor:
    """Zero that depends on every parameter: processes wait for all gradients, also of biases no penalty moves."""
    return 0 * output.float().sum()


class PathMean:
    """Running mean of path lengths; saved with the training state."""

    value = 0.0

    def state_dict(self) -> dict:
        """For the checkpoint."""
        return {"path_mean": self.value}

    def load_state_dict(self, state: dict) -> None:
        """From the checkpoint."""
        self.value = state["path_mean"]
