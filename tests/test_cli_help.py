# SPDX-License-Identifier: Apache-2.0
"""Which commands there are: their order, options and help, and what a shell completes."""

import re
import subprocess
import sys

import pytest
import typer

import hf_ganzip as gz
from hf_ganzip import cli

from .processes import hf_ganzip


def test_version(call):
    assert call("--version")[:2] == (0, f"{gz.__version__}\n")


@pytest.fixture
def group():
    return typer.main.get_command(cli.app)


def test_every_command_takes_json(group):
    commands = {name: command for name, command in group.commands.items() if name != "metrics"}
    commands |= {f"metrics {name}": command for name, command in group.commands["metrics"].commands.items()}
    without = [
        name for name, command in commands.items() if "--json" not in {o for p in command.params for o in p.opts}
    ]
    assert len(commands) == 23 and without == ["train", "finetune"]  # which print what their scripts print


def test_commands_are_listed_in_the_order_of_use(group):
    names = group.list_commands(None)
    assert names[:5] == ["demo", "convert", "info", "sample", "compress"] and names[-1] == "env"
    assert set(names) == set(group.commands)


@pytest.mark.process
@pytest.mark.parametrize(
    "line, expected",
    [
        ("compress MODEL OUT --method a", ["aciq", "auto"]),
        ("study MODEL --method gptq", ["gptq", "gptq best", "gptq best mixed", "gptq mixed"]),
        ("prune MODEL OUT --criterion d", ["dcp", "diff_prune"]),
        ("refine MODEL OUT --scaling s", ["sqrt", "spectral", "square"]),
        ("evaluate A B --extractor v", ["vgg16"]),
        ("evaluate A B --metric k", ["knn_precision_recall", "kernel_distance", "kid", "knn"]),
        ("evaluate fashion-mnist-t", ["fashion-mnist-test-5000"]),
        ("info big", ["biggan-fashion-mnist"]),
        ("transl", ["translate"]),
    ],
)
def test_completion_without_torch(line, expected):
    words = ["hf-ganzip", *line.split()]
    asked = {"_HF_GANZIP_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    out, err = hf_ganzip(environment=asked, python=("-X", "importtime")).communicate(timeout=60)
    assert sorted(out.splitlines()) == sorted(expected)
    assert not re.search(r"\| +(torch|diffusers|numpy)$", err, re.MULTILINE)


def test_completion_script():
    environment = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    process = hf_ganzip("--show-completion", "bash", environment=environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "_HF_GANZIP_COMPLETE=complete_bash" in out, err


def test_completed_values_are_those_of_the_registries():
    from hf_ganzip.cli import completion
    from hf_ganzip.evaluation.extractors import EXTRACTORS
    from hf_ganzip.metrics import ALIASES, METRICS, OF_LOGITS
    from hf_ganzip.pruning import CRITERIA
    from hf_ganzip.quantization.methods import METHODS
    from hf_ganzip.refine.scalings import SCALINGS
    from hf_ganzip.studies.compression_config import VARIANTS

    registries = {"methods": METHODS, "studied": VARIANTS, "criteria": CRITERIA, "scalings": SCALINGS}
    for name, registry in (registries | {"extractors": EXTRACTORS, "metrics": METRICS}).items():
        assert getattr(completion, name)("") == list(registry)
    assert completion.measured("") == [*METRICS, *OF_LOGITS, *ALIASES]


@pytest.mark.process
def test_help_of_every_command(group):
    own = set(group.commands) - {"train", "finetune"}  # their help is that of scripts
    for command in (
        [],
        *([name] for name in own),
        *(["metrics", name] for name in group.commands["metrics"].commands),
    ):
        code = ["-m", "hf_ganzip", *command, "--help"]
        result = subprocess.run([sys.executable, *code], capture_output=True, text=True, timeout=60)
        assert result.returncode == 0 and "Usage" in result.stdout
        assert "torch" not in result.stderr
