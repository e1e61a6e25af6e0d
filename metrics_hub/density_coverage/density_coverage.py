# SPDX-License-Identifier: Apache-2.0
"""`evaluate` metric: Density and coverage. The maths is in ``hf_ganzip.metrics``."""

import evaluate

from hf_ganzip import metrics
from hf_ganzip.evaluate_modules import feature_metric


_DESCRIPTION = """
Density counts in how many balls of real samples a generated sample lies, over k; coverage is the share of real balls
that hold a generated sample. Exact, with bounded memory.
"""

_CITATION = """\
@inproceedings{naeem2020reliable,
  title={Reliable Fidelity and Diversity Metrics for Generative Models},
  author={Naeem, Muhammad Ferjad and Oh, Seong Joon and Uh, Youngjung and Choi, Yunjey and Yoo, Jaejun},
  booktitle={International Conference on Machine Learning},
  year={2020}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: Features of generated samples, (M, d): array, tensor or lists; their number may differ from the
        references'. With `feature_extractor`, images: uint8 (M, C, H, W) or a list of PIL images.
    references: The same of real samples, from the same extractor.
    feature_extractor (`str` or callable, *optional*): Extractor of hf_ganzip for images.
    k (`int`, *optional*, defaults to 5): Neighbour that sets the radius of a real ball.
Returns:
    `density` (`float` >= 0, about 1 for equal distributions) and `coverage` (`float` in [0, 1]).
Examples:
    >>> metric = evaluate.load("density_coverage")
    >>> metric.compute(predictions=generated_features, references=real_features)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class DensityCoverage(feature_metric.FeatureMetric):
    """Density and coverage."""

    function = staticmethod(metrics.density_coverage)
    description, citation, inputs_description = _DESCRIPTION, _CITATION, _KWARGS_DESCRIPTION
