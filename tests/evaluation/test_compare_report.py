# SPDX-License-Identifier: Apache-2.0
"""What compare writes and what it tells: the report, bytes and memory, the command."""

import json
import re

import pytest
import torch

import hf_ganzip as gz
from hf_ganzip.evaluation.comparing import peak_memory
from hf_ganzip.evaluation.comparing.sides import open_side, weights_of

from ..conftest import tiny_generator
from ..test_reports import Checker
from ..test_transformers import tiny_pipeline
from .conftest import DRAWN, QUICK, grey_generator, grey_pipeline, grey_unet, quantized


pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    torch.manual_seed(0)
    model = grey_unet()
    return gz.compare(model, quantized(model), folder=folder, **DRAWN), folder


class TestReport:
    def test_files(self, written):
        report, folder = written
        files = {"report.md", "report.html", "report.json", "samples.png", "farthest.png", "sqnr.png"}
        assert {file.name for file in folder.iterdir()} == files
        text = (folder / "report.md").read_text()
        for name in re.findall(r"\]\(([^)]+)\)", text):
            assert (folder / name).is_file()
        headings = ["Pairs", "Noise predictions", "Distributions", "Cost", "Timesteps", "Conditions"]
        assert re.findall("^## (.*)$", text, re.MULTILINE) == headings and "| psnr | " in text
        assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report.to_dict()))

    def test_one_html_file_holds_everything(self, written):
        page = (written[1] / "report.html").read_text()
        assert set(re.findall(r'src="([^",]+)', page)) == {"data:image/png;base64"} and page.count("<img") == 3
        assert "href=" not in page and "<script" not in page
        text = re.sub(r"<(!DOCTYPE|meta|img)[^>]*>", "", page)
        assert not Checker(text).open

    def test_conditions_say_what_was_drawn(self, written):
        found = written[0].conditions
        assert found["compression"] == {"candidate": {"network": found["compression"]["candidate"]["network"]}}
        said = found["compression"]["candidate"]["network"]
        assert (said["quant_method"], said["bits"], said["method"]) == ("hf_ganzip", 4, "auto")
        assert found["n_images"] == 8 and found["seed"] == 0 and found["sampler"].startswith("DDIM, eta 0")
        assert "objects in memory; give folders" in found["peak_memory"] and found["timed_batches"] == 1
        assert found["candidate"] == "UNet2DModel (hf_ganzip, in memory)"
        with pytest.raises(KeyError, match="the report has psnr, "):
            written[0]["sharpness"]

    def test_weights_as_far_as_known(self):
        trained = [{"name": "train", "options": {"ema_images": 500.0}}]
        for config, said in (
            ({}, "unknown"),
            ({"_ganzip_source": {"network": "G_ema"}}, "average (network G_ema"),
            ({"_ganzip_source": {"network": "G"}}, "raw"),
            ({"_ganzip_record": trained}, "average (recorded by its training)"),
        ):
            model = tiny_generator()
            model.register_to_config(**config)
            assert weights_of(open_side("candidate", model)).startswith(said)


@pytest.fixture
def model(tmp_path):
    """Saved in "full", and quantized in "small"."""
    model = grey_generator()
    model.save_pretrained(tmp_path / "full")
    quantized(model).save_pretrained(tmp_path / "small")
    return model


def test_folders_tell_their_bytes(model, tmp_path):
    report = gz.compare(tmp_path / "full", str(tmp_path / "small"), memory=False, **QUICK)
    size = (tmp_path / "full" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert report["bytes_on_disk"].candidate.value < report["bytes_on_disk"].original.value == size
    assert report["psnr"] == gz.compare(model, quantized(model), **QUICK)["psnr"]
    assert "memory is off" in report.conditions["peak_memory"]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        gz.compare(tmp_path / "full", tmp_path / "nowhere", **QUICK)


def test_memory_is_measured_in_the_dtype_of_the_comparison_and_a_failure_leaves_the_rest(model, tmp_path, monkeypatch):
    folder, asked = tmp_path / "full", []
    monkeypatch.setattr("sys.executable", "/bin/false")
    report = gz.compare(folder, folder, **QUICK)
    assert "the process that measures the memory failed" in report.failures["peak_bytes"]
    monkeypatch.setattr(peak_memory, "printed_by", lambda *arguments: asked.append(arguments[4]) or 1)
    for dtype in (None, torch.bfloat16):
        gz.compare(folder, folder, dtype=dtype, **QUICK)
    assert asked == ["None", "None", "bfloat16", "bfloat16"]


@pytest.mark.process
def test_peak_memory_of_folders(tmp_path):
    pipeline = grey_pipeline()
    pipeline.save_pretrained(tmp_path / "full")
    grey_pipeline(quantized(pipeline.unet)).save_pretrained(tmp_path / "small")
    report = gz.compare(tmp_path / "full", tmp_path / "small", **DRAWN)
    for side in (report["peak_bytes"].candidate, report["peak_bytes"].original):
        assert 10_000 < side.value < 500e6
    assert report.conditions["peak_memory"] == "of a fresh process that opens the folder and draws one image"


def test_the_command(call, model, tmp_path):
    command = ["compare", tmp_path / "full", tmp_path / "small", "--num-images", 8, "--batch-size", 4]
    command += ["--bootstrap", 20, "--no-memory", "-q"]
    code, out, err = call(*command, "--out", tmp_path / "report", "--json")
    assert code == 0, err
    assert json.loads(out) == json.loads((tmp_path / "report" / "report.json").read_text())
    code, _, err = call(*command, "--out", tmp_path / "report", "--steps", 3)
    assert code == 1 and "--steps is 3" in err
    (tmp_path / "prompts.txt").write_text("\n \n")
    code, _, err = call(*command, "--prompts-file", tmp_path / "prompts.txt")
    assert code == 1 and "has no prompts; write one a line" in err


@pytest.mark.process
def test_the_command_on_a_text_pipeline(call, tmp_path):
    pipeline = tiny_pipeline(tmp_path / "tokenizer")
    pipeline.save_pretrained(tmp_path / "full")
    assert call("compress", tmp_path / "full", tmp_path / "small", "--bits", 4)[0] == 0
    (tmp_path / "prompts.txt").write_text("a b\n\nb a\n")
    flags = ["--prompts-file", tmp_path / "prompts.txt", "--steps", 2, "--num-images", 4]
    flags += ["--option", "guidance_scale=2", "--bootstrap", 0]
    code, out, err = call("compare", tmp_path / "full", tmp_path / "small", "--out", tmp_path / "report", *flags)
    assert code == 0, err
    assert "sqnr" in out and "peak_bytes" in out and out.splitlines()[-1] == str(tmp_path / "report" / "report.html")
    assert "0: a b; 1: b a; 2: a b" in (tmp_path / "report" / "report.md").read_text()
