# SPDX-License-Identifier: Apache-2.0
"""Learned rounding (latent distillation): codes and scales that repeat the model's own outputs, without data."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...core.modes import evaluating, only_gradients_of, watching
from ...families import family_of
from ...families.passes import Calibration, Pass
from ..calibration import CalibrationTask, Rounder, substituted
from ..grid import QuantizedRows
from .base import base_method
from .batch_moments import moment_error
from .gptq import GPTQ
from .learned_weight import Student


_CHECK_EVERY = 25  # steps between measurements on held-out inputs
_HELD_OUT = 2  # batches
_DIVERGED = 3.0  # times the error before the first step, or times this share of the output:
_SMALL = 1e-2
_DEFAULTS = {
    "steps": 500,
    "batch_size": 32,
    "learning_rate": 0.01,
    "scale_learning_rate": 0.002,
    "feature_weight": 3.0,
    "moment_weight": 10.0,
}  # of generators; those of diffusion models are in their families
_OF_PARTS = {"batch_size": 256, "feature_weight": 0.0, "moment_weight": 0.0, "tune": "none"}
_WARM_UP = 10  # steps: the first of Adam are as large as all others, however small the gradient


@dataclass(frozen=True)
class LatentDistill:
    r"""Train the rounding of all layers together against the full-precision model, on inputs that the model provides.

    A weight is :math:`w = s\,(c[\mathrm{nearest}(v)] + v - \mathrm{sg}(v))`: v, in units of the scale, chooses the
    level (gradients pass straight through), scales s and levels c are trained with it, and so are the parameters that
    are stored in full precision anyway (``tune``). The loss is the squared error of the output and of every quantized
    layer's output, each relative to its size. Every 25 steps the error of the output is measured on held-out inputs;
    the best state is what stays.

    The squared error alone prefers images that vary less: samples are closer to those of the full-precision model, one
    by one, than those of :class:`.GPTQ`, while their distribution is further away and recall is lower. Means and
    deviations over the batch in the loss keep it.

    The mapping network of a StyleGAN, on which all layers depend, is trained by itself first, with as many steps of 256
    styles: a few seconds.

    Inputs are latents z ~ N(0, I) for GANs and the model's own noisy trajectories for diffusion models: no image is
    needed.

    Args:
        base: Name or object of the method that gives the start: codes, levels and scales.
        steps: Optimizer steps; None: 500, or 300 of diffusion models.
        batch_size: Samples in each, of diffusion models each at a timestep of its own; None: 32, or 8.
        learning_rate: Of v, in units of the distance between levels (Adam, cosine decay); None: 0.01, or 0.004.
        scale_learning_rate: Of log s, of the levels and of the parameters in full precision; None: 0.002, or 0.0005.
        feature_weight: Weight of the layers' outputs against that of the model's output; None: 3, or 0.3.
        moment_weight: Weight of means and deviations over the batch (:func:`.moment_error`), of the output and of the
            layers' outputs, so that images do not vary less; None: 10, 3 of a BigGAN, or 0 of diffusion models.
        tune: Which parameters in full precision are trained, too: "all", "biases" or "none". None is stored larger for
            it.
        seed: Of the inputs.
        inputs: Function (model, batch_size, seed) -> iterator of functions model -> output, instead of the model's own
            inputs.
        checkpoint_dir: Folder in which the state is kept every 25 steps; a run that finds one goes on from it.
        progress: Show a progress bar.

    Source:
        This library; related: Nagel et al., "Up or down?" (AdaRound); Esser et al., "Learned step size quantization".
    """

    base: Any = "gptq"
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    scale_learning_rate: float | None = None
    feature_weight: float | None = None
    moment_weight: float | None = None
    tune: str = "all"
    seed: int = 0
    inputs: Calibration | None = None
    checkpoint_dir: str | None = field(default=None, metadata={"recorded": False})
    progress: bool = field(default=True, metadata={"recorded": False})

    def __post_init__(self):
        if not all(number is None or number >= 1 for number in (self.steps, self.batch_size)):
            raise ValueError(
                f"latent_distill: steps is {self.steps}, batch_size {self.batch_size}; allowed are 1 and more."
            )
        if self.moment_weight is not None and self.moment_weight < 0:
            raise ValueError(f"latent_distill: moment_weight is {self.moment_weight}; allowed are 0 and more.")
        if self.tune not in ("all", "biases", "none"):
            raise ValueError(f"latent_distill: tune is {self.tune!r}; allowed are all, biases, none.")

    def __call__(self, rows: Tensor, bits: int, scale_dtype: torch.dtype = torch.float32) -> QuantizedRows:
        """The start of :meth:`calibrate`."""
        return self._base()(rows, bits, scale_dtype)

    def _base(self) -> Any:
        if self.base == "gptq":
            return GPTQ(seed=self.seed, inputs=self.inputs, progress=self.progress)
        return base_method(self.base, calibrated=True)

    def rounder(self, task: CalibrationTask) -> Rounder | None:
        """That of the method which gives the start, if it has one."""
        return getattr(self._base(), "rounder", lambda _: None)(task)

    def calibrate(self, task: CalibrationTask) -> tuple[dict[str, QuantizedRows], dict[str, Tensor]]:
        """Trained codes and scales of every layer of the task, and the tuned parameters, both by name."""
        family = family_of(task.model)
        values = _DEFAULTS | dict(family.distillation if family else {})
        options = dataclasses.replace(self, **{n: v for n, v in values.items() if getattr(self, n) is None})
        base = self._base()
        if hasattr(base, "calibrate"):
            better, _ = base.calibrate(task)
            task = dataclasses.replace(task, start={**task.start, **better})
        for module, inputs in (family.parts if family and self.inputs is None else {}).items():
            own = [name for name in task.own if name.startswith(f"{module}.")]
            if own:
                part = dataclasses.replace(task, own=own, settings={name: task.settings[name] for name in own})
                folder = None if self.checkpoint_dir is None else str(Path(self.checkpoint_dir, module))
                of_part = dataclasses.replace(options, **_OF_PARTS, inputs=inputs, checkpoint_dir=folder)
                task = dataclasses.replace(task, start={**task.start, **of_part._trained(part, f", {module}")[0]})
        return options._trained(task)

    def _trained(self, task: CalibrationTask, title: str = "") -> tuple[dict[str, QuantizedRows], dict[str, Tensor]]:
        model = task.working_model()
        student = Student(task, model, self.tune)
        optimizer = torch.optim.Adam(
            student.parameter_groups(self.learning_rate, self.scale_learning_rate), betas=(0.9, 0.999)
        )
        with only_gradients_of((), model), evaluating(model):
            _Run(self, task, model, student, optimizer).train(f"latent_distill{title}")
        return student.result()

    @staticmethod
    def rotates(bits: int, denoiser: bool) -> bool:
        """Where ``hadamard`` is None."""
        return bits <= 4 and not denoiser


class _Run:
    """The training loop: batches, held-out error, best state, checkpoints."""

    def __init__(self, options, task, model, student, optimizer):
        self.options, self.task, self.model, self.student, self.optimizer = options, task, model, student, optimizer
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.best: tuple[float, dict[str, Tensor]] = (math.inf, student.state())
        self.start, self.first = 0, math.inf
        self.outputs: list[Tensor] = []  # of the layers in the order of the forward pass

    def train(self, title: str) -> None:
        options = self.options
        batches = self.task.batches(options.inputs, options.batch_size, options.seed, mixed=True)
        held_out = [next(batches) for _ in range(_HELD_OUT)]
        self._resume()
        for _ in range(self.start):
            next(batches)
        if not self.start:
            self.first = self.measure(held_out)
            self.best = (self.first, self.student.state())
        layers = {name: self.model.get_submodule(name) for name in self.student.layers}
        bar = tqdm(total=options.steps, initial=self.start, desc=title, disable=not options.progress)
        with bar, watching(layers, lambda name, module, args, output: self.outputs.append(output)):
            for step in range(self.start, options.steps):
                share = min(1, (step + 1) / _WARM_UP)
                for group, rate in zip(self.optimizer.param_groups, self.rates):
                    group["lr"] = rate * share * (1 + math.cos(math.pi * step / options.steps)) / 2
                loss = self.step(next(batches))
                bar.update()
                last = step + 1 == options.steps
                if not math.isfinite(loss) or ((step + 1) % _CHECK_EVERY == 0 or last):
                    error = self.measure(held_out) if math.isfinite(loss) else math.inf
                    if error < self.best[0]:
                        self.best = (error, self.student.state())
                    bar.set_postfix(error=f"{error:.2e}", best=f"{self.best[0]:.2e}")
                    if error > _DIVERGED * max(self.first, _SMALL):
                        warnings.warn(
                            f"latent_distill: diverged at step {step + 1} (error {error:.3g}, {self.first:.3g} before "
                            "the first step); stopped, and the best state is kept. Lower learning_rate.",
                            stacklevel=2,
                        )
                        break
                    self._save(step + 1)
        self.student.load(self.best[1])

    def _pass(self, forward: Pass) -> tuple[Tensor, list[Tensor]]:
        """Outputs of the model and of its layers."""
        self.outputs.clear()
        return forward(self.model), self.outputs.copy()

    def step(self, forward: Pass) -> float:
        """One optimizer step; returns the loss."""
        with torch.no_grad():
            target, features = self._pass(forward)
        with substituted(self.model, self.student.tensors()):
            output, own = self._pass(forward)
        loss = _relative_error(output, target)
        if own and self.options.feature_weight:
            layers = torch.stack([_relative_error(a, b) for a, b in zip(own, features)])
            loss = loss + self.options.feature_weight * layers.mean()
        if self.options.moment_weight:
            loss = loss + self.options.moment_weight * moment_error(output, target)
            if own:
                moments = torch.stack([moment_error(a, b) for a, b in zip(own, features)])
                loss = loss + self.options.moment_weight * moments.mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if bool(torch.isfinite(loss)):
            self.optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def measure(self, batches: list[Pass]) -> float:
        """Relative squared error of the output on held-out inputs."""
        tensors = self.student.tensors()
        errors = []
        for forward in batches:
            target = forward(self.model)
            with substituted(self.model, tensors):
                errors.append(float(_relative_error(forward(self.model), target)))
        self.outputs.clear()
        return sum(errors) / len(errors)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _file(self) -> Path | None:
        return None if self.options.checkpoint_dir is None else Path(self.options.checkpoint_dir, "state.safetensors")

    def _save(self, step: int) -> None:
        from safetensors.torch import save_file

        file = self._file()
        if file is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        state = {f"now/{name}": tensor for name, tensor in self.student.state().items()}
        state |= {f"best/{name}": tensor for name, tensor in self.best[1].items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            state |= {f"adam/{number}/{name}": torch.as_tensor(value).clone() for name, value in values.items()}
        temporary = file.with_suffix(".tmp")
        numbers = {"step": str(step), "first": repr(self.first), "best": repr(self.best[0])}
        save_file(state, temporary, metadata=numbers | {"of": self._identity})
        temporary.replace(file)

    def _resume(self) -> None:
        from safetensors import safe_open

        file = self._file()
        if file is None or not file.is_file():
            return
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata()
            if metadata["of"] != self._identity:
                raise ValueError(f"latent_distill: {file} belongs to another run; choose another checkpoint_dir.")
            state = {name: stored.get_tensor(name) for name in stored.keys()}
        self.start, self.first = int(metadata["step"]), float(metadata["first"])
        self.student.load({name[4:]: tensor for name, tensor in state.items() if name.startswith("now/")})
        best = {name[5:]: tensor for name, tensor in state.items() if name.startswith("best/")}
        self.best = (float(metadata["best"]), best)
        adam: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith("adam/"):
                _, number, part = name.split("/")
                adam.setdefault(int(number), {})[part] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": adam})

    @functools.cached_property
    def _identity(self) -> str:
        """What must be the same for a checkpoint to fit: options, model and start, the latter without the codes of
        calibrated
        layers, which follow and may differ by the rounding of a GPU."""
        layers = {name: (layer.bits, tuple(layer.position.shape)) for name, layer in self.student.layers.items()}
        digest = hashlib.sha256(repr((_described(self.options), layers)).encode())
        tensors = [*self.model.named_parameters(), *self.model.named_buffers()]
        for name, rows in self.task.start.items():
            parts = {"scale": rows.scale, "offset": rows.offset, "codebook": rows.codebook, "sources": rows.sources}
            parts |= {} if name in layers else {"codes": rows.codes}
            tensors += [(f"{name} {part}", tensor) for part, tensor in parts.items() if tensor is not None]
        for name, tensor in tensors:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _described(value: Any) -> str:
    """An option or method by what it computes: dataclasses by recorded fields, other objects by their names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f.name for f in dataclasses.fields(value) if f.metadata.get("recorded", True)]
        return repr((type(value).__qualname__, [(name, _described(getattr(value, name))) for name in fields]))
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _relative_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the mean square of the target."""
    return (output - target).square().mean() / target.square().mean().clamp_min(1e-12)
