# SPDX-License-Identifier: Apache-2.0
"""Inception-v3 as torch-fidelity ports it from the original FID: the only file that knows torch-fidelity."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from ...core.extras import needed_by
from .weights import downloading, read_weights, rgb, weights_digest


class InceptionExtractor:
    """Pool features (2048) of the Inception-v3 network of FID, or its logits for the inception score.

    Args:
        source: File of torch-fidelity's weights; None downloads them. The file is read without running code in it.
        device: Where the network runs; images are moved there.
        logits: True gives the logits (1008) instead, for :func:`hf_ganzip.metrics.inception_score`.

    Raises:
        ImportError: torch-fidelity is missing.
        ConnectionError: The weights cannot be downloaded.
        ValueError: The weights are not those of this network.
    """

    resize = "grey repeated to RGB; bilinear to 299x299 as TensorFlow 1 (no antialiasing); (x - 128) / 128"

    def __init__(
        self, source: str | Path | None = None, device: str | torch.device = "cpu", *, logits: bool = False
    ) -> None:
        with needed_by("The inception_v3 extractor needs torch-fidelity", "features"):
            from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
        if source is None:
            with downloading("inception_v3"):
                weights = torch.hub.load_state_dict_from_url(URL_INCEPTION_V3, map_location="cpu", weights_only=True)
        else:
            weights = read_weights(source)
        buffer = io.BytesIO()  # the class unpickles what it is given: it gets our own bytes
        torch.save(weights, buffer)
        buffer.seek(0)
        layer = "logits" if logits else "2048"
        try:
            self.network = FeatureExtractorInceptionV3("hf_ganzip", [layer], feature_extractor_weights_path=buffer)
        except RuntimeError as error:
            raise ValueError(f"{source} has not the weights of torch-fidelity's Inception-v3: {error}") from error
        self.network.to(device)
        self.name, self.dim = ("inception_v3 logits", 1008) if logits else ("inception_v3", 2048)
        self.device, self.digest = torch.device(device), weights_digest(self.network)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images uint8 (B, 1 or 3, H, W) to features float32 (B, 2048) or logits (B, 1008)."""
        return self.network(rgb(images, self.name).to(self.device))[0]
