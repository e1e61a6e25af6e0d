# SPDX-License-Identifier: Apache-2.0
"""The SLURM script of docs/scaling-out.md, on two launchers that stand in for two machines."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ganzip.models import StyleGAN2Generator

from .pages import ROOT, code_blocks


pytestmark = pytest.mark.process


STAND_INS = {
    "srun": '#!/bin/bash\nfor node in 0 1; do SLURM_NODEID=$node "$@" > node-$node.log 2>&1 & all="$all $!"; done\n'
    'for each in $all; do wait "$each" || exit 1; done\n',
    "scontrol": "#!/bin/bash\nprintf '127.0.0.1\\nother\\n'\n",
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.skipif(sys.platform != "linux", reason="SLURM runs on Linux")
def test_two_machines(tmp_path):
    (script,) = (block for block in code_blocks(ROOT / "docs" / "scaling-out.md") if block.title)
    text = script.code.replace("$((20000 + SLURM_JOB_ID % 20000))", str(free_port()))
    assert text != script.code
    (tmp_path / script.title).write_text(text)
    for name, code in STAND_INS.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(code)
        (tmp_path / "bin" / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    slurm = {"SLURM_JOB_NODELIST": "node[0-1]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1"}
    environment = os.environ | slurm | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["ACCELERATE_USE_CPU"] = "true"  # gloo instead of NCCL
    command = ["bash", script.title, str(ROOT / "examples" / "train_stylegan2.py"), "--smoke", "--output_dir", "out"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    logs = [(tmp_path / f"node-{node}.log").read_text() for node in (0, 1)]
    assert result.returncode == 0, result.stderr + "".join(logs)
    assert StyleGAN2Generator.from_pretrained(tmp_path / "out" / "generator").config.resolution == 32
    saved = {path.name for path in (tmp_path / "out" / "checkpoint-4").iterdir()}
    assert {"random_states_0.pkl", "random_states_1.pkl"} <= saved, "they were not two processes of one run"
