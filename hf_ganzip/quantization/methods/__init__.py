# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization methods.

A method is a frozen dataclass of its options. Calling it with ``rows`` (R, N) float32 or float64, every row to be
quantized with a scale of its own, ``bits`` and the dtype of the stored scales returns
:class:`~hf_ganzip.quantization.grid.QuantizedRows`. The codes are computed with the scale as it is stored; all-zero
rows become zeros (below 1e-37).

Six attributes are optional: ``preset``, the one of ``PRESETS`` whose settings go with the method ("best");
``casts_rows = True`` of a method that also takes rows in half precision and casts some at a time
(:mod:`~hf_ganzip.quantization.chunks`), which saves a copy of every large weight; ``center(rows)`` (R, 1), what an
asymmetric quantizer subtracts (default: the mean); ``rotates(bits, denoiser)``, whether rows are rotated where
``hadamard`` is None (default: no); ``quantize_channels(weight, bits, rows, scale_dtype)`` for methods
that need the input channels; and, for methods that need the whole model, ``calibrate(task)`` with a
:class:`~hf_ganzip.quantization.calibration.CalibrationTask`, which returns better rows by module name and new values
of other parameters by name.
"""

from typing import Any

from .aciq import ACIQ
from .auto import Auto
from .codebook import Codebook
from .gptq import GPTQ
from .latent_distill import LatentDistill
from .linear import Linear
from .monte_carlo import MonteCarlo
from .mse_clip import MSEClip
from .outlier_splitting import OutlierSplitting


METHODS: dict[str, Any] = {
    "auto": Auto,
    "linear": Linear,
    "monte_carlo": MonteCarlo,
    "outlier_splitting": OutlierSplitting,
    "aciq": ACIQ,
    "mse_clip": MSEClip,
    "codebook": Codebook,
    "gptq": GPTQ,
    "latent_distill": LatentDistill,
}
