# SPDX-License-Identifier: Apache-2.0
"""The Space of this metric."""

from hf_ganzip.space import launch


if __name__ == "__main__":
    launch("knn_precision_recall")
