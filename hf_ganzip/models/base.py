# SPDX-License-Identifier: Apache-2.0
"""What all models share: what they return, class labels (ids or rows), presets by name, repeatable loading, how
generators draw latents, and the checks of inputs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import torch
import torch.nn.functional as F
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from ..core.alignment import align_
from ..core.hub import named, unreachable
from ..core.registry import lookup


NOISE_MODES = ("random", "const", "none")
RandomSource = torch.Generator | list[torch.Generator] | None


@dataclass
class GeneratorOutput(BaseOutput):
    """Images of a generator.

    Args:
        sample: Float images (B, C, H, W), about [-1, 1].
    """

    sample: Tensor


@dataclass
class TranslationOutput(BaseOutput):
    """Output of a translation network.

    Args:
        sample: Images (B, C, H, W) float32 in [-1, 1].
        cam_logits: (B, 2): how the auxiliary classifiers of mean and maximum tell the source domain.
        heatmap: (B, 1, H / 4, W / 4): where the network looks; not normalized.
    """

    sample: Tensor
    cam_logits: Tensor
    heatmap: Tensor


@dataclass
class DiscriminatorOutput(BaseOutput):
    """Output of a discriminator.

    Args:
        logits: Realness scores (B, 1), or (B, 1, H, W) for patches; higher means more real.
        class_logits: (B, num_classes) of an auxiliary classifier, or None.
        twin_logits: (B, num_classes) of the twin classifier of TAC-GAN, or None.
        cam_logits: (B, 2) of the auxiliary classifiers of U-GAT-IT, or None.
        heatmap: (B, 1, H, W), where U-GAT-IT's discriminator looks, or None.
        quantization_loss: (B,) of feature quantizers, or None.
    """

    logits: Tensor
    class_logits: Tensor | None = None
    twin_logits: Tensor | None = None
    cam_logits: Tensor | None = None
    heatmap: Tensor | None = None
    quantization_loss: Tensor | None = None


def one_hot_labels(class_labels: Tensor | None, num_classes: int, batch: int, dtype: torch.dtype) -> Tensor | None:
    """Class ids (B,) int64 or rows (B, num_classes) to float rows (B, num_classes); None for unconditional models.

    Raises:
        ValueError: Labels missing for a conditional model, given to an unconditional one, or of a wrong shape.
    """
    if not num_classes:
        if class_labels is not None and class_labels.numel():
            raise ValueError("class_labels were given, but this model has num_classes=0; pass class_labels=None.")
        return None
    if class_labels is None:
        raise ValueError(
            f"class_labels is required: the model has {num_classes} classes. "
            f"Pass ids of shape ({batch},) in 0..{num_classes - 1} or one-hot rows ({batch}, {num_classes})."
        )
    if class_labels.ndim == 1 and class_labels.shape[0] == batch:
        return F.one_hot(class_labels.long(), num_classes).to(dtype)
    if class_labels.shape == (batch, num_classes):
        return class_labels.to(dtype)
    raise ValueError(
        f"class_labels has shape {tuple(class_labels.shape)}; "
        f"allowed are ids ({batch},) or one-hot rows ({batch}, {num_classes})."
    )


class AlignedMixin:
    """Loading that gives the same bits as the saved model."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        """diffusers' ``from_pretrained``; tensors are aligned, so that outputs repeat the saved model's exactly."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]  # ModelMixin's
        align_(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded


class NamedMixin(AlignedMixin):
    """Loading by bundled names, too, and of no other class than this."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        """diffusers' ``from_pretrained`` of a folder, a bundled name or a Hub id.

        Tensors are aligned, so that the outputs repeat those of the saved model exactly.

        Raises:
            ValueError: A name that is none of these; suggests the nearest. Or the model of another class.
        """
        folder = named(pretrained_model_name_or_path)
        if not Path(folder).exists() and unreachable():
            kwargs["local_files_only"] = True  # what is not in the cache fails at once
        return super().from_pretrained(folder, **kwargs)

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        """diffusers' ``load_config``, which ``from_pretrained`` calls.

        Raises:
            ValueError: The config of another class, from which diffusers would build this one with random weights.
        """
        loaded = super().load_config(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]  # ConfigMixin's
        saved = (loaded[0] if isinstance(loaded, tuple) else loaded).get("_class_name")
        other = None if saved is None or saved == cls.__name__ else class_named(saved)
        if other and not (issubclass(cls, other) or issubclass(other, cls)):
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a {saved}, no {cls.__name__}; use {saved}.from_pretrained, or "
                "hf_ganzip.load_model, which finds the class."
            )
        return loaded


def class_named(name: str) -> type | None:
    """The model class of this library or of diffusers; None if neither has it."""
    found = getattr(sys.modules[__package__], name, None) or getattr(diffusers, name, None)
    return found if isinstance(found, type) and issubclass(found, diffusers.ModelMixin) else None


class PresetMixin(NamedMixin):
    """Published configurations by name."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> Any:
        """A freshly initialized model of a published configuration.

        Args:
            name: Key of ``PRESETS``.
            **changes: Options that differ from the preset.

        Raises:
            ValueError: No such preset.
        """
        return cls(**{**lookup(cls.PRESETS, name, "preset"), **changes})


class DiscriminatorMixin(PresetMixin):
    """A model called as ``discriminator(images, class_labels)``, with feature quantizers if its config has some."""

    config: Any  # ConfigMixin's

    def restore_feature_quantizers(self, places: Mapping[str, Mapping[str, Any]] | None) -> None:
        """Build the quantizers of the option ``feature_quantizers``; see :func:`.add_feature_quantizers`."""
        if places:
            from ..training.feature_quantization import add_feature_quantizers  # a lower room, only where it is used

            add_feature_quantizers(self, places)  # type: ignore[arg-type]  # a module, once mixed in

    def forward(
        self, images: Tensor, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> DiscriminatorOutput | tuple[Tensor, ...]:
        """Score images.

        Args:
            images: Float (B, C, H, W), about [-1, 1].
            class_labels: Ids (B,) int64 or rows (B, num_classes), for networks that need them.
            return_dict: False returns a plain tuple.

        Returns:
            ``.logits`` (B, 1), or (B, 1, h, w) for patches, and what else the network finds.

        Raises:
            ValueError: Wrong image shape or class labels, or a batch that the network cannot divide.
        """
        check_images(images, self.config.image_channels, self.config.get("resolution"))
        output = self.score(images, class_labels)
        return output if return_dict else output.to_tuple()

    def score(self, images: Tensor, class_labels: Tensor | None) -> DiscriminatorOutput:
        """:meth:`forward` of checked images."""
        raise NotImplementedError


class GeneratorMixin(PresetMixin):
    """A model called as ``generator(z, class_labels, truncation_psi=, noise_mode=, generator=)``."""

    config: Any  # ConfigMixin's
    truncates_only_latents: ClassVar[bool] = False  # forward does not use truncation_psi
    discriminator_phase: ClassVar[dict[str, Any]] = {}  # options of a call in the discriminator's phase of training

    def draw_latents(
        self, count: int, generator: RandomSource = None, device: Any = None, truncation_psi: float = 1.0
    ) -> Tensor:
        """Latents z (count, z_dim) float32 for :meth:`forward` with the same ``truncation_psi``, standard normal.

        Args:
            count: Number of samples.
            generator: Random source; a list of ``count`` sources makes z_i depend on the i-th only.
            device: Of the result.
            truncation_psi: Used by models that truncate z itself.

        Raises:
            ValueError: A list of sources of another length.
        """
        check_sources(generator, count)
        return randn_tensor((count, self.config.z_dim), generator=generator, device=device)


class RecomputingModule(nn.Module):
    """A network that, with gradient checkpointing, keeps no features within its layers and computes them again."""

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any]  # set by diffusers

    def run(self, layer: nn.Module, *args: Any, **draw: RandomSource) -> Any:
        """``layer(*args, **draw)``; ``draw`` is the ``generator`` of a layer that draws noise."""
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(drawing_once(layer, **draw), *args)
        return layer(*args, **draw)


def drawing_once(block: nn.Module, generator: RandomSource = None) -> Callable[..., Any]:
    """``block`` for gradient checkpointing, which calls it twice: with the same noise.

    Afterwards ``generator`` is where the first call left it, as torch does it for its global generator.
    """
    sources = [] if generator is None else generator if isinstance(generator, list) else [generator]
    draw = {} if generator is None else {"generator": generator}
    first = [source.get_state() for source in sources]
    repeated = False

    def run(*args: Any) -> Any:
        nonlocal repeated
        if not repeated:
            repeated = True
            return block(*args, **draw)
        now = [source.get_state() for source in sources]
        try:
            for source, state in zip(sources, first):
                source.set_state(state)
            return block(*args, **draw)
        finally:  # torch ends it by an exception as soon as it has what it needs
            for source, state in zip(sources, now):
                source.set_state(state)

    return run


def check_noise_mode(noise_mode: str) -> None:
    """Raise ValueError for an unknown noise mode."""
    if noise_mode not in NOISE_MODES:
        raise ValueError(f"noise_mode is {noise_mode!r}; allowed are {', '.join(NOISE_MODES)}.")


def check_latents(z: Tensor, z_dim: int) -> None:
    """Raise ValueError unless ``z`` has the shape (batch, z_dim)."""
    if z.ndim != 2 or z.shape[1] != z_dim:
        raise ValueError(f"z has shape {tuple(z.shape)}; allowed is (batch, {z_dim}).")


def check_sources(generator: RandomSource, count: int) -> None:
    """Raise ValueError for a list of random sources that has not one per sample, TypeError for a seed."""
    if isinstance(generator, int):
        raise TypeError(f"generator is {generator}; allowed is a source: torch.Generator().manual_seed({generator}).")
    if isinstance(generator, list) and len(generator) != count:
        raise ValueError(
            f"generator is a list of {len(generator)} for {count} samples; allowed are one per sample, or one "
            "generator that is no list."
        )


def check_images(images: Tensor, channels: int, side: int | None = None) -> None:
    """Raise ValueError unless ``images`` has the shape (batch, channels, side, side); None: any height and width."""
    sides = ("H", "W") if side is None else (side, side)
    if images.ndim != 4 or images.shape[1] != channels or side is not None and tuple(images.shape[2:]) != sides:
        raise ValueError(
            f"images has shape {tuple(images.shape)}; allowed is (batch, {channels}, {sides[0]}, {sides[1]})."
        )


def width_pairs(channels: Sequence[Any]) -> list[tuple[int, int]]:
    """(first, second) widths of every block from widths or pairs."""
    return [(entry, entry) if isinstance(entry, int) else tuple(entry) for entry in channels]


def width_entry(first: int, second: int) -> int | tuple[int, int]:
    """The widths of a block as configs have them: one if they are equal, else a pair."""
    return first if first == second else (first, second)
