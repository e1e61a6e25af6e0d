# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

from ..processes import run_script


def quick_run(name: str, folder: Path, *flags: str) -> dict[str, Any]:
    """What ``benchmarks/NAME.py --quick --json`` writes."""
    script, path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py", folder / "result.json"
    run_script(script, "--quick", "--repeats", "1", "--threads", "1", "--json", path, *flags, cwd=folder)
    return json.loads(path.read_text())
