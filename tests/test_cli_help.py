# SPDX-License-Identifier: Apache-2.0
"""Which commands there are: their order, options and help, and what a shell completes."""

import json
import subprocess
import sys

import pytest
import typer

import hf_ganzip as gz
from hf_ganzip import cli


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


COMPLETED = {
    "compress MODEL OUT --method a": ["aciq", "auto"],
    "study MODEL --method gptq": ["gptq", "gptq best", "gptq best mixed", "gptq mixed"],
    "prune MODEL OUT --criterion d": ["dcp", "diff_prune"],
    "refine MODEL OUT --scaling s": ["sqrt", "spectral", "square"],
    "evaluate A B --extractor v": ["vgg16"],
    "evaluate A B --metric k": ["knn_precision_recall", "kernel_distance", "kid", "knn"],
    "evaluate fashion-mnist-t": ["fashion-mnist-test-5000"],
    "info big": ["biggan-fashion-mnist"],
    "transl": ["translate"],
}
ASK = """
import contextlib, io, json, os, sys
from hf_ganzip.cli import main
answers = []
for arguments, environment in json.loads(sys.argv[1]):
    sys.argv[:] = ["hf-ganzip", *arguments]
    os.environ.update(environment)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code
    answers.append([code, said.getvalue(), sorted({"torch", "diffusers", "numpy"} & set(sys.modules))])
print(json.dumps(answers))
"""


@pytest.mark.process
def test_help_and_completion_come_without_torch(group):
    """One process is asked everything: what one answer imports is seen at the first that has it."""
    own = set(group.commands) - {"train", "finetune"}  # their help is that of scripts
    commands = [[], *([name] for name in own), *(["metrics", name] for name in group.commands["metrics"].commands)]
    asked = [([*command, "--help"], {}) for command in commands]
    for line in COMPLETED:
        words = {"COMP_WORDS": f"hf-ganzip {line}", "COMP_CWORD": str(len(line.split()))}
        asked.append(([], {"_HF_GANZIP_COMPLETE": "complete_bash"} | words))
    result = subprocess.run([sys.executable, "-c", ASK, json.dumps(asked)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    answers = json.loads(result.stdout)
    for (arguments, environment), (code, _, imported) in zip(asked, answers, strict=True):
        assert not code and not imported, (arguments, environment)
    for command, (_, said, _) in zip(commands, answers):
        assert "Usage" in said, command
    for (line, expected), (_, said, _) in zip(COMPLETED.items(), answers[len(commands) :], strict=True):
        assert sorted(said.splitlines()) == sorted(expected), line


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
