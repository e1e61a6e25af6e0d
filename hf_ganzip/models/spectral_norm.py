# SPDX-License-Identifier: Apache-2.0
"""Layers with spectral normalization and the buffers of BigGAN-PyTorch (Miyato et al., 2018).

``weight`` holds the weight before the division by its largest singular value sigma. Every forward pass makes one power
iteration from the stored left vector ``u0`` (1, out); only training mode stores the new vector. Gradients reach the
weight through sigma, not through the vectors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpectralNormMixin(nn.Module):
    """Adds ``u0`` and ``sv0`` to a linear or convolution layer and divides its weight by sigma."""

    sn_eps: float
    weight: Tensor
    u0: Tensor
    sv0: Tensor

    def init_spectral_norm(self, eps: float | None) -> None:
        """Register the buffers; ``eps``: smallest norm that a vector is divided by; None: an ordinary layer."""
        if eps is None:
            return
        self.sn_eps = eps
        self.register_buffer("u0", torch.randn(1, self.weight.shape[0]))
        self.register_buffer("sv0", torch.ones(1))

    @property
    def is_normalized(self) -> bool:
        """Whether the weight is divided by sigma; False after :meth:`fold_spectral_norm_`."""
        return "u0" in self._buffers

    def effective_weight(self, update: bool = False) -> Tensor:
        """Weight / sigma in the dtype of the weight; sigma in float32 or wider.

        Args:
            update: Store the vector and sigma of this power iteration.
        """
        weight = self.weight
        if not self.is_normalized or weight.is_meta:
            return weight
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))
            with torch.no_grad():
                v = F.normalize(self.u0.to(matrix.dtype) @ matrix, eps=self.sn_eps)
                u = F.normalize(v @ matrix.T, eps=self.sn_eps)
            sigma = (v @ matrix.T @ u.T).squeeze()
            if update:
                self.u0.copy_(u)
                self.sv0.fill_(sigma.detach())
            return (weight / sigma).to(weight.dtype)

    @torch.no_grad()
    def fold_spectral_norm_(self) -> None:
        """Replace the weight by the one that eval mode computes with, and drop the buffers."""
        weight = self.effective_weight().clone()
        del self._buffers["u0"], self._buffers["sv0"]
        self.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)


class SNLinear(SpectralNormMixin, nn.Linear):
    """Linear layer with spectral normalization."""

    ganzip_plain_product = True  # once it is folded

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, sn_eps: float | None = 1e-12):
        super().__init__(in_features, out_features, bias)
        self.init_spectral_norm(sn_eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.effective_weight(self.training), self.bias)


class SNConv2d(SpectralNormMixin, nn.Conv2d):
    """Convolution with stride 1, "same" padding and spectral normalization."""

    ganzip_plain_product = True  # once it is folded

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = True, *, sn_eps: float | None = 1e-12
    ):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        self.init_spectral_norm(sn_eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.effective_weight(self.training), self.bias, padding=self.padding)


class ClassEmbedding(nn.Embedding):
    """Rows of class weights (B, num_classes), one-hot or soft, to embeddings (B, dim); soft rows interpolate."""

    def forward(self, rows: Tensor) -> Tensor:
        weight = self.weight  # once: a packed one is unpacked each time
        return rows.to(weight.dtype) @ weight


class SNClassEmbedding(SpectralNormMixin, nn.Embedding):
    """:class:`ClassEmbedding` with spectral normalization; the matrix is (num_classes, dim)."""

    def __init__(self, num_classes: int, dim: int, *, sn_eps: float | None = 1e-12):
        super().__init__(num_classes, dim)
        self.init_spectral_norm(sn_eps)

    def forward(self, rows: Tensor) -> Tensor:
        weight = self.effective_weight(self.training)
        return rows.to(weight.dtype) @ weight
