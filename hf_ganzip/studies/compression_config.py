# SPDX-License-Identifier: Apache-2.0
"""Options of a compression study, and what its settings are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..evaluation.diffusion_sampling import SPACINGS
from ..quantization import METHODS, QuantizeConfig


FULL = ("full", 32)
LABELS = {"full": "full precision", "linear": "Q", "monte_carlo": "P+Q", "outlier_splitting": "S+Q", "aciq": "C+Q"}
_BY_TENSOR = {"preset": "paper"}
_BY_CHANNEL = {"preset": "paper", "granularity": "channel", "scale_dtype": "float16"}
_BEST = {"preset": "best"}
# Options of QuantizeConfig, and "mixed": bits by sensitivity within the size of the same bits for all.
VARIANTS: dict[str, dict[str, Any]] = {
    "linear": _BY_TENSOR,
    "monte_carlo": _BY_TENSOR,
    "outlier_splitting": _BY_TENSOR,
    "aciq": _BY_TENSOR,
    "mse_clip": _BY_CHANNEL,
    "codebook": _BY_CHANNEL,
    "gptq": _BY_CHANNEL,
    "gptq mixed": _BY_CHANNEL | {"method": "gptq", "mixed": True},
    "latent_distill": _BY_CHANNEL,
    "latent_distill mixed": _BY_CHANNEL | {"method": "latent_distill", "mixed": True},
    "auto": _BEST,
    "auto mixed": _BEST | {"method": "auto", "mixed": True},
    "auto hadamard": _BEST | {"method": "auto", "hadamard": True},
    "auto unrotated": _BEST | {"method": "auto", "hadamard": False},
    "gptq best": _BEST | {"method": "gptq"},
    "gptq best mixed": _BEST | {"method": "gptq", "mixed": True},
}
ROTATIONS = ("auto hadamard", "auto unrotated")  # only where they are asked for
OF_GANS = tuple(name for name in VARIANTS if not name.startswith("gptq best") and name not in ROTATIONS)
OF_DIFFUSION = (*OF_GANS[:4], "auto", "gptq best", "auto mixed", "gptq best mixed")  # the paper's four, and the best


@dataclass(frozen=True)
class StudyConfig:
    """Options of :func:`.run_study`.

    Args:
        methods: Names in ``VARIANTS`` (the paper's four by tensor, "auto" and "best" with the defaults of this
            library, the others by channel without the last block); None: ``OF_GANS`` or ``OF_DIFFUSION``, fewer for
            diffusion models, which take longer to sample.
        bits: Each 2 to 8.
        num_samples: Generated images per draw; as many real images at most.
        draws: Repetitions with other latents and other hyperplanes; tables show mean and standard deviation.
        k: Neighbour of precision and recall.
        seed: Draw i has seed + i.
        extractor: As for :func:`.load_extractor`.
        method_options: Method of ``methods`` -> options, for example ``{"latent_distill": {"steps": 300}}``.
        steps: Of DDIM, for diffusion models; None: 50.
        spacing: Of their timesteps, see :func:`.ddim_timesteps`.
        clip_sample: See :func:`.sample_diffusion`.
        sqnr_images: Images of each draw on whose trajectories noise predictions are compared with those in full
            precision.
    """

    methods: tuple[str, ...] | None = None
    bits: tuple[int, ...] = (6, 5, 4, 3, 2)
    num_samples: int = 5000
    draws: int = 3
    k: int = 3
    seed: int = 0
    extractor: str = "fashion_mnist"
    method_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    steps: int | None = None
    spacing: str = "uniform"
    clip_sample: bool = False
    sqnr_images: int = 32

    def __post_init__(self):
        names = tuple(VARIANTS) if self.methods is None else self.methods
        if (unknown := [name for name in names if name not in VARIANTS]) or not names:
            raise ValueError(f"study: methods {unknown} are unknown; allowed are {', '.join(VARIANTS)}.")
        if self.draws < 1 or self.num_samples < 2 or not self.bits or self.sqnr_images < 1:
            raise ValueError(
                "study: draws and sqnr_images must be 1 or more, num_samples 2 or more, bits at least one number."
            )
        if self.spacing not in SPACINGS:
            raise ValueError(f"study: spacing is {self.spacing!r}; allowed are {', '.join(SPACINGS)}.")
        studied = sorted({VARIANTS[name].get("method", name) for name in names})
        if surplus := [name for name in self.method_options if name not in studied]:
            raise ValueError(
                f"study: options of {', '.join(map(repr, surplus))}, which is not studied; allowed are "
                f"{', '.join(studied)}."
            )
        for name in names:
            for bits in self.bits:
                self.quantization(name, bits)  # refuses wrong options now rather than after the first settings

    def quantization(self, name: str, bits: int, progress: bool = True) -> tuple[QuantizeConfig, bool]:
        """The config of a setting, with or without progress bars, and whether its bits are mixed."""
        options = dict(VARIANTS[name])
        mixed = options.pop("mixed", False)
        method = options.pop("method", name)
        chosen = dict(self.method_options.get(method, {}))
        if not progress and "progress" in METHODS[method].__dataclass_fields__:
            chosen["progress"] = False
        return QuantizeConfig(method=method, bits=bits, method_options=chosen, **options), mixed


def setting_name(method: str, bits: int) -> str:
    """Label of a setting in pictures; ``method`` is a name of ``VARIANTS`` or its label."""
    return LABELS["full"] if bits == FULL[1] else f"{LABELS.get(method, method)}, {bits} bits"
