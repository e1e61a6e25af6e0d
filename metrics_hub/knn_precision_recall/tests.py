# SPDX-License-Identifier: Apache-2.0
"""Cases in the form of `evaluate` Spaces; the tests of the repository run them."""

REFERENCES = [[1.0, 1.0], [2.0, 2.0], [3.0, 1.0], [-1.0, 1.0], [-1.0, -2.0]]
PREDICTIONS = [[1.0, 2.0], [2.0, 1.0], [-2.0, 3.0], [1.0, -1.0]]

test_cases = [
    {
        "predictions": PREDICTIONS,
        "references": REFERENCES,
        "options": {"k": 1},
        "result": {"precision": 0.75, "recall": 1.0},
    },
    {"predictions": REFERENCES, "references": REFERENCES, "result": {"precision": 1.0, "recall": 1.0}},
]
