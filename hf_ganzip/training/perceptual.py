# SPDX-License-Identifier: Apache-2.0
"""Perceptual distances for training: differentiable, float32."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from ..evaluation.extractors.weights import read_weights


class FeatureDistance(nn.Module):
    """Squared distance of unit-length embeddings of a :class:`.FeatureNetwork`, in [0, 4]: for small grey images,
    where LPIPS does not fit.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(B,) distances of images (B, C, H, W) in [-1, 1]."""
        rows = [nn.functional.normalize(self.network(images).embedding.float(), dim=1) for images in (first, second)]
        return (rows[0] - rows[1]).square().sum(dim=1)


class LPIPSDistance(nn.Module):
    """LPIPS 0.1 with VGG-16; images are averaged by the whole factor that leaves 256 pixels, grey as RGB.

    Args:
        weights: File (safetensors or torch) with the state dict of ``lpips.LPIPS(net="vgg")``; None: those of the
            lpips package, whose backbone torchvision downloads.

    Raises:
        ImportError: lpips is not installed.
        OSError: The weights cannot be downloaded or read.
    """

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        try:
            import lpips
        except ImportError as error:
            raise ImportError("LPIPS needs torchvision and lpips: pip install 'hf_ganzip[perceptual]'.") from error
        try:
            self.network = lpips.LPIPS(
                net="vgg", pretrained=weights is None, pnet_rand=weights is not None, verbose=False
            )
        except OSError as error:
            raise OSError(
                f"the weights of LPIPS could not be downloaded ({error}); give a file with the weights."
            ) from error
        if weights is not None:
            self.network.load_state_dict(read_weights(weights))
        self.network.eval().requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(B,) distances of images (B, C, H, W) in [-1, 1]."""
        pair = [_at_most_256(images.float().expand(-1, 3, -1, -1)) for images in (first, second)]
        return self.network(*pair).flatten()


def _at_most_256(images: Tensor) -> Tensor:
    factor = images.shape[-1] // 256
    return nn.functional.avg_pool2d(images, factor) if factor > 1 else images
