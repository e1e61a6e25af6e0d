# SPDX-License-Identifier: Apache-2.0
"""Class labels of conditional models: ids or rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
