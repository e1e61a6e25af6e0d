# SPDX-License-Identifier: Apache-2.0
"""Images: found and decoded, converted, arranged in grids."""

from .conversions import (
    fit_images,
    is_grey,
    load_images,
    loss_of,
    photograph_to_array,
    pil_to_array,
    read_images,
    resize_image,
    square_image,
    stack_images,
    to_model_range,
    to_uint8,
)


__all__ = [
    "fit_images",
    "is_grey",
    "load_images",
    "loss_of",
    "photograph_to_array",
    "pil_to_array",
    "read_images",
    "resize_image",
    "square_image",
    "stack_images",
    "to_model_range",
    "to_uint8",
]
