# SPDX-License-Identifier: Apache-2.0
"""What reaches the Hub: a card from record and reports, and an upload of nothing but what was reloaded and compared."""

from .card import render_card
from .push import PushReport, push_to_hub, save_for_hub


__all__ = ["PushReport", "push_to_hub", "render_card", "save_for_hub"]
