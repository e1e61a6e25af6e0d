# SPDX-License-Identifier: Apache-2.0
"""Models as ONNX files, and such files as models."""

from .exporter import export, export_parts
from .report import Compared, ExportReport
from .running import OnnxGenerator, OnnxModel, OnnxTranslator, OnnxUNet2DModel


__all__ = [
    "Compared",
    "ExportReport",
    "OnnxGenerator",
    "OnnxModel",
    "OnnxTranslator",
    "OnnxUNet2DModel",
    "export",
    "export_parts",
]
