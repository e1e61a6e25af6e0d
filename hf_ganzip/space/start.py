# SPDX-License-Identifier: Apache-2.0
"""First file of an uploaded Space: makes hf_ganzip importable from the wheel beside it, and runs app.py.

Spaces install requirements.txt before the other files of the repository are there, so that it cannot name the wheel.
"""

import runpy
import sys
import tempfile
import zipfile
from pathlib import Path


HERE = Path(__file__).resolve().parent


def main() -> None:
    wheels = list(HERE.glob("hf_ganzip-*.whl"))
    if len(wheels) != 1:
        sys.exit(f"{HERE} holds {len(wheels)} wheels of hf_ganzip; exactly one is needed.")
    with tempfile.TemporaryDirectory(prefix="hf_ganzip-") as unpacked:
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(unpacked)
        sys.path.insert(1, unpacked)  # behind the folder of the Space
        runpy.run_path(str(HERE / "app.py"), run_name="__main__")


if __name__ == "__main__":
    main()
