# SPDX-License-Identifier: Apache-2.0
"""Cases in the form of `evaluate` Spaces; the tests of the repository run them."""

POSITIVE = [[100.0, 100.0], [200.0, 100.0], [300.0, 100.0]]
REFERENCES = [[1.0, 1.0], [2.0, 2.0], [3.0, 1.0], [-1.0, 1.0], [-1.0, -2.0]]

test_cases = [
    {
        "predictions": [[-100.0 * x - 100.0, -100.0] for x, _ in POSITIVE],
        "references": POSITIVE,
        "options": {"num_hyperplanes": 30},
        "result": {"lsh_precision": 0.0, "lsh_knn_recall": 0.0},
    },
    {
        "predictions": REFERENCES,
        "references": REFERENCES,
        "result": {"lsh_precision": 1.0, "lsh_recall": 1.0, "lsh_knn_precision": 1.0, "lsh_knn_recall": 1.0},
    },
]
