# SPDX-License-Identifier: Apache-2.0
"""`evaluate` metric: Precision and recall by locality-sensitive hashing. The maths is in ``hf_ganzip.metrics``."""

import evaluate

from hf_ganzip import metrics
from hf_ganzip.evaluate_modules import feature_metric


_DESCRIPTION = """
Precision (quality) and recall (diversity) of generated samples, by hashing their features with random hyperplanes;
alone (LSH) and with k nearest neighbours inside the hash cells (LSH+KNN).
"""

_CITATION = """\
@article{mordido2021compression,
  title={Evaluating Post-Training Compression in GANs using Locality-Sensitive Hashing},
  author={Mordido, Gon{\\c{c}}alo and Yang, Haojin and Meinel, Christoph},
  year={2021}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: Features of generated samples, (M, d): array, tensor or lists; their number may differ from the
        references'. With `feature_extractor`, images: uint8 (M, C, H, W) or a list of PIL images.
    references: The same of real samples, from the same extractor.
    feature_extractor (`str` or callable, *optional*): Extractor of hf_ganzip for images.
    k (`int`, *optional*, defaults to 3): Neighbour that sets the radius of LSH+KNN; `None` for plain LSH only.
    num_hyperplanes (`int`, *optional*): Bits of a key; by default floor(log(N + M)) to the base `log_base` (2).
    draws (`int`, *optional*, defaults to 10): Independent draws of the hyperplanes that are averaged.
    seed (`int`, *optional*, defaults to 0): Compare models with the same seed.
    center (*optional*): `"reference"` subtracts the mean of the references from both sides; a vector, that vector.
Returns:
    `lsh_precision`, `lsh_recall`, `lsh_knn_precision`, `lsh_knn_recall` (`float` in [0, 1]), each also as
    `NAME_std`, and the conditions.
Examples:
    >>> metric = evaluate.load("lsh_precision_recall")
    >>> metric.compute(predictions=generated_features, references=real_features)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class LSHPrecisionRecall(feature_metric.FeatureMetric):
    """Precision and recall by locality-sensitive hashing."""

    function = staticmethod(metrics.lsh_precision_recall)
    description, citation, inputs_description = _DESCRIPTION, _CITATION, _KWARGS_DESCRIPTION
