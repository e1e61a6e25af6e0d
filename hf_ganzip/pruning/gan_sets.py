# SPDX-License-Identifier: Apache-2.0
"""Channel sets of generators, and the options of their classes that hold the widths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..models.base import width_entry
from .channels import ChannelSet, Slice


if TYPE_CHECKING:
    from diffusers import ModelMixin


def _affine(layer: str) -> tuple[Slice, ...]:
    """What reads channels in a modulated layer: the second axis of its weight, and the rows of its affine layer."""
    return (Slice(f"{layer}.weight", 1), Slice(f"{layer}.affine.weight", 0), Slice(f"{layer}.affine.bias", 0))


def _written(layer: str) -> tuple[Slice, ...]:
    return (Slice(f"{layer}.weight", 0), Slice(f"{layer}.bias", 0))


def stylegan2_sets(model: ModelMixin) -> list[ChannelSet]:
    """Set 0 is the constant, set j the output of the j-th convolution."""
    synthesis, sets = model.synthesis, []
    slices: tuple[Slice, ...]
    sizes = synthesis.block_resolutions
    for index, size in enumerate(sizes):
        name, block = f"synthesis.b{size}", getattr(synthesis, f"b{size}")
        if index == 0:
            first, slices = f"{name}.const", (Slice(f"{name}.const", 0),)
            width = block.const.shape[0]
        else:
            first, slices = f"{name}.conv0", _written(f"{name}.conv0")
            width = block.conv0.weight.shape[0]
        sets.append(ChannelSet(first, width, slices + _affine(f"{name}.conv1"), f"{name}.conv1"))
        slices = _written(f"{name}.conv1")
        if block.has_torgb:
            slices += _affine(f"{name}.torgb")
        if hasattr(block, "skip"):
            slices += (Slice(f"{name}.skip.weight", 0),)
        reader = f"{name}.torgb"
        if index + 1 < len(sizes):
            following = f"synthesis.b{sizes[index + 1]}"
            reader = f"{following}.conv0"
            slices += _affine(reader)
            if hasattr(getattr(synthesis, f"b{sizes[index + 1]}"), "skip"):
                slices += (Slice(f"{following}.skip.weight", 1),)
        sets.append(ChannelSet(f"{name}.conv1", block.conv1.weight.shape[0], slices, reader))
    return sets


def stylegan2_config(model: ModelMixin, kept: Mapping[str, int]) -> dict[str, Any]:
    """Widths as pairs (constant or first convolution, second convolution) where they differ."""
    names = [(f"synthesis.b{size}.conv0", f"synthesis.b{size}.conv1") for size in model.synthesis.block_resolutions]
    names[0] = ("synthesis.b4.const", "synthesis.b4.conv1")
    return {"channels": tuple(width_entry(kept[first], kept[second]) for first, second in names)}


def stylegan3_sets(model: ModelMixin) -> list[ChannelSet]:
    """Set i are the input channels of layer i; set 0 comes from the Fourier features, which stay."""
    names = [f"synthesis.{name}" for name in model.synthesis.layer_names]
    sets = []
    for index, reader in enumerate(names):
        slices = (Slice("synthesis.input.weight", 0),) if index == 0 else _written(names[index - 1])
        width = model.get_submodule(reader).weight.shape[1]
        sets.append(
            ChannelSet(f"inputs of {reader.removeprefix('synthesis.')}", width, slices + _affine(reader), reader)
        )
    return sets


def stylegan3_config(model: ModelMixin, kept: Mapping[str, int]) -> dict[str, Any]:
    """Input width of every layer."""
    return {"channels": tuple(kept[channels.name] for channels in stylegan3_sets(model))}


def stylegan3_names(old: ModelMixin, new: ModelMixin) -> dict[str, str]:
    """Layer names hold output widths, so they change."""
    found = {}
    for before, after in zip(old.synthesis.layer_names, new.synthesis.layer_names):
        for key in old.get_submodule(f"synthesis.{before}").state_dict():
            found[f"synthesis.{before}.{key}"] = f"synthesis.{after}.{key}"
    return found


def biggan_sets(model: ModelMixin) -> list[ChannelSet]:
    """The 4 x 4 features, and for every block its hidden and its output channels.

    Raises:
        ValueError: The generator has attention, whose inner widths follow the channels.
    """
    if model.config.attention_blocks:
        raise ValueError(
            "BigGAN generators with attention are not pruned: the widths inside attention follow the channels."
        )
    shared = bool(model.config.shared_dim)

    def norm(name: str) -> tuple[Slice, ...]:
        slices = [Slice(f"{name}.{part}", 0) for part in ("stored_mean", "stored_var")]
        for part in ("gain", "bias"):
            slices.append(Slice(f"{name}.{part}.weight", 0 if shared else 1))
            if shared:
                slices += _vector(f"{name}.{part}")
        return tuple(slices)

    def _vector(name: str) -> tuple[Slice, ...]:
        return (Slice(f"{name}.u0", 1),) if "u0" in dict(model.get_submodule(name).named_buffers()) else ()

    def written(name: str) -> tuple[Slice, ...]:
        return (*_written(name), *_vector(name))

    def read(index: int) -> tuple[Slice, ...]:
        block = f"blocks.{index}.0"
        return (*norm(f"{block}.bn1"), Slice(f"{block}.conv1.weight", 1), Slice(f"{block}.conv_sc.weight", 1))

    bottom = model.blocks[0][0].conv1.weight.shape[1]
    rows: tuple[Slice, ...] = (Slice("linear.weight", 0, 16), Slice("linear.bias", 0, 16))
    rows += (Slice("linear.u0", 1, 16),) if _vector("linear") else ()
    sets = [ChannelSet("linear", bottom, rows + read(0), "blocks.0.0.conv1")]
    last = len(model.blocks) - 1
    for index, block in enumerate(model.blocks):
        name = f"blocks.{index}.0"
        hidden = (*written(f"{name}.conv1"), *norm(f"{name}.bn2"), Slice(f"{name}.conv2.weight", 1))
        sets.append(ChannelSet(f"{name}.conv1", block[0].conv1.weight.shape[0], hidden, f"{name}.conv2"))
        out = (*written(f"{name}.conv2"), *written(f"{name}.conv_sc"))
        if index < last:
            out, reader = out + read(index + 1), f"blocks.{index + 1}.0.conv1"
        else:
            parts = ("gain", "bias", "stored_mean", "stored_var")
            out += tuple(Slice(f"output_layer.0.{part}", 0) for part in parts) + (Slice("output_layer.2.weight", 1),)
            reader = "output_layer.2"
        sets.append(ChannelSet(f"{name}.conv2", block[0].conv2.weight.shape[0], out, reader))
    return sets


def biggan_config(model: ModelMixin, kept: Mapping[str, int]) -> dict[str, Any]:
    """Bottom width, then (hidden, output) of every block."""
    names = [f"blocks.{index}.0" for index in range(len(model.blocks))]
    return {"channels": (kept["linear"], *(width_entry(kept[f"{n}.conv1"], kept[f"{n}.conv2"]) for n in names))}
