# SPDX-License-Identifier: Apache-2.0
"""Images in batches of one size: from memory, or of many sizes and decoded when they are needed."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from ..images import is_grey, loss_of, photograph_to_array, square_image, stack_images
from ..images.files import StoredImages, is_turned, open_image, raise_all


Resize = Callable[[np.ndarray, int], np.ndarray]  # uint8 (H, W, C) and a side to (side, side, C)

_BATCH_BYTES = 2**26  # of uint8 pixels; networks take them as float32, four times as large


@dataclass(frozen=True)
class ImageStream:
    """Images of any sizes, decoded when they are needed; :func:`open_stream` makes one.

    Args:
        stored: Where they are.
        numbers: Which of them.
        shapes: (height, width) of each of ``stored``, upright.
        channels: 1 if all of ``stored`` are grey, else 3.
        digests: sha256 of each of ``stored``, encoded as it is.
        conversions: What is lost or changed in decoding -> in how many images.
        resolution: Side of the squares that ``resize`` makes of them; None leaves their sizes.
    """

    stored: StoredImages
    numbers: Sequence[int]
    shapes: Sequence[tuple[int, int]]
    channels: int
    digests: Sequence[bytes]
    conversions: Mapping[str, int]
    resolution: int | None = None
    resize: Resize = square_image

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, which: slice) -> ImageStream:
        return dataclasses.replace(self, numbers=self.numbers[which])

    def split(self, count: int) -> list[ImageStream]:
        """Consecutive parts of ``count`` images; the last may have fewer."""
        return [self[start : start + count] for start in range(0, len(self), count)]

    def at(self, resolution: int | None, resize: Resize = square_image) -> ImageStream:
        """The same images as squares of this side, as ``resize`` makes each of them; None leaves their sizes."""
        return dataclasses.replace(self, resolution=resolution, resize=resize)

    @property
    def digest(self) -> str:
        """sha256 of all that decides the pixels."""
        digest = hashlib.sha256(f"{self.channels} {self.resolution} {self.resize.__name__}".encode())
        for number in self.numbers:
            digest.update(self.digests[number])
        return digest.hexdigest()

    def shape(self, place: int) -> tuple[int, int]:
        """Height and width of the image at ``place``, as it is given out."""
        return (self.resolution, self.resolution) if self.resolution else self.shapes[self.numbers[place]]

    def pixels(self, place: int) -> np.ndarray:
        """uint8 (H, W, ``channels``) of the image at ``place``.

        Raises:
            ValueError: It cannot be read.
        """
        image = self.stored.decode(self.numbers[place], photograph_to_array)
        if self.resolution is not None:
            image = self.resize(image, self.resolution)
        return np.broadcast_to(image, (*image.shape[:2], self.channels))


def open_stream(stored: StoredImages, *, progress: bool = True) -> ImageStream:
    """Look at the head of every image.

    Args:
        stored: Images of a source.
        progress: Whether a bar is shown when it takes longer than a second.

    Raises:
        ValueError: Names every image that is none or of an unknown format.
    """
    digests, conversions, shapes, grey = [], collections.Counter[str](), [], True
    faults: list[str] = []
    for number, name in enumerate(tqdm(stored.names, "read", unit="image", disable=not progress, delay=1)):
        try:
            data = stored.data(number)
            if isinstance(data, np.ndarray):
                shapes.append(data.shape[:2])
                grey &= data.shape[2] == 1
            else:
                with open_image(data, name) as image:
                    turned, exchanged = is_turned(image)
                    shapes.append(image.size if exchanged else image.size[::-1])
                    grey &= is_grey(image)
                    conversions.update(filter(None, [loss_of(image), "turned by EXIF" if turned else None]))
        except ValueError as error:
            faults.append(str(error))
            continue
        digests.append(hashlib.sha256(f"{getattr(data, 'shape', '')}".encode() + bytes(data)).digest())
    raise_all(faults)
    channels = 1 if grey else 3
    return ImageStream(stored, range(len(stored)), shapes, channels, digests, dict(sorted(conversions.items())))


def batches(images: Tensor | ImageStream, batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
    """Batches uint8 (B, C, H, W) of one size, each with its places, made of ``batch_size`` neighbours at a time.

    Args:
        images: uint8 (N, C, H, W), or a stream.
        batch_size: At most so many images, and fewer where they have more than 64 MiB together: memory does not grow
            with the images' number.

    Raises:
        ValueError: Once all others were given out: names every image that cannot be read.
    """
    faults: list[str] = []
    for start in range(0, len(images), batch_size):
        for places in _of_one_size(images, range(start, min(start + batch_size, len(images)))):
            if isinstance(images, Tensor):
                yield places, images[places[0] : places[-1] + 1]
                continue
            decoded: dict[tuple[int, ...], dict[int, np.ndarray]] = {}  # the heads say almost always what the shape is
            for place in places:
                try:
                    pixels = images.pixels(place)
                    decoded.setdefault(pixels.shape, {})[place] = pixels
                except ValueError as error:
                    faults.append(str(error))
            if not faults:
                yield from ((list(group), stack_images(list(group.values()))) for group in decoded.values())
    raise_all(faults)


def _of_one_size(images: Tensor | ImageStream, places: range) -> Iterator[list[int]]:
    """Places of images of one size, few enough to be held as floating point numbers."""
    groups: dict[tuple[int, int], list[int]] = {}
    if isinstance(images, Tensor):
        groups[tuple(images.shape[2:])], channels = list(places), images.shape[1]
    else:
        channels = images.channels
        for place in places:
            groups.setdefault(images.shape(place), []).append(place)
    for (height, width), group in groups.items():
        count = max(1, _BATCH_BYTES // max(channels * height * width, 1))
        yield from (group[start : start + count] for start in range(0, len(group), count))


def squares(images: Tensor, resolution: int | None, resize: Resize = square_image) -> Tensor:
    """Images uint8 (N, C, H, W) as ``resize`` makes each of them; None leaves their size."""
    if resolution is None or tuple(images.shape[2:]) == (resolution, resolution):
        return images
    return stack_images([resize(image.permute(1, 2, 0).numpy(), resolution) for image in images.cpu()])


def conditions_of_images(sides: Mapping[str, Tensor | ImageStream | None], resolution: int | None) -> dict[str, Any]:
    """What a report says of images beside their number: ``resolution``, ``sizes`` of a side that has several, and
    ``conversions``, what decoding changed in how many images; None where there is nothing to say.
    """
    sizes, conversions = {}, {}
    for side, images in sides.items():
        if isinstance(images, ImageStream):
            found = {images.shapes[number] for number in images.numbers}
            if len(found) > 1:
                smallest, largest = (f"{w}x{h}" for h, w in (f(found, key=np.prod) for f in (min, max)))
                sizes[side] = f"{len(found)} sizes, {smallest} to {largest}"
            if images.conversions:
                conversions[side] = dict(images.conversions)
    return {"resolution": resolution, "sizes": sizes or None, "conversions": conversions or None}
