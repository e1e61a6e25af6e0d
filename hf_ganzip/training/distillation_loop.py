# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning a compressed StyleGAN against its teacher and a discriminator, with Accelerate.

One step makes four phases, as the published code does: the generator's loss, every few steps its path length, the discriminator's loss, every few steps
R1. All random numbers of a step are drawn for the whole step from (seed, step), and every process and micro-batch takes its part: the number of
processes and of accumulated micro-batches does not change what is learned.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ..plotting import save_image_grid
from ..quantization.folding import remove_parametrization_
from ..refine.refine import RefineConfig, scale_weights_, selection
from ..seeding import derive_seed, sample_generators
from .data import to_model_range, to_uint8
from .distillation import (
    latent_directions,
    path_lengths,
    random_shifts,
    relation_loss,
    rgb_distance,
    sanitize_gradients_,
)
from .gan_loop import lazy_adam
from .losses import LOSSES, r1_penalty
from .run import RunConfig, TrainingRun, update_ema_


PRESETS: dict[str, dict[str, Any]] = {  # values of the published runs; durations in images / batch
    "svs-stylegan2-base": {
        "train_batch_size": 32,
        "relation_batch": 4,
        "learning_rate": 2e-3,
        "discr_learning_rate": 2e-3,
        "r1_gamma": 10.0,
        "ema_images": 10_000.0,
        "max_train_steps": 468_750,
    },
    "svs-stylegan2-small": {
        "train_batch_size": 64,
        "relation_batch": 8,
        "learning_rate": 2.5e-3,
        "discr_learning_rate": 2.5e-3,
        "r1_gamma": 1.0,
        "ema_images": 20_000.0,
        "max_train_steps": 390_625,
    },
    "svs-stylegan3-t": {
        "train_batch_size": 16,
        "relation_batch": 4,
        "learning_rate": 2.5e-3,
        "discr_learning_rate": 2e-3,
        "r1_gamma": 10.0,
        "path_every": 0,
        "mixing_probability": 0.0,
        "ema_images": 5_000.0,
        "ema_rampup": 0.05,
        "random_flip": False,
        "ada_target": 0.6,
        "max_train_steps": 625_000,
    },
    "dcp-stylegan2": {
        "train_batch_size": 16,
        "relation_batch": 4,
        "learning_rate": 2e-3,
        "discr_learning_rate": 2e-3,
        "r1_gamma": 10.0,
        "ema_images": 5_000.0,
        "max_train_steps": 450_001,
    },
}


@dataclasses.dataclass(frozen=True)
class DistillationConfig(RunConfig):
    """Options of :func:`train_distilled`; images are counted over all processes. Defaults are those of "svs-stylegan2-base"."""

    max_train_steps: int = 468_750
    accumulation: int = 1  # micro-batches per optimizer step
    learning_rate: float = 2e-3
    discr_learning_rate: float = 2e-3
    adversarial_weight: float = 1.0
    rgb_weight: float = 3.0
    perceptual_weight: float = 3.0  # needs a perceptual distance
    relation_weight: float = 30.0  # of L_LD; not in the paper's list
    relation_batch: int | None = 4  # samples that are compared with each other
    relation_kind: str = "kl"
    relation_layers: tuple[str, ...] | None = None  # layers whose outputs are compared; None: as published
    direction_groups: tuple[tuple[str, ...], ...] | None = None  # layers that give directions; None: as published
    shift_strength: float = 5.0
    mixing_probability: float = 0.9  # of styles from two latents
    r1_gamma: float = 10.0
    r1_every: int = 16
    path_weight: float = 2.0
    path_every: int = 4  # 0 turns path length off
    path_decay: float = 0.01
    ema_images: float = 10_000.0  # half-life of the averaged generator, in images
    ema_rampup: float | None = None  # half-life is at most this share of the images seen
    random_flip: bool = True  # of the real images
    ada_target: float | None = None  # adaptive discriminator augmentation; None: none
    spectral_norm: bool = False  # ablation: weights of the student divided by their norms during training
    svs_every: int = 0  # ablation: steps between singular value scalings in the first half of the training; 0: none

    def __post_init__(self):
        super().__post_init__()
        if self.relation_batch is not None and self.train_batch_size % self.relation_batch:
            raise ValueError(
                f"train_batch_size is {self.train_batch_size}; allowed are multiples of relation_batch {self.relation_batch}."
            )


def published_layers(generator: nn.Module) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Layers whose outputs L_LD compares, and groups of layers whose styles give its directions, as in the published scripts.

    StyleGAN2: outputs at 16 to 128 pixels, styles of the blocks of 8 to 128; networks of at most 64 pixels: from 8 on. StyleGAN3: every
    second of the layers before the last four, as L2, L4, L6 and L9 of 256 pixels.
    """
    if hasattr(generator.synthesis, "block_resolutions"):
        sizes = [size for size in generator.synthesis.block_resolutions if 8 <= size <= 128]
        least = 16 if max(sizes) > 64 else 8
        groups = tuple((f"synthesis.b{size}.conv0", f"synthesis.b{size}.conv1") for size in sizes)
        return tuple(f"synthesis.b{size}.conv1" for size in sizes if size >= least), groups
    names = [f"synthesis.{name}" for name in generator.synthesis.layer_names[:-1]]
    chosen = tuple(names[round(share * (len(names) - 1))] for share in (2 / 13, 4 / 13, 6 / 13, 9 / 13))
    return chosen, tuple((name,) for name in chosen)


class Tapped(nn.Module):
    """A generator whose forward does what one phase of the training needs, so that it can be wrapped for many processes."""

    def __init__(self, generator: nn.Module, layers: Sequence[str]):
        super().__init__()
        self.generator = generator
        self.layers = tuple(layers)

    def styles(self, draw: Mapping[str, Any]) -> Tensor:
        """(B, L, w_dim); from the crossover layer on of a second latent."""
        ws = self.generator.mapping(draw["z"], draw["labels"])
        if draw["mixed"].any():
            other = self.generator.mapping(draw["z2"], draw["labels"])
            after = torch.arange(ws.shape[1], device=ws.device)[None, :] >= draw["crossover"][:, None]
            ws = torch.where((after & draw["mixed"][:, None])[:, :, None], other, ws)
        return ws

    def forward(self, draw: Mapping[str, Any], part: str = "images") -> tuple[Tensor, list[Tensor] | Tensor]:
        """Images (B, C, H, W), and the features of shifted pairs (``part="relations"``) or path lengths (``"lengths"``)."""
        ws, noise = self.styles(draw), draw["noise"]
        if part == "lengths":
            images = self._synthesize(ws, noise)
            return images, path_lengths(images, ws, draw["directions_of_images"].to(images))
        if part == "images" or not self.layers:
            return self._synthesize(ws, noise), []
        features: list[Tensor] = []
        hooks = [
            self.generator.get_submodule(name).register_forward_hook(
                lambda module, args, output: features.append(output)
            )
            for name in self.layers
        ]
        try:
            images = self._synthesize(torch.cat([ws, ws + draw["shift"][:, None]]), [*noise, *draw["noise2"]])
        finally:
            for hook in hooks:
                hook.remove()
        return images[: len(ws)], features

    def _synthesize(self, ws: Tensor, noise: Sequence[torch.Generator]) -> Tensor:
        if "noise_mode" in self.generator.synthesize.__code__.co_varnames:
            return self.generator.synthesize(ws, noise_mode="random", generator=list(noise))
        return self.generator.synthesize(ws)


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
        accelerator: With ``mixed_precision="no"`` and no gradient accumulation of its own.
        perceptual: Distance (images, images) -> (B,) or scalar, for example an LPIPS module; float32.
        mask: Teacher images -> (B, 1, H, W): where both images are compared.
        validate: Averaged generator -> figures for the log, every ``validation_steps``.

    Raises:
        ValueError: The networks or the images do not fit, or a perceptual weight without a distance.
        FloatingPointError: A loss is not finite; the last checkpoint is kept.

    Source:
        Singular Value Scaling, section 4; StyleKD; values of the published scripts.
    """
    return _Training(student, teacher, discriminator, dataset, config, accelerator, perceptual, mask, validate).run()


class _Training:
    def __init__(self, student, teacher, discriminator, dataset, config, accelerator, perceptual, mask, validate):
        self.config, self.accelerator, self.validate = config, accelerator, validate
        self.perceptual, self.mask = perceptual, mask
        self._check(student, teacher, dataset)
        device = accelerator.device
        self.conditional = student.config.num_classes > 0
        layers, groups = published_layers(teacher)
        layers = layers if config.relation_layers is None else config.relation_layers
        groups = groups if config.direction_groups is None else config.direction_groups
        self.directions = latent_directions(teacher, groups).to(device)
        names = self._student_names(student, teacher, layers)
        if config.spectral_norm:
            add_spectral_norms_(student)
        self.average = copy.deepcopy(student).eval().requires_grad_(False).to(device)
        self.teacher = Tapped(teacher.eval().requires_grad_(False).to(device), layers)
        tapped = Tapped(student.train(), names)
        ratio_g = config.path_every if config.path_weight else 0
        optimizers = (
            lazy_adam(student.parameters(), config.learning_rate, ratio_g),
            lazy_adam(discriminator.parameters(), config.discr_learning_rate, config.r1_every),
        )
        self.batch = config.train_batch_size
        loader = DataLoader(dataset, batch_size=self.batch, shuffle=True, drop_last=True)
        self.student, self.discriminator, self.optimizer_g, self.optimizer_d, self.loader = accelerator.prepare(
            tapped, discriminator.train(), *optimizers, loader
        )
        self.parts = accelerator.num_processes * config.accumulation
        self.state = PhaseState()
        self.augment = None
        if config.ada_target is not None:
            from .augment import AdaptiveAugment

            self.augment = AdaptiveAugment(config.ada_target)
            accelerator.register_for_checkpointing(self.augment)
        self.progress = TrainingRun(
            accelerator,
            config,
            self.batch * self.parts,
            lambda folder: without_spectral_norms(self.average).save_pretrained(folder / "generator_ema"),
        )
        accelerator.register_for_checkpointing(self.average, self.progress, self.state)
        labels = dataset.tensors[1].unique()[:10]
        self.grid_labels = labels.repeat_interleave(10) if self.conditional else torch.zeros(100, dtype=torch.int64)
        self.num_classes = student.config.num_classes

    def _check(self, student: nn.Module, teacher: nn.Module, dataset: TensorDataset) -> None:
        for name in ("z_dim", "w_dim", "resolution", "image_channels", "num_classes"):
            if student.config[name] != teacher.config[name]:
                raise ValueError(
                    f"train_distilled: {name} is {student.config[name]} in the student, {teacher.config[name]} in the teacher."
                )
        wanted = (student.config.image_channels, student.config.resolution, student.config.resolution)
        if tuple(dataset.tensors[0].shape[1:]) != wanted:
            raise ValueError(
                f"train_distilled: images are {tuple(dataset.tensors[0].shape[1:])}; the networks make {wanted}."
            )
        if self.config.perceptual_weight and self.perceptual is None:
            raise ValueError("train_distilled: perceptual_weight needs a perceptual distance, or 0.")

    @staticmethod
    def _student_names(student: nn.Module, teacher: nn.Module, layers: Sequence[str]) -> list[str]:
        """StyleGAN3's names hold widths: the student's layers at the same places."""
        if not hasattr(student.synthesis, "layer_names"):
            return list(layers)
        places = {f"synthesis.{name}": i for i, name in enumerate(teacher.synthesis.layer_names)}
        return [f"synthesis.{student.synthesis.layer_names[places[name]]}" for name in layers]

    # -- random numbers -----------------------------------------------------------------------------------------------

    def draws(self, phase: int, micro: int) -> dict[str, Any]:
        """This process's part of the step's random numbers, for one phase and micro-batch."""
        config, device = self.config, self.accelerator.device
        total = self.batch * self.parts
        random = torch.Generator().manual_seed(derive_seed(config.seed, self.progress.step, phase))
        z_dim, num_ws = self.teacher.generator.config.z_dim, self.teacher.generator.num_ws
        whole = {
            "z": torch.randn(total, z_dim, generator=random),
            "z2": torch.randn(total, z_dim, generator=random),
            "mixed": torch.rand(total, generator=random) < config.mixing_probability,
            "crossover": torch.randint(1, max(num_ws, 2), (total,), generator=random),
            "choices": torch.randint(len(self.directions), (total,), generator=random),
            "normals": torch.randn(total, generator=random),
            "labels": torch.randint(max(self.num_classes, 1), (total,), generator=random),
        }
        start = (micro * self.accelerator.num_processes + self.accelerator.process_index) * self.batch
        part = {name: value[start : start + self.batch].to(device) for name, value in whole.items()}
        if not self.conditional:
            part["labels"] = None
        shift = random_shifts(self.directions, part["normals"], part["choices"], config.shift_strength)
        base = derive_seed(config.seed, self.progress.step, phase, 1)
        for name, offset in (
            ("noise", 0),
            ("noise2", total),
            ("teacher_noise", 2 * total),
            ("teacher_noise2", 3 * total),
        ):
            part[name] = sample_generators(base, self.batch, start + offset, device)
        return part | {"shift": shift}

    def autocast(self, enabled: bool = True):
        enabled = enabled and self.config.mixed_precision == "bf16"
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=enabled)

    # -- phases -------------------------------------------------------------------------------------------------------

    def accumulate(self, network: nn.Module, optimizer, compute: Callable[[int], tuple[Tensor, dict]]) -> dict:
        """One optimizer step on the mean loss of the micro-batches."""
        found: dict[str, Tensor] = {}
        count = self.config.accumulation
        for micro in range(count):
            last = micro == count - 1
            context = self.accelerator.no_sync(network) if not last else torch.enable_grad()
            with context:
                loss, terms = compute(micro)
                self.accelerator.backward(loss / count)
            for name, value in terms.items():
                found[name] = found.get(name, 0) + value.detach() / count
        sanitize_gradients_(network.parameters())
        self.progress.check_finite(found)
        optimizer.step()
        optimizer.zero_grad()
        return found

    def generator_loss(self, micro: int) -> tuple[Tensor, dict]:
        config, draw = self.config, self.draws(0, micro)
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
            terms["relation"] = relation_loss(
                features, target_features, relation_batch=config.relation_batch, kind=config.relation_kind
            )
            loss = loss + config.relation_weight * terms["relation"]
        return loss, terms

    def path_loss(self, micro: int) -> tuple[Tensor, dict]:
        """Lazily regularized: the first half of the batch, times ``path_every``."""
        config, draw = self.config, self.draws(1, micro)
        half = max(1, self.batch // 2)
        draw = {name: value[:half] if value is not None else None for name, value in draw.items()}
        size, channels = self.average.config.resolution, self.average.config.image_channels
        draw["directions_of_images"] = torch.cat(
            [
                torch.randn(1, channels, size, size, generator=each, device=self.accelerator.device)
                for each in draw["noise2"]
            ]
        )
        images, lengths = self.student(draw, "lengths")
        mean = self.accelerator.reduce(lengths.detach().mean(), "mean")
        self.state.lengths.append(float(mean))
        penalty = (lengths - self.state.path_mean).square().mean()
        loss = penalty * config.path_weight * config.path_every
        return loss + _nothing(images), {"path": penalty}

    def discriminator_loss(self, real: Tensor, labels: Tensor | None, micro: int) -> tuple[Tensor, dict]:
        draw = self.draws(2, micro)
        with self.autocast():
            with torch.no_grad():
                images, _ = self.student(draw)
            generated = self.discriminator(self.augmented(images, 1, micro), draw["labels"]).logits
            of_real = self.discriminator(self.augmented(real, 2, micro), labels).logits
        self.state.signs.append(float(of_real.detach().sign().mean()))
        loss = LOSSES["logistic"][0](of_real, generated)
        return loss, {"loss_d": loss}

    def r1_loss(self, real: Tensor, labels: Tensor | None, micro: int) -> tuple[Tensor, dict]:
        real = real.detach().requires_grad_(True)
        logits = self.discriminator(self.augmented(real, 3, micro), labels).logits
        penalty = r1_penalty(logits, real)
        loss = penalty * self.config.r1_gamma * self.config.r1_every
        return loss + _nothing(logits), {"r1": penalty}

    def augmented(self, images: Tensor, use: int, micro: int) -> Tensor:
        if self.augment is None:
            return images
        start = (micro * self.accelerator.num_processes + self.accelerator.process_index) * self.batch
        seed = derive_seed(self.config.seed, self.progress.step, 10 + use)
        return self.augment(images, torch.Generator().manual_seed(seed), start, self.batch * self.parts)

    def step(self, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        config, now = self.config, self.progress.step
        real = []
        for micro, (images, labels) in enumerate(batches):
            images = to_model_range(images)
            if config.random_flip:
                start = (micro * self.accelerator.num_processes + self.accelerator.process_index) * self.batch
                random = torch.Generator().manual_seed(derive_seed(config.seed, now, 3))
                flips = torch.rand(self.batch * self.parts, generator=random)[start : start + self.batch] < 0.5
                images = torch.where(flips.to(images.device)[:, None, None, None], images.flip(3), images)
            real.append((images, labels if self.conditional else None))
        self.discriminator.requires_grad_(False)
        losses = self.accumulate(self.student, self.optimizer_g, self.generator_loss)
        if config.path_every and config.path_weight and now % config.path_every == 0:
            losses |= self.accumulate(self.student, self.optimizer_g, self.path_loss)
            self.state.update_path(config.path_decay)
        self.discriminator.requires_grad_(True)
        losses |= self.accumulate(
            self.discriminator, self.optimizer_d, lambda micro: self.discriminator_loss(*real[micro], micro)
        )
        if config.r1_every and now % config.r1_every == 0:
            losses |= self.accumulate(
                self.discriminator, self.optimizer_d, lambda micro: self.r1_loss(*real[micro], micro)
            )
        signs = torch.tensor(self.state.take_signs(), device=self.accelerator.device)
        sign = self.accelerator.reduce(signs.mean(), "mean")
        if self.augment is not None:
            self.augment.update(float(sign), self.batch * self.parts)
            losses["augment"] = torch.tensor(self.augment.probability)
        return losses | {"real": sign}

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> nn.Module:
        self.progress.resume()
        count = self.config.accumulation
        steps_per_epoch = len(self.loader) // count
        if not steps_per_epoch:
            raise ValueError("train_distilled: there are fewer images than one step takes.")
        with self.progress.running() as bar:
            while not self.progress.finished:
                epoch, start = divmod(self.progress.step, steps_per_epoch)
                self.loader.set_epoch(epoch)
                skip = start * count
                loader = self.accelerator.skip_first_batches(self.loader, skip) if skip else self.loader
                batches: list[tuple[Tensor, Tensor]] = []
                for batch in loader:
                    batches.append(batch)
                    if len(batches) == count:
                        self.advance(self.step(batches), bar)
                        batches = []
                        start += 1
                    if self.progress.finished or start == steps_per_epoch:
                        break
        for module in self.accelerator.unwrap_model(self.student).modules():
            remove_parametrization_(module)
        return without_spectral_norms(self.average)

    def advance(self, losses: dict[str, Tensor], bar) -> None:
        config, progress = self.config, self.progress
        progress.step += 1
        if config.svs_every and progress.step % config.svs_every == 0 and 2 * progress.step <= config.max_train_steps:
            scale_weights_(self.accelerator.unwrap_model(self.student).generator, RefineConfig(progress=False))
        half_life = config.ema_images
        if config.ema_rampup is not None:
            half_life = min(half_life, progress.images * config.ema_rampup)
        decay = 0.5 ** (progress.images_per_step / max(half_life, 1e-8))
        update_ema_(self.average, self.accelerator.unwrap_model(self.student).generator, decay)
        due = progress.step % config.validation_steps == 0 or progress.step == config.max_train_steps
        if due and self.accelerator.is_main_process:
            self.save_grid(progress.output / "samples" / f"step-{progress.step:07d}.png")
            if self.validate is not None:
                progress.log_figures(self.validate(self.average))
        progress.advance(losses, bar)

    @torch.no_grad()
    def save_grid(self, path: Path) -> None:
        """The same latents in every grid."""
        random = torch.Generator().manual_seed(self.config.seed)
        z = self.average.draw_latents(len(self.grid_labels), random).to(self.accelerator.device)
        labels = self.grid_labels.to(self.accelerator.device) if self.conditional else None
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image_grid(to_uint8(self.average(z, labels, noise_mode="const").sample), path, columns=10)


def _nothing(output: Tensor) -> Tensor:
    """Zero that depends on every parameter: processes wait for the gradients of all, also of biases that a penalty does not move."""
    return 0 * output.float().sum()


def add_spectral_norms_(student: nn.Module) -> None:
    """Divide every weight that Singular Value Scaling selects by its largest singular value, one power iteration a step."""
    for name in selection(student, RefineConfig())[0]:
        owner, _, leaf = name.rpartition(".")
        module = student.get_submodule(owner)
        if module._parameters[leaf].ndim >= 2:
            nn.utils.parametrizations.spectral_norm(module, leaf)


def without_spectral_norms(model: nn.Module) -> nn.Module:
    """The model, or a copy with divided weights where it has norms."""
    if not any(nn.utils.parametrize.is_parametrized(module) for module in model.modules()):
        return model
    model = copy.deepcopy(model)
    for module in model.modules():
        remove_parametrization_(module)
    return model


class PhaseState:
    """Running mean of path lengths, and what a step collects; saved with the training state."""

    def __init__(self) -> None:
        self.path_mean = 0.0
        self.lengths: list[float] = []
        self.signs: list[float] = []

    def update_path(self, decay: float) -> None:
        """Move the running mean by the lengths of a step."""
        self.path_mean += decay * (sum(self.lengths) / len(self.lengths) - self.path_mean)
        self.lengths = []

    def take_signs(self) -> list[float]:
        """Mean signs of D(real) of the step's micro-batches."""
        found, self.signs = self.signs, []
        return found

    def state_dict(self) -> dict:
        """For the checkpoint."""
        return {"path_mean": self.path_mean}

    def load_state_dict(self, state: dict) -> None:
        """From the checkpoint."""
        self.path_mean = state["path_mean"]
