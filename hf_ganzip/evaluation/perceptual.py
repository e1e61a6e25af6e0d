# SPDX-License-Identifier: Apache-2.0
"""Likeness of paired images by torchmetrics, SSIM and LPIPS: for translation, and for compressed models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.extras import needed_by
from ..core.registry import lookup
from ..images import to_model_range


SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17}  # pixels that survive the network's poolings
_WINDOW = 11  # of SSIM


def structural_similarity(*, real: Tensor, generated: Tensor, batch_size: int = 64) -> dict[str, Any]:
    r"""Structural similarity (SSIM) of image pairs.

    :math:`\frac{(2 \mu_r \mu_g + c_1)(2 \sigma_{rg} + c_2)}{(\mu_r^2 + \mu_g^2 + c_1)(\sigma_r^2 + \sigma_g^2 + c_2)}`
    with :math:`c_1 = (0.01 \cdot 255)^2`, :math:`c_2 = (0.03 \cdot 255)^2`, in an 11x11 Gaussian window of standard
    deviation 1.5, as mean over reflection-padded pixels, channels and pairs, in float64.

    Args:
        real: Images uint8 (N, C, H, W), N >= 1, H and W >= 11.
        generated: The same number and shape; pair i is ``real[i]`` and ``generated[i]``.
        batch_size: Pairs per call, >= 1; does not change the result.

    Returns:
        ``structural_similarity`` in [-1, 1], 1 for equal images, ``structural_similarity_std`` (population standard
        deviation over the pairs) and ``n_pairs``.

    Raises:
        ImportError: torchmetrics is missing.
        TypeError: A set is not a uint8 tensor.
        ValueError: The shapes differ, are not (N, C, H, W), or the images are too small.

    Source:
        Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (IEEE TIP 2004),
        equation 13.
    """
    return _summary("structural_similarity", structural_similarities(real, generated, batch_size))


def structural_similarities(real: Tensor, generated: Tensor, batch_size: int = 64) -> Tensor:
    """The value (N,) of every pair, float64; arguments and errors as for :func:`structural_similarity`."""
    _check_pairs("structural_similarity", real, generated, _WINDOW)
    with needed_by("structural_similarity needs torchmetrics", "perceptual"):
        from torchmetrics.functional.image import structural_similarity_index_measure

    def similarity(real: Tensor, generated: Tensor) -> Tensor:
        pair = generated.double(), real.double()
        return structural_similarity_index_measure(*pair, data_range=255.0, reduction="none")

    return _over_pairs("structural_similarity", similarity, real, generated, batch_size)


def perceptual_distance(
    *, real: Tensor, generated: Tensor, net: str | Callable[[Tensor, Tensor], Tensor] = "alex", batch_size: int = 64
) -> dict[str, Any]:
    r"""Learned perceptual distance (LPIPS 0.1) of image pairs.

    :math:`\sum_l \frac{1}{H_l W_l} \sum_{h, w} w_l^\top (\hat{r}^l_{hw} - \hat{g}^l_{hw})^2` over the layers of an
    ImageNet classifier, whose activations are scaled to length one, as mean over the pairs. Images of one channel are
    repeated to three. The first use of a network downloads torchvision's weights of it.

    Args:
        real: Images uint8 (N, C, H, W), N >= 1, C 1 or 3, H and W at least 31 for "alex", 16 for "vgg", 17 for
            "squeeze".
        generated: The same number and shape; pair i is ``real[i]`` and ``generated[i]``.
        net: "alex", "vgg" or "squeeze", or any callable of two float32 (B, 3, H, W) in [-1, 1] that returns B
            distances, such as a module of `load_network`; it gets the images on the device of its parameters.
        batch_size: Pairs per call, >= 1; changes the result by float32 rounding at most.

    Returns:
        ``perceptual_distance`` >= 0, 0 for equal images, ``perceptual_distance_std`` (population standard deviation
        over the pairs), ``n_pairs`` and ``net``.

    Raises:
        ImportError: torchmetrics or torchvision is missing.
        OSError: The weights could not be downloaded.
        TypeError: A set is not a uint8 tensor.
        ValueError: The shapes differ, are not (N, C, H, W) with 1 or 3 channels, the images are too small, ``net`` is
            unknown, or it does not return one distance per pair.

    Example:
        >>> images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
        >>> def pixels(real, generated):
        ...     return (real - generated).abs().mean(dim=(1, 2, 3))
        >>> perceptual_distance(real=images, generated=images + 255, net=pixels)
        {'perceptual_distance': 2.0, 'perceptual_distance_std': 0.0, 'n_pairs': 2, 'net': 'pixels'}

    Source:
        Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018), equation 1.
    """
    name = net if isinstance(net, str) else getattr(net, "__name__", type(net).__name__)
    return _summary("perceptual_distance", perceptual_distances(real, generated, net, batch_size)) | {"net": name}


def perceptual_distances(
    real: Tensor, generated: Tensor, net: str | Callable[[Tensor, Tensor], Tensor] = "alex", batch_size: int = 64
) -> Tensor:
    """The distance (N,) of every pair, float64; arguments and errors as for :func:`perceptual_distance`."""
    if isinstance(net, str):
        lookup(SMALLEST, net, "net")
    _check_pairs("perceptual_distance", real, generated, SMALLEST[net] if isinstance(net, str) else 1)
    if real.shape[1] not in (1, 3):
        raise ValueError(f"perceptual_distance: images have {real.shape[1]} channels; allowed are 1 (repeated) and 3.")
    network = load_network(net).to(real.device) if isinstance(net, str) else net
    parameters = network.parameters() if isinstance(network, torch.nn.Module) else ()
    device = next((parameter.device for parameter in parameters), real.device)

    def distance(*pair: Tensor) -> Tensor:
        distances = network(*(to_model_range(images.to(device)).expand(-1, 3, -1, -1) for images in pair))
        if distances.numel() != len(pair[0]):
            raise ValueError(
                f"perceptual_distance: net returned shape {tuple(distances.shape)} for {len(pair[0])} pairs; allowed "
                "is one distance per pair."
            )
        return distances.flatten()

    return _over_pairs("perceptual_distance", distance, real, generated, batch_size)


def load_network(net: str = "alex") -> torch.nn.Module:
    """LPIPS network with its calibrated layers, in eval mode, on the CPU; torchvision caches the backbone's weights.

    Raises:
        ImportError: torchmetrics or torchvision is missing.
        OSError: The weights could not be downloaded.
        ValueError: ``net`` is unknown.
    """
    lookup(SMALLEST, net, "net")
    with needed_by("perceptual_distance needs torchmetrics and torchvision", "perceptual"):
        import torchvision  # noqa: F401
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    try:
        return LearnedPerceptualImagePatchSimilarity(net_type=net).net
    except OSError as error:
        raise OSError(
            f"perceptual_distance: the weights of {net!r} could not be loaded ({error}). Run once with network "
            "access, or give a network of yours as net=."
        ) from error


def _check_pairs(where: str, real: Any, generated: Any, smallest: int) -> None:
    for name, images in (("real", real), ("generated", generated)):
        if not isinstance(images, Tensor) or images.dtype != torch.uint8:
            got = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"{where}: {name} is {got}; allowed is a torch.uint8 tensor (hf_ganzip.images.to_uint8).")
    if real.shape != generated.shape:
        raise ValueError(
            f"{where}: real has shape {tuple(real.shape)} and generated {tuple(generated.shape)}; pairs have the same "
            "number and shape. Images that are no pairs are compared by the metrics on features."
        )
    if real.ndim != 4 or 0 in real.shape:
        raise ValueError(f"{where}: images have shape {tuple(real.shape)}; allowed is (N, C, H, W) with N >= 1.")
    height, width = real.shape[2:]
    if min(height, width) < smallest:
        raise ValueError(
            f"{where}: images are {height}x{width}; allowed are {smallest}x{smallest} and larger. Resize them"
            + (" or use net='vgg' (16x16 and larger)." if smallest > _WINDOW else ".")
        )


@torch.no_grad()
def _over_pairs(
    name: str, function: Callable[[Tensor, Tensor], Tensor], real: Tensor, generated: Tensor, batch_size: int
) -> Tensor:
    """Values (N,) of a function of pairs, which gets batches."""
    if batch_size < 1:
        raise ValueError(f"{name}: batch_size is {batch_size}; allowed is 1 or more.")
    batches = zip(real.split(batch_size), generated.to(real.device).split(batch_size))
    return torch.cat([function(*batch).double().cpu() for batch in batches])


def _summary(name: str, values: Tensor) -> dict[str, Any]:
    return {name: float(values.mean()), f"{name}_std": float(values.std(correction=0)), "n_pairs": len(values)}
