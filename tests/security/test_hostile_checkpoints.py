# SPDX-License-Identifier: Apache-2.0
"""No checkpoint runs code or takes memory that its bytes do not justify; each bad one ends in one clear error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hf_ganzip as gz
from hf_ganzip.checkpoints.pickle_reader import _HANDLERS

from ..conftest import tiny_biggan
from ..models.golden import GOLDEN
from . import hostile
from .pickles import callers


ROOT = Path(__file__).parents[2]
BOUND = 256 << 20  # bytes of address space beyond what the process has before

# One process opens all files with its address space limited; an allocation beyond the bound ends in MemoryError there.
READER = """
import json, resource, sys, time
from pathlib import Path
import torch
import hf_ganzip as gz
from hf_ganzip.checkpoints import CheckpointError
gz.convert(sys.argv[3])  # everything that is imported lazily
torch.set_num_threads(1)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), -1))
results = {}
for path in json.loads(sys.stdin.read()):
    start = time.perf_counter()
    try:
        gz.convert(path)
        results[path] = ["no error", "", 0]
    except Exception as error:
        known = isinstance(error, CheckpointError)
        results[path] = ["refused" if known else type(error).__name__, str(error), time.perf_counter() - start]
print(json.dumps(results))
"""


@pytest.mark.process
def test_each_is_refused_with_one_clear_error_soon_and_none_acts(tmp_path):
    paths = [str(path) for path in hostile.write(tmp_path)]
    command = [sys.executable, "-c", READER, str(tmp_path), str(BOUND), str(GOLDEN / "pickles" / "stylegan3_t.pkl")]
    done = subprocess.run(command, input=json.dumps(paths), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {Path(path).name: result for path, result in json.loads(done.stdout.splitlines()[-1]).items()}
    assert len(found) >= 100 and not (tmp_path / "CANARY").exists()
    assert not {name: result for name, result in found.items() if result[0] != "refused"}
    for name, (_, message, seconds) in found.items():
        assert message.startswith(name) and len(message) < 1500 and "Traceback" not in message
        assert seconds < 20, name
    for file, what in (
        *((f"{name}.pkl", f"asks for {name}") for name in callers("")),
        ("getattr_chain.pkl", "builtins.getattr"),
        ("zip_os_system.pt", "os.system"),
        ("zip_bomb.pt", "compressed"),
        ("zip_path_traversal.pt", "leaves the archive's folder"),
    ):
        assert what in found[file][1]


def test_the_canary_sings_when_a_pickle_is_loaded_carelessly(tmp_path):
    """The files are what they claim: Python's own reader runs them."""
    canary = tmp_path / "CANARY"
    for name in ("os.system.pkl", "protocol0_os_system.pkl", "nested_reduce.pkl", "open.pkl", "subprocess.pkl"):
        data = hostile.executors(canary)[name]
        code = f"import pickle; pickle.loads({data!r})"
        subprocess.run([sys.executable, "-c", code], capture_output=True)
        assert canary.exists(), name
        canary.unlink()


def test_the_reader_neither_imports_nor_calls():
    """The stack machine has no handler for instructions that construct objects by class, and its module imports
    nothing dynamic.
    """
    assert not {ord("i"), ord("o"), 0x82, 0x83, 0x84} & set(_HANDLERS)
    source = (ROOT / "hf_ganzip" / "checkpoints" / "pickle_reader.py").read_text()
    for word in ("importlib", "__import__", "getattr(", "eval(", "exec(", "import pickle"):
        assert word not in source


@pytest.mark.parametrize("tries", [50, pytest.param(150, marks=pytest.mark.process)])
@pytest.mark.parametrize("file", ["stylegan3_t.pkl", "stylegan2_small_skip.tf.pkl"])
def test_a_good_file_with_one_wrong_byte_never_crashes(tmp_path, file, tries):
    """Every outcome is a model or a CheckpointError."""
    data = (GOLDEN / "pickles" / file).read_bytes()
    path = tmp_path / "x.pkl"
    outcomes = set()
    for position in range(7, len(data), len(data) // tries):
        changed = bytearray(data)
        changed[position] ^= 0x41
        path.write_bytes(changed)
        try:
            outcomes.add(type(gz.convert(path)).__name__)
        except gz.checkpoints.CheckpointError as error:
            outcomes.add(type(error).__name__)
    assert outcomes <= {
        *("StyleGAN3Generator", "StyleGAN2Generator"),
        *("CheckpointError", "DamagedCheckpointError", "UnsafeCheckpointError"),
    }
    assert len(outcomes) > 1


def test_lying_model_folders_of_our_own_are_refused(tmp_path):
    """config.json and safetensors of a saved model that contradict each other."""
    tiny_biggan().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change in ({"channels": [16, 16, 16]}, {"z_dim": 24}, {"_class_name": "os.system"}, {"num_classes": -1}):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises((ValueError, RuntimeError)):
            gz.load_model(tmp_path)
