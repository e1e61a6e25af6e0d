# SPDX-License-Identifier: Apache-2.0
"""What a saved folder says of one packed weight: enough to allocate its buffers before they are loaded."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch

from .packing import packed_size
from .rotation import POWERS


ACTIVATIONS = ("", "static", "dynamic")
SCALE_DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class PackedLayout:
    """What is needed to allocate and unpack one packed weight.

    Args:
        bits: 2 to 8.
        shape: Shape of the weight.
        rows: Number of scales: the weight, output channels first, is cut into as many rows of equal length.
        axis: Axis of the output channels: 0, or 1 for transposed convolutions.
        scale_dtype: "float32" or "float16", of scales and offsets.
        level_offset: 0, or 0.5 for levels on both sides of zero.
        codebook: Levels come from a codebook of the tensor.
        offset: Rows have an offset (asymmetric quantization).
        splits: Number of input channels that were split; their copies follow the others.
        rotation: Size of the blocks in which rows are rotated (:mod:`.rotation`); 0 for none.
        scaled_last: Rows are rotated back before they are scaled, which is exact (:func:`.rotation.unrotated_levels`),
            not after it.
        rank: Of the low rank that is added to what the codes stand for; 0 for none.
        activations: What the layer's inputs are rounded to where it computes in integers: "" (floating point),
            "static" (8 bits, with a stored range) or "dynamic" (8 bits, with the range of every batch).

    Attributes:
        moved_shape: Shape with the output channels first, without split channels.
        num_codes: Number of stored codes: of weights, and of the copies of split channels.
    """

    bits: int
    shape: tuple[int, ...]
    rows: int
    axis: int = 0
    scale_dtype: str = "float32"
    level_offset: float = 0.0
    codebook: bool = False
    offset: bool = False
    splits: int = 0
    rank: int = 0
    rotation: int = 0
    scaled_last: bool = False
    activations: str = ""

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)!r}"
            for name, fits in {
                "shape": len(self.shape) >= 2 and all(type(size) is int and size > 0 for size in self.shape),
                "axis": self.axis in (0, 1),
                "rows": type(self.rows) is int and self.rows > 0,
                "scale_dtype": self.scale_dtype in SCALE_DTYPES,
                "level_offset": self.level_offset in (0.0, 0.5),
                "splits": type(self.splits) is int and self.splits >= 0,
                "rank": type(self.rank) is int and self.rank >= 0,
                "rotation": type(self.rotation) is int and self.rotation in (0, *POWERS),
                "activations": self.activations in ACTIVATIONS,
            }.items()
            if not fits
        ]
        if not problems:  # attributes, not properties: every forward pass reads them
            first, second, *kernel = self.shape
            moved = (second, first, *kernel) if self.axis else self.shape
            object.__setattr__(self, "moved_shape", moved)
            object.__setattr__(self, "num_codes", math.prod(moved) // moved[1] * (moved[1] + self.splits))
        if not problems and self.rotation and math.prod(self.moved_shape[1:]) % self.rotation:
            problems.append(f"rotation is {self.rotation!r}")
        if not problems and self.scaled_last and not self._can_be_scaled_last():
            problems.append(f"scaled_last is {self.scaled_last!r}")
        if not problems and self.num_codes % self.rows:
            problems = ["the rows do not divide the weight"]
        if not problems and self.activations and self.not_integers():
            problems = [f"activations with {self.not_integers()}"]
        if problems:
            raise ValueError(f"impossible layout: {'; '.join(problems)}")

    def _can_be_scaled_last(self) -> bool:
        whole = self.rows <= self.moved_shape[0] and not self.moved_shape[0] % self.rows
        return self.scaled_last is True and bool(self.rotation) and whole and not (self.offset or self.splits)

    @property
    def unpacks_in_place(self) -> bool:
        """Whether output channels are unpacked into the memory of the weight: no channel is folded, and no row rotated
        back after it was scaled.
        """
        return not self.splits and (self.scaled_last or not self.rotation)

    def not_integers(self) -> str | None:
        """Why the weight is not an int8 tensor times one scale per output channel; None if it is.

        Levels on both sides of zero, (k + 1/2) s, are the odd integers 2 k + 1 times s / 2.
        """
        if self.codebook:
            return "levels of a codebook"
        if self.offset:
            return "offsets (symmetric=False)"
        if self.splits:
            return "split channels"
        if self.rank or self.rotation:
            return "a low rank" if self.rank else "rotated rows"
        if self.rows not in (1, self.shape[self.axis]):
            return "scales of groups"
        return "8 bits on both sides of zero" if self.level_offset and self.bits == 8 else None

    @property
    def buffers(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every buffer."""
        dtype = SCALE_DTYPES[self.scale_dtype]
        found = {
            "weight_codes": ((packed_size(self.num_codes, self.bits),), torch.uint8),
            "weight_scale": ((self.rows, 1), dtype),
        }
        if self.offset:
            found["weight_offset"] = ((self.rows, 1), dtype)
        if self.codebook:
            found["weight_codebook"] = ((2**self.bits,), torch.float16)
        if self.splits:
            found["weight_sources"] = ((self.splits,), torch.int16)
        if self.rank:
            outputs, *inputs = self.moved_shape
            found["weight_up"] = ((outputs, self.rank), torch.float16)
            found["weight_down"] = ((self.rank, math.prod(inputs)), torch.float16)
        if self.activations == "static":
            found |= {"input_scale": ((1,), torch.float32), "input_zero_point": ((1,), torch.int32)}
        return found

    @property
    def packed_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in self.buffers.values())

    def to_dict(self) -> dict[str, Any]:
        """JSON types, defaults left out."""
        fields = dataclasses.fields(self)
        values = {f.name: getattr(self, f.name) for f in fields if getattr(self, f.name) != f.default}
        return values | {"shape": list(self.shape)}

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> PackedLayout:
        """Inverse of :meth:`to_dict`; other entries are ignored.

        Raises:
            KeyError, TypeError, ValueError: A missing or impossible entry.
        """
        names = [f.name for f in dataclasses.fields(cls)]
        known = {name: value for name, value in entry.items() if name in names}
        return cls(**known | {"shape": tuple(entry["shape"])})
