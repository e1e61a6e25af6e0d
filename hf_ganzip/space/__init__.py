# SPDX-License-Identifier: Apache-2.0
"""The Gradio app that every metric's Space shares: precision and recall of two uploaded sets, with pictures.

``python -m hf_ganzip.space`` starts it on this machine.
"""

from .app import launch


__all__ = ["launch"]
