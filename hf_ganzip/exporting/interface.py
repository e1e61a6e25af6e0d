# SPDX-License-Identifier: Apache-2.0
"""What an exported network is called with: names, examples, dynamic dimensions, and how they reach the model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..families import example_inputs, map_tensors
from ..models.biggan_deep import BigGANDeepGenerator


NOISES = ("input", "const", "none")
_UNBATCHED = ("img_ids", "txt_ids")
_TOKENS = {"encoder_hidden_states": 1, "txt_ids": 0}  # input -> axis of the tokens of a text
_BATCH = 2  # of example inputs


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of the file.

    Args:
        network: Takes the inputs by name and gives a tuple of tensors; has the model as its only child, ``model``.
        example: Input -> tensor, of two samples.
        dynamic: Input -> axis -> name of the dimension, of those that may have any size.
        outputs: Names.
        noise: Buffers of the model that the input ``noise`` (B, all their elements) takes the place of.
        settings: What a caller must know, for ``config.json``.
        unused: Beginnings of the names of tensors that the network does not use; torch cannot trace with them.
    """

    network: nn.Module
    example: dict[str, Tensor]
    dynamic: dict[str, dict[int, str]]
    outputs: tuple[str, ...]
    noise: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def draw(self, batch: int, seed: int) -> dict[str, Tensor]:
        """Other inputs of these shapes for ``batch`` samples: N(0, 1) for floats, else the example's values in turn."""
        generator = torch.Generator().manual_seed(seed)
        found = {}
        for name, example in self.example.items():
            shape = [batch if self.dynamic[name].get(axis) == "batch" else n for axis, n in enumerate(example.shape)]
            if name in _UNBATCHED or not example.is_floating_point() or example.ndim < 2 and name != "truncation_psi":
                each = torch.randint(len(example), (batch,), generator=generator)
                found[name] = example[each] if 0 in self.dynamic[name] else example
            elif name == "class_labels":
                found[name] = torch.eye(shape[1])[torch.randint(shape[1], (batch,), generator=generator)]
            elif name == "truncation_psi":
                found[name] = 0.5 + torch.rand(shape, generator=generator)
            else:
                found[name] = torch.randn(shape, generator=generator)
        return found


class _Network(nn.Module):
    """A model and how it is called: ``call(model, **inputs, **options)`` gives a tuple of tensors."""

    def __init__(self, call: Callable[..., tuple[Tensor, ...]], model: nn.Module, **options: Any):
        super().__init__()
        self.call, self.model, self.options = call, model, options

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        return self.call(self.model, **inputs, **self.options)


def _styled(model, z, class_labels=None, truncation_psi=None, *, psi, label, noise_mode):
    """A StyleGAN: z, class rows and psi of each style to images and the styles."""
    rows = _baked_rows(z, model.config.num_classes, label) if class_labels is None else class_labels
    ws = model.mapping(z, rows, truncation_psi=1.0 if psi is None else psi)
    if truncation_psi is not None:
        average = model.mapping.w_avg
        ws = average + truncation_psi[:, None] * (ws - average)
    return model.synthesize(ws, noise_mode=noise_mode), ws


def _unstyled(model, z, class_labels=None, *, psi, label):
    """A generator without styles: z and class rows to images."""
    rows = _baked_rows(z, model.config.num_classes, label) if class_labels is None else class_labels
    return model(z, rows, truncation_psi=psi, return_dict=False)


def _by_name(model, *, fixed, nested, **inputs):
    """Any other network, called by the names of its arguments; those that are no tensors are fixed."""
    for name, keys in nested.items():
        inputs[name] = {**fixed.get(name, {}), **{key: inputs.pop(key) for key in keys}}
    output = model(**{**fixed, **inputs}, return_dict=False)
    return output if isinstance(output, tuple) else (output,)


def _decoded(model, latent_sample):
    """An autoencoder's latents (B, C, h, w) to images."""
    return model.decode(latent_sample, return_dict=False)


def _encoded(model, sample):
    """Images to the means and logarithms of variances of latents, (B, 2C, h, w)."""
    return (model.encode(sample).latent_dist.parameters,)


def _baked_rows(z: Tensor, classes: int, label: int | None) -> Tensor | None:
    if not classes:
        return None
    return torch.eye(classes, dtype=z.dtype)[label].expand(z.shape[0], -1)


def interface_of(
    model: nn.Module, *, truncation_psi: float | None, class_label: int | None, noise: str | None
) -> Interface:
    """How a model is exported.

    Args:
        model: With ordinary float32 weights.
        truncation_psi: Baked; None: an input of StyleGANs, one number for each style, and 1 for BigGAN-deep.
        class_label: Baked; None: an input (B, num_classes) of rows.
        noise: Of StyleGAN 1 and 2: "input" (an input, the stored noise where it is not given), "const" or
            "none"; None: "input" where there is noise.

    Raises:
        ValueError: An option that the model has no use for, or a class of no family.
    """
    is_generator, styled = hasattr(model, "draw_latents"), hasattr(model, "mapping")
    buffers = tuple(name for name, _ in model.named_buffers() if name.endswith("noise_const"))
    classes = model.config.get("num_classes", 0) if is_generator else 0
    _check(model, truncation_psi, class_label, noise, classes=classes, noisy=bool(buffers))
    if not is_generator:
        return _by_family(model)
    deep = isinstance(model, BigGANDeepGenerator)
    psi = 1.0 if deep and truncation_psi is None else truncation_psi
    noise = noise or ("input" if buffers else "none")
    generator = torch.Generator().manual_seed(0)
    example = {"z": torch.randn(_BATCH, model.config.z_dim, generator=generator)}
    dynamic = {"z": {0: "batch"}}
    if classes and class_label is None:
        example["class_labels"], dynamic["class_labels"] = torch.eye(classes)[[0, -1]], {0: "batch"}
    if not styled:
        network = _Network(_unstyled, model, psi=1.0 if psi is None else psi, label=class_label)
        settings = {"truncation_psi": psi, "class_label": class_label, "noise": None}
        return Interface(network, example, dynamic, ("sample",), settings=settings)
    if psi is None:
        example["truncation_psi"], dynamic["truncation_psi"] = torch.ones(model.num_ws), {}
    if noise == "input":
        total = sum(model.get_buffer(name).numel() for name in buffers)
        example["noise"], dynamic["noise"] = torch.randn(_BATCH, total, generator=generator), {0: "batch"}
    mode = "none" if noise == "none" else "const"
    network = _Network(_styled, model, psi=psi, label=class_label, noise_mode=mode)
    settings = {"truncation_psi": psi, "class_label": class_label, "noise": noise if buffers else None}
    return Interface(network, example, dynamic, ("sample", "ws"), buffers if noise == "input" else (), settings)


def _check(model, truncation_psi, class_label, noise, *, classes: int, noisy: bool) -> None:
    name = type(model).__name__
    if noise is not None and noise not in NOISES:
        raise ValueError(f"noise is {noise!r}; allowed are {', '.join(NOISES)}.")
    if noise in ("input", "const") and not noisy:
        raise ValueError(f"noise is {noise!r}, but a {name} has no noise; leave it out.")
    if class_label is not None and not 0 <= class_label < classes:
        raise ValueError(f"class_label is {class_label}; the {name} has {classes} classes.")
    if truncation_psi is not None and not (hasattr(model, "mapping") or isinstance(model, BigGANDeepGenerator)):
        raise ValueError(
            f"truncation_psi is {truncation_psi}, but a {name} has no truncation in its network; leave it out."
        )


def autoencoder_interface(part: str, model: nn.Module) -> Interface:
    """One part of an ``AutoencoderKL``, "vae_decoder" or "vae_encoder", with optimum's names of inputs and outputs."""
    (images,), _ = example_inputs(model)
    if part == "vae_encoder":
        names, unused = ("latent_parameters",), ("decoder.", "post_quant_conv.")
        return Interface(_Network(_encoded, model), {"sample": images}, {"sample": {0: "batch"}}, names, unused=unused)
    with torch.no_grad():
        latents = model.encode(images).latent_dist.mean
    example, unused = {"latent_sample": latents}, ("encoder.", "quant_conv.")
    return Interface(_Network(_decoded, model), example, {"latent_sample": {0: "batch"}}, ("sample",), unused=unused)


def _by_family(model: nn.Module) -> Interface:
    args, kwargs = example_inputs(model)
    bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    tensors, fixed, nested = {}, {}, {}
    for name, value in bound.items():
        if name == "timestep" and not isinstance(value, Tensor):
            value = torch.full((_BATCH,), value, dtype=torch.int64)
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, Mapping):
            nested[name] = [key for key, each in value.items() if isinstance(each, Tensor)]
            fixed[name] = {key: each for key, each in value.items() if key not in nested[name]}
            tensors |= {key: value[key] for key in nested[name]}
        else:
            fixed[name] = value
    dynamic: dict[str, dict[int, str]] = {name: {} for name in tensors}
    for name, tensor in tensors.items():
        if tensor.ndim and len(tensor) == _BATCH and name not in _UNBATCHED:
            dynamic[name][0] = "batch"
        if name in _TOKENS:
            dynamic[name][_TOKENS[name]] = "tokens"
    with torch.no_grad():
        network = _Network(_by_name, model, fixed=fixed, nested=nested)
        count = len(network(**map_tensors(torch.clone, tensors)))
    first = "out_sample" if "sample" in tensors else "sample"  # names of optimum
    names = (first, *("cam_logits", "heatmap", *(f"output{i}" for i in range(3, count))))[:count]
    return Interface(network, tensors, dynamic, names)


def noise_slices(model: nn.Module, names: Sequence[str], noise: Tensor) -> dict[str, Tensor]:
    """``noise`` (B, N) as buffers (B, 1, R, R) by name."""
    found, start = {}, 0
    for name in names:
        shape = model.get_buffer(name).shape
        found[name] = noise[:, start : start + math.prod(shape)].view(-1, 1, *shape)
        start += math.prod(shape)
    return found
