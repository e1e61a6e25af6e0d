# SPDX-License-Identifier: Apache-2.0
"""`evaluate` metric: precision and recall by locality-sensitive hashing. The maths is in ``hf_ganzip.metrics``."""

import datasets
import evaluate
import numpy as np

from hf_ganzip.metrics import lsh_precision_recall


_DESCRIPTION = """
Precision (quality) and recall (diversity) of generated samples, by hashing their features with random hyperplanes; alone
(LSH) and with k nearest neighbours inside the hash cells (LSH+KNN).
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
    predictions: Features of generated samples, (M, d): array, tensor or lists. Their number may differ from the references'.
    references: Features of real samples, (N, d), from the same extractor.
    k (`int`, *optional*, defaults to 3): Neighbour that sets the radius of LSH+KNN; `None` for plain LSH only.
    num_hyperplanes (`int`, *optional*): Bits of a key; by default floor(log2(N + M)).
    draws (`int`, *optional*, defaults to 10): Independent draws of the hyperplanes that are averaged.
    seed (`int`, *optional*, defaults to 0): Compare models with the same seed.
Returns:
    `lsh_precision`, `lsh_recall`, `lsh_knn_precision`, `lsh_knn_recall` (`float` in [0, 1]), each also as `NAME_std`, and the
    conditions.
Examples:
    >>> metric = evaluate.load("lsh_precision_recall")
    >>> metric.compute(predictions=generated_features, references=real_features)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class LSHPrecisionRecall(evaluate.Metric):
    """Keeps the features of both sides in memory, so that the sides may differ in size and be added apart."""

    def _info(self):
        vectors = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": vectors, "references": vectors}),
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add features (n, d) of one side or of both; the counts may differ."""
        sides = self.__dict__.setdefault("_sides", {"predictions": [], "references": []})
        for name, values in (("predictions", predictions), ("references", references)):
            if values is None:
                continue
            values = np.asarray(values)
            if values.ndim != 2:
                raise ValueError(f"{name} has shape {values.shape}; allowed is (n, d), one feature vector per row.")
            if len(values):
                sides[name].append(values)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add one feature vector (d,) of one side or of both."""
        self.add_batch(
            predictions=None if prediction is None else np.asarray(prediction)[None],
            references=None if reference is None else np.asarray(reference)[None],
        )

    def compute(self, *, predictions=None, references=None, **kwargs):
        """Compute over everything that was added, and start anew."""
        self.add_batch(predictions=predictions, references=references)
        sides = self.__dict__.pop("_sides")
        missing = [name for name, batches in sides.items() if not batches]
        if missing:
            raise ValueError(f"no {' and no '.join(missing)} were given; pass them to compute or add_batch.")
        return self._compute(**{name: np.concatenate(batches) for name, batches in sides.items()}, **kwargs)

    def _compute(self, predictions, references, k=3, num_hyperplanes=None, draws=10, seed=0, **kwargs):
        """Values for features (M, d) and (N, d); options of other metrics in an `evaluate.combine` are ignored."""
        return lsh_precision_recall(
            real=references, generated=predictions, k=k, num_hyperplanes=num_hyperplanes, draws=draws, seed=seed
        )
