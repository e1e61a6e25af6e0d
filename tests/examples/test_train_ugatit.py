# SPDX-License-Identifier: Apache-2.0
"""The example as users run it."""

import numpy
import pytest
from PIL import Image

from hf_ganzip.models import UGATITDiscriminator, UGATITGenerator

from .conftest import defined_by, launch


@pytest.mark.process
def test_smoke_run_with_feature_quantization_resumes(tmp_path):
    flags = ("--smoke", "--output_dir", tmp_path, "--fq")
    result = launch("train_ugatit", *flags)
    assert "6 and 6 images; generators" in result.stdout
    for name in ("a_to_b", "b_to_a"):
        assert "codebooks" not in "".join(UGATITGenerator.from_pretrained(tmp_path / f"generator_{name}").state_dict())
    discriminator = UGATITDiscriminator.from_pretrained(tmp_path / "discriminator_global_a")
    assert int(discriminator.codebooks["model/5"].num_updates) > 0
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint-2", "checkpoint-4"]
    launch("train_ugatit", *flags, "--resume_from_checkpoint", "latest")


def test_images_of_the_training_size_are_enlarged_without_borders(tmp_path):
    (tmp_path / "trainA").mkdir()
    Image.fromarray(numpy.full((64, 64, 3), 200, dtype="uint8")).save(tmp_path / "trainA" / "a.png")
    script = defined_by("train_ugatit")
    flags = ["--output_dir", "x", "--train_data_dir", str(tmp_path), "--resolution", "64"]
    found = script["images"](script["parse_args"](flags), "A")
    assert found.shape == (1, 3, 72, 72) and int(found.min()) == int(found.max()) == 200
    assert script["images"](script["parse_args"]([*flags, "--no_augment"]), "A").shape == (1, 3, 64, 64)
