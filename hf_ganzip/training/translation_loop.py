# SPDX-License-Identifier: Apache-2.0
"""Training loop for unpaired image translation (U-GAT-IT) with Accelerate: one process or many, exact resume.

All random numbers of a step, the chosen images among them, are drawn for the whole step from (seed, step); every
process takes its part.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.seeding import derive_seed
from ..images import to_model_range, to_uint8
from ..images.grids import save_image_grid
from .feature_quantization import PendingStatistics, codes_in_use, phase, update_codebooks_, warn_of_dead_codebooks
from .run import TrainingRun
from .run_config import SECOND_HALF, RunConfig, enable_gradient_checkpointing_


_ENLARGED = 286 / 256  # size before random crops, relative to the training size
_ENLARGED_AT_A_TIME = 64  # images


@dataclasses.dataclass(frozen=True)
class TranslationConfig(RunConfig):
    """Options of :func:`train_translation`; defaults are those of UGATIT-pytorch."""

    max_train_steps: int = 1_000_000
    train_batch_size: int = 1  # images of each domain, per process
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    lr_scheduler: str = SECOND_HALF  # as published
    adversarial_weight: float = 1.0
    cycle_weight: float = 10.0
    identity_weight: float = 10.0
    cam_weight: float = 1000.0
    augment: bool = True  # mirror, enlarge by 286 / 256, crop

    def __post_init__(self):
        super().__post_init__()
        if self.dataloader_num_workers:
            raise ValueError(
                f"dataloader_num_workers is {self.dataloader_num_workers}; allowed is 0: the images are in memory and "
                "cut there."
            )


def enlarged(resolution: int) -> int:
    """Side of the images that :func:`train_translation` takes for random crops of ``resolution``."""
    return round(resolution * _ENLARGED)


def enlarge_images(images: Tensor) -> Tensor:
    """uint8 (N, C, S, S) from S to :func:`enlarged` pixels a side: bicubic, with antialiasing."""
    side = enlarged(images.shape[-1])
    parts = [
        F.interpolate(part.float(), (side, side), mode="bicubic", antialias=True).round().clamp(0, 255)
        for part in images.split(_ENLARGED_AT_A_TIME)
    ]
    return torch.cat([part.to(torch.uint8) for part in parts])


class Generators(nn.Module):
    """Both directions in one forward pass."""

    def __init__(self, a_to_b: nn.Module, b_to_a: nn.Module):
        super().__init__()
        self.a_to_b, self.b_to_a = a_to_b, b_to_a

    def forward(self, a: Tensor, b: Tensor, cycle: bool = True) -> dict[str, tuple[Tensor, Tensor]]:
        """Images and CAM logits of the translations, and with ``cycle`` of the way back and of the identities."""
        made = {"b": self._run(self.a_to_b, a), "a": self._run(self.b_to_a, b)}
        if cycle:
            made["cycle_a"] = self._run(self.b_to_a, made["b"][0])
            made["cycle_b"] = self._run(self.a_to_b, made["a"][0])
            made["same_a"], made["same_b"] = self._run(self.b_to_a, a), self._run(self.a_to_b, b)
        return made

    @staticmethod
    def _run(generator: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        output = generator(images)
        return output.sample, output.cam_logits


class Discriminators(nn.Module):
    """A global and a local discriminator for each domain, in one forward pass."""

    def __init__(self, global_a: nn.Module, local_a: nn.Module, global_b: nn.Module, local_b: nn.Module):
        super().__init__()
        self.domains = nn.ModuleDict(
            {"a": nn.ModuleList([global_a, local_a]), "b": nn.ModuleList([global_b, local_b])}
        )

    def forward(self, images: dict[str, tuple[Tensor, ...]]) -> dict[str, list[list[tuple]]]:
        """For every domain and batch: (logits, CAM logits, quantization loss or None) of both discriminators."""
        found = {}
        for domain, batches in images.items():
            outputs = [[discriminator(batch) for discriminator in self.domains[domain]] for batch in batches]
            found[domain] = [[(out.logits, out.cam_logits, out.quantization_loss) for out in both] for both in outputs]
        return found


def discriminator_loss(real: list[tuple], generated: list[tuple]) -> Tensor:
    """Least squares of logits and CAM logits: real 1, generated 0; quantization losses are added.

    Source:
        U-GAT-IT, section 2.2, in the form of UGATIT-pytorch.
    """
    total = real[0][0].new_zeros((), dtype=torch.float32)
    for outputs, target in ((real, 1.0), (generated, 0.0)):
        for logits, cam, quantization in outputs:
            total = total + (logits.float() - target).square().mean() + (cam.float() - target).square().mean()
            if quantization is not None:
                total = total + quantization.mean()
    return total


def generator_terms(
    a: Tensor, b: Tensor, made: dict[str, tuple[Tensor, Tensor]], judged: dict[str, list[list[tuple]]]
) -> dict[str, Tensor]:
    """Loss terms of both directions together: adversarial, cycle, identity, cam; quantization, if there is one.

    Source:
        As :func:`discriminator_loss`.
    """
    adversarial, quantization = a.new_zeros((), dtype=torch.float32), None
    for (outputs,) in judged.values():
        for logits, cam, extra in outputs:
            adversarial = adversarial + (logits.float() - 1).square().mean() + (cam.float() - 1).square().mean()
            if extra is not None:
                quantization = extra.mean() + (0 if quantization is None else quantization)
    cam = sum(_bce(made[n][1], 1.0) for n in "ab") + sum(_bce(made[f"same_{n}"][1], 0.0) for n in "ab")
    terms = {
        "adversarial": adversarial,
        "cycle": F.l1_loss(made["cycle_a"][0], a) + F.l1_loss(made["cycle_b"][0], b),
        "identity": F.l1_loss(made["same_a"][0], a) + F.l1_loss(made["same_b"][0], b),
        "cam": cam,
    }
    return terms if quantization is None else terms | {"quantization": quantization}


def _bce(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits, target, dtype=torch.float32))


def train_translation(
    generators: Generators,
    discriminators: Discriminators,
    images_a: Tensor,
    images_b: Tensor,
    config: TranslationConfig,
    accelerator: Accelerator,
) -> Generators:
    """Train in place; checkpoints, sample grids and a log go to ``config.output_dir``.

    Args:
        generators: Both directions.
        discriminators: Those of both domains.
        images_a: uint8 (N, C, S, S) of one domain; with ``config.augment`` S is :func:`enlarged`, else the generators'
            resolution.
        images_b: Of the other domain; any number.
        config: Options.
        accelerator: With ``mixed_precision="no"``; the loop applies ``config.mixed_precision`` itself.

    Raises:
        ValueError: Images do not fit.
        FileExistsError: ``config.output_dir`` holds a run that is not continued.
        SystemExit: A signal stopped the run; there is a checkpoint.
        FloatingPointError: A loss is not finite; the last checkpoint is kept.

    Source:
        Kim et al., "U-GAT-IT"; feature quantization of the global discriminators as in FQ-GAN.
    """
    return _Training(generators, discriminators, images_a, images_b, config, accelerator).run()


class _Training(TrainingRun):
    accumulates = False

    def __init__(self, generators, discriminators, images_a, images_b, config, accelerator):
        enable_gradient_checkpointing_(config, *generators.children())
        self.size = generators.a_to_b.config.resolution
        side = enlarged(self.size) if config.augment else self.size
        channels = generators.a_to_b.config.image_channels
        for name, images in (("a", images_a), ("b", images_b)):
            if tuple(images.shape[1:]) != (channels, side, side) or not len(images):
                raise ValueError(
                    f"train_translation: images_{name} are {tuple(images.shape)}; allowed are (N, {channels}, {side}, "
                    f"{side}), N >= 1."
                )
        self.images = {"a": images_a, "b": images_b}
        images_per_step = config.train_batch_size * accelerator.num_processes
        config = config.in_steps(max(len(images_a), len(images_b)) // images_per_step)

        def adam(model: nn.Module) -> torch.optim.Adam:
            return torch.optim.Adam(
                model.parameters(), config.learning_rate, betas=(0.5, 0.999), weight_decay=config.weight_decay
            )

        self.generators, self.discriminators, self.optimizer_g, self.optimizer_d = accelerator.prepare(
            generators.train(), discriminators.train(), adam(generators), adam(discriminators)
        )
        super().__init__(accelerator, config, generators, images_per_step)
        self.register(PendingStatistics(discriminators), lr_g=self.optimizer_g, lr_d=self.optimizer_d)

    def save_models(self, folder: Path) -> None:
        for name, generator in self.trained.named_children():
            generator.save_pretrained(folder / f"generator_{name}")

    def batch(self, domain: str) -> Tensor:
        """This process's images of the step, (B, C, S, S) in [-1, 1]."""
        config, images = self.config, self.images[domain]
        random = torch.Generator().manual_seed(derive_seed(config.seed, self.step, domain == "b"))
        total = config.train_batch_size * self.accelerator.num_processes
        chosen = torch.randint(len(images), (total,), generator=random)
        flips = torch.rand(total, generator=random) < 0.5
        room = images.shape[-1] - self.size
        corners = torch.randint(room + 1, (total, 2), generator=random)
        start = self.accelerator.process_index * config.train_batch_size
        found = []
        for index in range(start, start + config.train_batch_size):
            top, left = corners[index].tolist()
            image = images[chosen[index], :, top : top + self.size, left : left + self.size]
            found.append(image.flip(2) if config.augment and flips[index] else image)
        return to_model_range(torch.stack(found).to(self.accelerator.device))

    def train_step(self) -> dict[str, Tensor]:
        config, accelerator = self.config, self.accelerator
        a, b = self.batch("a"), self.batch("b")
        with self.autocast():
            with torch.no_grad():
                made = self.generators(a, b, cycle=False)
            judged = self.discriminators({"a": (a, made["a"][0]), "b": (b, made["b"][0])})
            terms = {f"loss_d_{name}": discriminator_loss(*outputs) for name, outputs in judged.items()}
            loss = config.adversarial_weight * sum(terms.values())
        accelerator.backward(loss)
        update_codebooks_(self.discriminators)
        self.optimize(self.discriminators, self.optimizer_d)

        self.discriminators.requires_grad_(False)
        with self.autocast(), phase(self.discriminators, "g"):
            made = self.generators(a, b)
            judged = self.discriminators({name: (made[name][0],) for name in ("a", "b")})
            found = generator_terms(a, b, made, judged)
            weights = {"cycle": config.cycle_weight, "identity": config.identity_weight, "cam": config.cam_weight}
            weights["adversarial"] = config.adversarial_weight
            loss = sum(weights.get(name, 1.0) * value for name, value in found.items())
        accelerator.backward(loss)
        self.optimize(self.generators, self.optimizer_g)
        self.discriminators.requires_grad_(True)
        for generator in self.trained.children():
            generator.clip_rho_()
        used = codes_in_use(accelerator.unwrap_model(self.discriminators))
        return {name: value.detach() for name, value in (terms | found).items()} | used

    def run(self) -> Generators:
        self.resume()
        dead: set[str] = set()  # codebooks that a warning has named
        with self.running():
            while not self.finished:
                losses = self.train_step()
                self.check_finite(losses)
                self.after_step(losses)
                if self.logging_due and self.accelerator.is_main_process:
                    warn_of_dead_codebooks(self.accelerator.unwrap_model(self.discriminators), dead)
        return self.trained

    def save_grid(self, models: Generators, path: Path) -> None:
        """Four images of each domain: original, translation, way back, identity; first and later images of each set."""
        rows = []
        for domain, there, back in (("a", models.a_to_b, models.b_to_a), ("b", models.b_to_a, models.a_to_b)):
            images, size = self.images[domain], self.size
            every = max(1, len(images) // 4)
            room = (images.shape[-1] - size) // 2
            chosen = images[::every][:4, :, room : room + size, room : room + size].to(self.accelerator.device)
            shown = to_model_range(chosen)
            translated = there(shown).sample
            for column in (shown, translated, back(translated).sample, back(shown).sample):
                rows.append(to_uint8(column).cpu())
        count = min(len(row) for row in rows)
        grid = torch.cat([torch.stack([row[i] for row in rows[k : k + 4]]) for k in (0, 4) for i in range(count)])
        save_image_grid(grid, path, columns=4)
