# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization methods.

A method is a frozen dataclass of its options. Calling it with ``rows`` (R, N) float32 or float64, every row to be
quantized with a scale of its own, and ``bits`` returns ``(codes, scale)``: int8 codes (R, N) in
``-2**(bits-1) .. 2**(bits-1) - 1`` and float32 scales (R, 1), so that ``codes * scale`` approximates ``rows``. The codes are
computed with the scale as it is stored. All-zero rows have codes 0 and scale 1.
"""

from .aciq import ACIQ
from .linear import Linear


METHODS = {
    "linear": Linear,
    "aciq": ACIQ,
}
