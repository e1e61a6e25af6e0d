# SPDX-License-Identifier: Apache-2.0
"""What the command says when something is wrong: one line, the right exit code, nothing written."""

import signal
import sys

import pytest
from PIL import Image

from hf_ganzip import cli

from .conftest import tiny_ugatit
from .docs.pages import ROOT
from .processes import hf_ganzip
from .test_cli import PICKLE, REAL


THUMBNAIL = str(ROOT / "examples" / "space_compress" / "thumbnail.png")


@pytest.mark.parametrize(
    "command, message",
    [
        ("compress {folder} {folder}", "is not empty; choose a new folder"),
        ("compress {tmp} {tmp}/x", "has no config.json"),
        ("compress {folder} {file}", "is a file; choose a folder"),
        ("compress {folder} {file}/x", "x cannot be written: Not a directory"),
        ("refine {folder} {tmp}/x --plot {file}/x/plot.png", "x cannot be written: Not a directory"),
        ("sample {folder} {folder}", "is not empty; choose a new folder"),
        (f"convert {PICKLE} {{folder}}", "is not empty; choose a new folder"),
        ("convert {pickle} {tmp}/x", "x.pkl: the pickle asks for os.system"),
        ("convert {file} {tmp}/x", "file: pickle instruction"),
        ("convert {tmp}/none {tmp}/x", "no file or folder"),
        (f"translate {{folder}} {THUMBNAIL} --output-dir {{tmp}}/x", "needs a UGATITGenerator"),
        ("info {file}", "is a file; allowed are the folder of a saved model"),
        ("info org/none", "org/none: no such folder here, and not on the Hub, or no connection"),
        ("info {tmp}/none", "none, and a Hub id has the form NAMESPACE/NAME"),
        (f"prune {{folder}} {{tmp}}/x --criterion taylor --data {REAL} -q", "are for criteria of diffusion"),
        (f"evaluate {REAL} {REAL} --steps 9 -q", "steps is for models; fashion-mnist-test-5000 is none"),
        (f"evaluate {REAL} {{folder}} --option kernel_distance.degree=2 -q", "the option kernel_distance.degree"),
        ("evaluate fashion-mnist-tst-5000 {folder}", "Did you mean 'fashion-mnist-test-5000'"),
        (f"study {{folder}} --reference {REAL} --output-dir {{file}}", "is a file; choose a folder"),
        (f"study {{folder}} --reference {REAL} --output-dir {{tmp}}/x --num-samples 9 -q", "128 features"),
        ("demo --output-dir {file}", "is a file; choose a folder"),
        ("sample {folder} {tmp}/x.png --class-label 9", "the model has 3 classes"),
        ("evaluate {tmp}/none.parquet {folder}", "none.parquet"),
        (f"evaluate {REAL} {REAL} --metric frechet_distance --k 2 -q", "has the option k"),
        ("info {tmp}", "has no config.json"),
        ("compress {folder} {tmp}/x --component unet", "--component is ['unet'], but"),
        ("sample {folder} {tmp}/x --device cuda:99", "--device is cuda:99; allowed are cpu and what"),
        ("info {folder} --subfolder unet", "--subfolder is 'unet', but"),
        ("cost {folder} --revision main", "--revision is 'main', but"),
    ],
)
def test_errors_are_one_line_without_traceback(call, files, tmp_path, command, message):
    code, out, err = call(*command.format(**files).split())
    assert code == 1 and out == ""
    assert message in err and "Traceback" not in err and err.startswith("hf-ganzip: ") and err.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.fixture
def files(folder, tmp_path):
    """What commands name: a saved generator, and files that are no model."""
    (tmp_path / "x.pkl").write_bytes(b"cos\nsystem\n(S'x'\ntR.")
    (tmp_path / "file").write_text("<html>")
    return {"folder": folder, "tmp": tmp_path, "file": tmp_path / "file", "pickle": tmp_path / "x.pkl"}


@pytest.mark.parametrize(
    "command, message",
    [
        *((f"compress {{folder}} {{tmp}}/x --bits {bits}", "Invalid value for '--bits'") for bits in (1, 9)),
        ("compress {folder} {tmp}/x --bits 4 --mean-bits 5", "--mean-bits takes the place of --bits"),
        ("compress {folder} {tmp}/x --recipe r.yaml --bits 4 --skip x", "takes the place of --bits, --skip"),
        ("prune {folder} {tmp}/x --ratio 0.5 --max-params 9", "--max-params takes the place of --ratio"),
        ("prune {folder} {tmp}/x --max-macs 9 --max-params 9", "--max-params takes the place of --max-macs"),
        (f"study {{folder}} --reference {REAL} --bits 9", "Invalid value for '--bits'"),
        (f"study {{folder}} --reference {REAL} --option steps=3", "write METHOD.steps=VALUE"),
        (f"evaluate {REAL} {{folder}} --k 3 --option k=2", "k is given both as an option of its own and by --option"),
        ("compress {folder} {tmp}/x --dtype float8", "Invalid value for '--dtype'"),
    ],
)
def test_wrong_usage_ends_with_2(call, files, tmp_path, monkeypatch, command, message):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = call(*command.format(**files).split())
    assert code == 2 and out == "" and message in " ".join(err.split()) and "Traceback" not in err
    assert not (tmp_path / "x").exists()


def test_debug_shows_where_an_error_came_from(monkeypatch, call, tmp_path):
    monkeypatch.setattr(sys, "argv", ["hf-ganzip", "--debug", "info", str(tmp_path)])
    with pytest.raises(OSError, match="has no config.json"):
        cli.main()


def test_a_bug_is_called_one(monkeypatch, call):
    monkeypatch.setattr(cli.environment, "environment", lambda: {}["x"])
    code, out, err = call("env")
    assert code == 1 and out == "" and err.count("\n") == 1
    assert "KeyError" in err and "hf-ganzip --debug" in err


@pytest.mark.process
def test_a_closed_pipe_is_silent():
    process = hf_ganzip("info", "stylegan2-fashion-mnist")
    process.stdout.close()
    with process.stderr as said:
        assert said.read() == "" and process.wait(timeout=60) == 1


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupt_is_silent(tmp_path):
    listen = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731  (whatever ran the tests)
    process = hf_ganzip("demo", "--output-dir", tmp_path / "demo", preexec_fn=listen)
    text = ""
    while "demo" not in text:  # the progress bar
        text += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "hf-ganzip:" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_an_unwritable_output_is_found_before_the_work(call, monkeypatch):
    monkeypatch.setattr(cli.compression, "open_whole", None)
    for command in ("compress", "prune", "refine"):
        code, _, err = call(command, "stylegan2-fashion-mnist", "/proc/nothing/model")
        assert code == 1 and "/proc/nothing/model cannot be written: " in err


def test_translate_overwrites_and_skips_nothing(call, tmp_path):
    tiny_ugatit().save_pretrained(tmp_path / "model")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "x.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "x_heatmap.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "z.bmp")
    (tmp_path / "broken.png").write_text("x")
    (tmp_path / "file").write_text("x")
    for arguments, message in {
        "{tmp}/a {tmp}/b": "b/x.png would both be written to x.png",
        "{tmp}/a/x.png {tmp}/x_heatmap.png": "would both be written to x_heatmap.png",
        "{tmp}/a {tmp}/z.bmp": "z.bmp is no PNG, JPEG or WebP file",
        "{tmp}/broken.png": "broken.png is not a readable image",
        "{tmp}/a --output-dir {tmp}/a": "a holds x.png, which would be overwritten",
        "{tmp}/a --output-dir {tmp}/file": "file is a file; choose a folder",
    }.items():
        command = f"translate {{tmp}}/model --output-dir {{tmp}}/out {arguments}"
        code, out, err = call(*command.format(tmp=tmp_path).split())
        assert code == 1 and message in err and "bug" not in err and not list((tmp_path).glob("out/*"))
