# SPDX-License-Identifier: Apache-2.0
"""`evaluate` metric: Improved precision and recall by k nearest neighbours. The maths is in ``hf_ganzip.metrics``."""

import evaluate

from hf_ganzip import metrics
from hf_ganzip.evaluate_modules import feature_metric


_DESCRIPTION = """
Precision (quality) and recall (diversity) of generated samples: the share of generated samples within the ball of a
real one, whose radius is the distance to its k-th nearest other real sample, and the reverse. Exact, with bounded
memory.
"""

_CITATION = """\
@inproceedings{kynkaanniemi2019improved,
  title={Improved Precision and Recall Metric for Assessing Generative Models},
  author={Kynk{\\"a}{\\"a}nniemi, Tuomas and Karras, Tero and Laine, Samuli and Lehtinen, Jaakko and Aila, Timo},
  booktitle={Advances in Neural Information Processing Systems},
  year={2019}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: Features of generated samples, (M, d): array, tensor or lists; their number may differ from the
        references'. With `feature_extractor`, images: uint8 (M, C, H, W) or a list of PIL images.
    references: The same of real samples, from the same extractor.
    feature_extractor (`str` or callable, *optional*): Extractor of hf_ganzip for images.
    k (`int`, *optional*, defaults to 3): Neighbour that sets the radius.
Returns:
    `precision` and `recall` (`float` in [0, 1]).
Examples:
    >>> metric = evaluate.load("knn_precision_recall")
    >>> metric.compute(predictions=generated_features, references=real_features)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class KNNPrecisionRecall(feature_metric.FeatureMetric):
    """Improved precision and recall by k nearest neighbours."""

    function = staticmethod(metrics.knn_precision_recall)
    description, citation, inputs_description = _DESCRIPTION, _CITATION, _KWARGS_DESCRIPTION
