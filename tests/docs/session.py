# SPDX-License-Identifier: Apache-2.0
"""Execute the code blocks of one page in order, in this process and this folder:
``python -m tests.docs.session PAGE``.
"""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import given
from .pages import Block, code_blocks


# What takes long is shortened, nothing else is changed. Every pattern must occur in a page.
SHORTER = {
    r"(--criterion dcp)": r"\1 --option samples=16",
    r"(\"dcp\", ratio=0.7)": r"\1, criterion_options={'samples': 16}",
    r"(\"threshold\": 0.05)": r"\1, 'timesteps': 2",
    r"--num_processes 4": "--num_processes 2",
    r"--num_samples 50000 --extractor vgg16": "--num_samples 150",
    r"(--images \S+) --extractor vgg16": r"\1",
    r"--extractor vgg16 (--metric \S+) --metric kernel_distance": r"\1",
    r"(hf-ganzip evaluate fashion-mnist-test-5000 \S+)": r"\1 --num-samples 60 --metric knn_precision_recall",
    r"hf-ganzip demo --num-samples 1000": "hf-ganzip demo --num-samples 200",
    r"(--criterion diff_prune)": r"\1 --option timesteps=2",
    r"(--method gptq)": r"\1 --option batches=1",
    r"(quantize_\(model, \"latent_distill\")": r"\1, method_options={'steps': 5}",
    r"(num_samples=2\).allocate\(mean_bits=)4.5": r"\g<1>6.5",  # scales of small layers
    r"(hf-ganzip cost \S+ --base \S+)": r"\1 --no-memory",
}
# Of these only the flags are read: tests/examples runs the scripts.
_SCRIPT = re.compile(r"(?:python|accelerate launch.*?) (examples/(?:train|finetune|study|prepare)_\w+\.py) (.*)")
_DOOR = re.compile(r"hf-ganzip (train|finetune) (\w+)(?: --launch \"[^\"]*\")? (.*)")
# Commands that have tests of their own.
ELSEWHERE = {
    "make demo": "tests/test_demo.py",
    "make test": ".ci/run",
    "pip install": "tests/test_release.py",
    "sbatch": "tests/docs/test_scaling_out.py",
    "python app.py": "tests/browser/test_space_compress.py",
    "python examples/space_compress/app.py": "tests/browser/test_space_compress.py",
}


def commands_of(block: Block) -> list[str]:
    """Lines of a shell block, continued ones joined, that have no test of their own, shortened."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [shortened(line) for line in lines if line.strip() and not line.startswith(tuple(ELSEWHERE))]


def shortened(code: str) -> str:
    """The code with less work to do."""
    for pattern, replacement in SHORTER.items():
        code = re.sub(pattern, replacement, code)
    return code


def run(command: str) -> str:
    """Standard output of a command; our own run in this process, which saves their imports."""
    command_alone = _DOOR.sub(r"python examples/\1_\2.py \3", command.partition("  #")[0].strip())
    if script := _SCRIPT.fullmatch(command_alone):
        sys.path.insert(0, "examples")  # as `python examples/...` has it
        runpy.run_path(script[1])["parse_args"](shlex.split(script[2]))
        return ""
    program, *arguments = shlex.split(command, comments=True)
    if program != "hf-ganzip":
        shell = ["bash", "-euo", "pipefail", "-c", command]
        return subprocess.run(shell, check=True, stdout=subprocess.PIPE, text=True).stdout
    file = None
    if ">" in arguments:
        *arguments, _, file = arguments
    output = hf_ganzip(arguments)
    if file is not None:
        Path(file).write_text(output, encoding="utf-8")
    return "" if file else output


def hf_ganzip(arguments: Sequence[str]) -> str:
    """Standard output of the command with these arguments."""
    from hf_ganzip.cli import main

    sys.argv = ["hf-ganzip", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, f"hf-ganzip {shlex.join(arguments)} ended with {ended.code}"
    return output.getvalue()


def execute(page: Path) -> None:
    """Every block; one of text right behind another must show what that one printed."""
    names = {"__name__": "__main__"} | given.names(page)
    said = None
    for block in code_blocks(page):
        print(f"--- {page}:{block.line} {block.language}", flush=True)
        if block.title:
            said = None
        elif block.language == "python":
            code = "\n" * (block.line - 1) + shortened(block.code)
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(code, str(page), "exec"), names)
            said = output.getvalue()
        elif block.language == "bash":
            said = ""
            for command in commands_of(block):
                print(f"$ {command}", flush=True)
                said += run(command)
        elif block.follows and said is not None:
            assert said == block.code, f"{page}:{block.line} shows\n{block.code}but this came out:\n{said}"


if __name__ == "__main__":
    execute(Path(sys.argv[1]))
