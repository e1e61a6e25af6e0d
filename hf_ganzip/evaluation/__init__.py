# SPDX-License-Identifier: Apache-2.0
"""Measuring models: what is compared with what, and under which conditions.

Images and features: `sources`, `streams`, `reference`, `sampling`, `diffusion_sampling`, `extractors`, `cache`, `sharded`. One model: `evaluate`,
`validation` (during training), `cost`, `perceptual` (image pairs), `codebooks`. Many: `compression_study` (`study_config`, `study_drawing`,
`study_report`), `correlation`, `runs`, `user_study`. Metrics themselves: `pooled_scores` (many subsets of two sets), `outlier_drift`, `outlier_report`. For `evaluate` of Hugging Face: `evaluate_module`, `install_metrics`.
"""

from .extractors import EXTRACTORS, extract_features
from .reference import load_reference


__all__ = ["EXTRACTORS", "extract_features", "load_reference"]
