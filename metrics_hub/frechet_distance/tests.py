# SPDX-License-Identifier: Apache-2.0
"""Cases in the form of `evaluate` Spaces; the tests of the repository run them."""

REFERENCES = [[1.0, 1.0], [2.0, 2.0], [3.0, 1.0], [-1.0, 1.0], [-1.0, -2.0]]

test_cases = [
    {
        "predictions": [[x + 3.0, y + 4.0] for x, y in REFERENCES],
        "references": REFERENCES,
        "result": {"frechet_distance": 25.0},
    },
    {"predictions": REFERENCES, "references": REFERENCES, "result": {"frechet_distance": 0.0}},
]
