# SPDX-License-Identifier: Apache-2.0
"""GAN losses as pure functions: logits and images in, scalars (float32) out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def logistic_generator_loss(generated_logits: Tensor) -> Tensor:
    """Non-saturating generator loss, mean softplus(-D(G(z))) (Goodfellow et al., 2014). Logits (B, 1)."""
    return F.softplus(-generated_logits.float()).mean()


def logistic_discriminator_loss(real_logits: Tensor, generated_logits: Tensor) -> Tensor:
    """Logistic discriminator loss, mean softplus(-D(x)) + mean softplus(D(G(z))). Logits (B, 1) each."""
    return F.softplus(-real_logits.float()).mean() + F.softplus(generated_logits.float()).mean()


def hinge_generator_loss(generated_logits: Tensor) -> Tensor:
    """Generator's side of the hinge loss, -mean D(G(z)). Logits (B, 1)."""
    return -generated_logits.float().mean()


def hinge_discriminator_loss(real_logits: Tensor, generated_logits: Tensor) -> Tensor:
    """Hinge loss, mean relu(1 - D(x)) + mean relu(1 + D(G(z))) (Lim and Ye, 2017). Logits (B, 1) each."""
    return F.relu(1 - real_logits.float()).mean() + F.relu(1 + generated_logits.float()).mean()


LOSSES = {  # name -> (discriminator's, generator's)
    "logistic": (logistic_discriminator_loss, logistic_generator_loss),
    "hinge": (hinge_discriminator_loss, hinge_generator_loss),
}


def twin_discriminator_loss(real_class_logits: Tensor, generated_twin_logits: Tensor, labels: Tensor) -> Tensor:
    """TAC-GAN: cross entropy of the classifier on real, its twin on generated images; logits (B, classes), ids (B,)."""
    return F.cross_entropy(real_class_logits.float(), labels) + F.cross_entropy(generated_twin_logits.float(), labels)


def twin_generator_loss(generated_class_logits: Tensor, generated_twin_logits: Tensor, labels: Tensor) -> Tensor:
    """TAC-GAN: cross entropy of the classifier minus that of its twin, both on generated images."""
    return F.cross_entropy(generated_class_logits.float(), labels) - F.cross_entropy(
        generated_twin_logits.float(), labels
    )


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
