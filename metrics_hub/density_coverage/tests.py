# SPDX-License-Identifier: Apache-2.0
"""Cases in the form of `evaluate` Spaces; the tests of the repository run them."""

REFERENCES = [[1.0, 1.0], [2.0, 2.0], [3.0, 1.0], [-1.0, 1.0], [-1.0, -2.0]]
PREDICTIONS = [[1.0, 2.0], [2.0, 1.0], [-2.0, 3.0], [1.0, -1.0]]

test_cases = [
    {
        "predictions": PREDICTIONS,
        "references": REFERENCES,
        "options": {"k": 1},
        "result": {"density": 1.5, "coverage": 0.8},
    },
    {"predictions": REFERENCES, "references": REFERENCES, "result": {"coverage": 1.0}},
]
