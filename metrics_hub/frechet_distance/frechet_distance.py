# SPDX-License-Identifier: Apache-2.0
"""`evaluate` metric: Frechet distance of Gaussian fits. The maths is in ``hf_ganzip.metrics``."""

import evaluate

from hf_ganzip import metrics
from hf_ganzip.evaluate_modules import feature_metric


_DESCRIPTION = """
Distance between Gaussians fitted to two feature sets: FID, when the features are those of the Inception network. In
float64, by symmetric eigenvalues.
"""

_CITATION = """\
@inproceedings{heusel2017gans,
  title={GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium},
  author={Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp},
  booktitle={Advances in Neural Information Processing Systems},
  year={2017}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: Features of generated samples, (M, d): array, tensor or lists; their number may differ from the
        references'. With `feature_extractor`, images: uint8 (M, C, H, W) or a list of PIL images.
    references: The same of real samples, from the same extractor.
    feature_extractor (`str` or callable, *optional*): Extractor of hf_ganzip for images.
    allow_singular (`bool`, *optional*, defaults to `False`): Accept fewer than d + 1 samples, where the value is
        biased upwards.
Returns:
    `frechet_distance` (`float` >= 0).
Examples:
    >>> metric = evaluate.load("frechet_distance")
    >>> metric.compute(predictions=generated_features, references=real_features)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class FrechetDistance(feature_metric.FeatureMetric):
    """Frechet distance of Gaussian fits."""

    function = staticmethod(metrics.frechet_distance)
    description, citation, inputs_description = _DESCRIPTION, _CITATION, _KWARGS_DESCRIPTION
