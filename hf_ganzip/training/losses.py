# SPDX-License-Identifier: Apache-2.0
"""GAN losses as pure functions: logits and images in, scalars (float32) out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(generated_logits: Tensor) -> Tensor:
    """Non-saturating generator loss, mean softplus(-D(G(z))) (Goodfellow et al., 2014). Logits (B, 1)."""
    return F.softplus(-generated_logits.float()).mean()


def discriminator_loss(real_logits: Tensor, generated_logits: Tensor) -> Tensor:
    """Logistic discriminator loss, mean softplus(-D(x)) + mean softplus(D(G(z))). Logits (B, 1) each."""
    return F.softplus(-real_logits.float()).mean() + F.softplus(generated_logits.float()).mean()


def r1_penalty(real_logits: Tensor, real_images: Tensor) -> Tensor:
    """R1: half the mean squared norm of the gradient of D at real images (Mescheder et al., 2018, equation 9).

    Args:
        real_logits: D(real_images), (B, 1), with a graph.
        real_images: (B, C, H, W), requiring gradients.

    Returns:
        Scalar to be multiplied by gamma; differentiable.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3)).mean() / 2
