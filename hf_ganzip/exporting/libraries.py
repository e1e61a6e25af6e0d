# SPDX-License-Identifier: Apache-2.0
"""onnx, onnx_ir and onnxruntime: imported here, when they are needed, and sessions of onnxruntime."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.extras import needed_by


_FOLDED = "session.disable_quant_qdq"  # "1": weights are dequantized once, when the file is opened, not in every run


def library(name: str) -> Any:
    """A module of the extra.

    Raises:
        ImportError: It is not installed; names the extra.
    """
    with needed_by(f"export and its models need {name.partition('.')[0]}, which is not installed", "export"):
        return importlib.import_module(name)


class Session:
    """A file, or its bytes, opened in ONNX Runtime; called with arrays by name, it gives a list of arrays.

    Args:
        model: Path, or a serialized model.
        integer: The graph has quantized activations, whose integer kernels are to be used.
        providers: As onnxruntime names them; None: "CPUExecutionProvider".
        threads: Of one operator; None: as onnxruntime chooses.
        optimized: File for the graph as it is executed.

    Raises:
        ImportError: onnxruntime is missing.
        ValueError: A provider that is not here, fewer than one thread, or a model that onnxruntime does not take.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        integer: bool = False,
        providers: Sequence[Any] | None = None,
        threads: int | None = None,
        optimized: str | Path | None = None,
    ):
        runtime = library("onnxruntime")
        providers = ["CPUExecutionProvider"] if providers is None else list(providers)
        available = runtime.get_available_providers()
        missing = [each for each in providers if (each if isinstance(each, str) else each[0]) not in available]
        if missing or threads is not None and threads < 1:
            raise ValueError(
                f"providers is {providers}, threads {threads}; allowed are {', '.join(available)} and 1 and more."
            )
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        if optimized is not None:
            options.optimized_model_filepath = os.fspath(optimized)
        if not integer:
            options.add_session_config_entry(_FOLDED, "1")
        try:
            self._session = runtime.InferenceSession(
                model if isinstance(model, bytes) else os.fspath(model), options, providers=providers
            )
        except Exception as error:  # classes of its own, one for each status
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            where = "the model" if isinstance(model, bytes) else model
            raise ValueError(f"onnxruntime {runtime.__version__} does not open {where}: {error}") from error
        self.inputs = {each.name: each.shape for each in self._session.get_inputs()}
        self.outputs = [each.name for each in self._session.get_outputs()]

    def __call__(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> list[np.ndarray]:
        return self._session.run(outputs, dict(feeds))
