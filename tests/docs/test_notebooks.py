# SPDX-License-Identifier: Apache-2.0
"""Every notebook: its cells are executed in order in a fresh process without a network, and what it shows was shown by
them.
"""

import json
import os
import subprocess
import sys

import pytest

from .pages import ROOT


NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
# As a notebook does: the value of the last expression of a cell is shown.
EXECUTE = """
import ast, json, sys
names = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] != "code":
        continue
    body = ast.parse("".join(cell["source"]))
    last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
    exec(compile(body, cell["id"], "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), cell["id"], "eval"), names)
        print("shown:", cell["id"], type(value).__name__)
"""


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_both_are_there():
    assert [path.stem for path in NOTEBOOKS] == ["compress-and-share-a-gan", "is-my-diffusion-model-still-diverse"]


@pytest.mark.process
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_HOME": str(tmp_path), "MPLBACKEND": "agg"}
    command = [sys.executable, "-c", EXECUTE, str(path)]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr[-3000:]
    # The words before the first figure of every line that the notebook holds come out again.
    for cell in read(path)["cells"]:
        for output in cell.get("outputs", ()):
            for line in output.get("text", ()):
                words = line.split("  ")[0].strip()
                assert words.rstrip("0123456789.,") in said.stdout, line
            if "image/png" in output.get("data", {}):
                assert f"shown: {cell['id']} Image" in said.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_shown_was_executed_and_names_no_machine(path):
    notebook = read(path)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell["outputs"])
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])
    text = json.dumps([cell["source"] for cell in notebook["cells"]] + [cell["outputs"] for cell in code])
    assert "/home/" not in text and "/tmp/" not in text and "/work/" not in text and path.stat().st_size < 2**18
    for cell in notebook["cells"]:
        for link in "".join(cell["source"]).split("](")[1:]:
            target = link.partition(")")[0].partition("#")[0]
            assert target.startswith("https://") or (path.parent / target).is_file(), target
