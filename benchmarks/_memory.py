# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one call (Linux)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_above(call: Callable[[], Any]) -> float:
    """MiB that a call needs above what the process holds when it begins; call it once before with small data for what
    is loaded lazily.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = peak_mib()
    call()
    return peak_mib() - before


def peak_mib() -> float:
    """Peak resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
