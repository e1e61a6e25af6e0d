# SPDX-License-Identifier: Apache-2.0
"""The example as users run it."""

import pytest

from hf_ganzip.models import BigGANDiscriminator, BigGANGenerator

from .test_train_stylegan2 import ROOT, launch


SCRIPT = ROOT / "examples" / "train_biggan.py"


@pytest.mark.parametrize("flags, head", [((), "projection"), (("--tac",), "tac")], ids=["projection", "tac"])
def test_smoke_run(tmp_path, flags, head):
    result = launch("--smoke", "--output_dir", tmp_path, *flags, script=SCRIPT)
    assert "64 images (1, 32, 32), 2 classes; generator" in result.stdout
    assert BigGANGenerator.from_pretrained(tmp_path / "generator").config.num_classes == 2
    assert BigGANDiscriminator.from_pretrained(tmp_path / "discriminator").config.head == head
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint-2", "checkpoint-4"]
