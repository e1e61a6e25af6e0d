# SPDX-License-Identifier: Apache-2.0
"""The example as users run it."""

from hf_ganzip.models import UGATITDiscriminator, UGATITGenerator

from .test_train_stylegan2 import ROOT, launch


def test_smoke_run_with_feature_quantization_resumes(tmp_path):
    script, flags = ROOT / "examples" / "train_ugatit.py", ("--smoke", "--output_dir", tmp_path, "--fq")
    result = launch(*flags, script=script)
    assert "6 and 6 images; generators" in result.stdout
    for name in ("a_to_b", "b_to_a"):
        assert "codebooks" not in "".join(UGATITGenerator.from_pretrained(tmp_path / f"generator_{name}").state_dict())
    discriminator = UGATITDiscriminator.from_pretrained(tmp_path / "discriminator_global_a")
    assert int(discriminator.codebooks["model/5"].num_updates) > 0
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint-2", "checkpoint-4"]
    launch(*flags, "--resume_from_checkpoint", "latest", script=script)
