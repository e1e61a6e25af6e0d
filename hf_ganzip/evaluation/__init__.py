# SPDX-License-Identifier: Apache-2.0
"""Features of images and the reference images that generated ones are compared with."""

from .extractors import EXTRACTORS, extract_features
from .reference import load_reference


__all__ = ["EXTRACTORS", "extract_features", "load_reference"]
