# SPDX-License-Identifier: Apache-2.0
"""The patch for diffusers in ``docs/upstream``: it applies to the diffusers that is installed, and does what its
proposal says.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import UNet2DModel

import hf_ganzip as gz

from .conftest import TINY_UNET, run


ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(diffusers.__version__ != "0.42.1", reason="the patch is for diffusers 0.42.1"),
]


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    """Root of a tree like that of diffusers' repository, with the patch applied."""
    root = tmp_path_factory.mktemp("diffusers")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(diffusers.__file__).parent, root / "src/diffusers", ignore=ignored)
    command = ["git", "apply", "--whitespace=error", str(ROOT / "docs/upstream/diffusers-hf_ganzip.patch")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=os.environ | {"GIT_DIR": "/dev/null"})
    assert done.returncode == 0, done.stderr
    for folder in ("tests", "tests/quantization"):  # packages in the repository
        (root / folder / "__init__.py").touch()
    return root


def python(root, *arguments, cwd=None):
    path = os.pathsep.join([str(root / "src"), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "HF_HOME": str(root / "home")}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=cwd or root
    )


def test_its_own_tests_pass(patched):
    done = python(patched, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/quantization/hf_ganzip")
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr


LOADING = """
import sys, torch
import diffusers.utils.import_utils as utils
from diffusers import AutoModel, GanzipConfig, UNet2DModel, __file__ as place
utils._hf_ganzip_available, available = False, utils._hf_ganzip_available
try:
    UNet2DModel.from_pretrained('unet')
except ImportError as error:
    print(error)
utils._hf_ganzip_available = available
assert 'hf_ganzip' not in sys.modules
loaded = [cls.from_pretrained('unet').eval() for cls in (UNet2DModel, AutoModel)]
from tests.conftest import run
torch.save([run(model) for model in loaded], 'out.pt')
import hf_ganzip
assert isinstance(GanzipConfig(bits=3), hf_ganzip.GanzipConfig)
print(place)
"""


def test_a_checkpoint_loads_without_importing_us_and_without_us_it_says_what_to_install(patched, tmp_path):
    unet = UNet2DModel(**TINY_UNET).eval()
    gz.prune_(unet, gz.PruneConfig("random", 0.5))
    gz.quantize_(unet, gz.QuantizeConfig(bits=3))
    unet.save_pretrained(tmp_path / "unet")
    done = python(patched, "-c", LOADING, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    without_us, place = done.stdout.splitlines()
    assert "requires the hf_ganzip library: `pip install hf_ganzip`" in without_us
    assert place.startswith(str(patched))
    for output in torch.load(tmp_path / "out.pt"):
        assert torch.equal(output, run(unet))
