# SPDX-License-Identifier: Apache-2.0
"""Public names, cheap import, what may import what."""

import ast
import fnmatch
import importlib
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hf_ganzip as gz
from hf_ganzip.core.post_import import when_imported
from hf_ganzip.core.registry import lookup


PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


PUBLIC = """
StyleGAN2Generator StyleGAN2Discriminator StyleGANGenerator StyleGAN3Generator BigGANGenerator BigGANDiscriminator
BigGANDeepGenerator UGATITGenerator UGATITDiscriminator GANPipeline ImageTranslationPipeline convert load_model
from_config GanzipConfig compress PruneConfig prune_ QuantizeConfig quantize_ dequantize_ set_compute_ sensitivity
RefineConfig refine_ FeatureQuantizer FQConfig add_feature_quantizers remove_feature_quantizers evaluate compare
export OnnxGenerator OnnxUNet2DModel push_to_hub save_for_hub
"""


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_types_of_public_modules_are_checked():
    ignored = re.search(r"module = \[([^]]*)\]\nignore_errors = true", PYPROJECT.read_text("utf-8"))[1]
    patterns = re.findall(r'"(hf_ganzip[^"]*)"', ignored)
    assert patterns
    public = {getattr(gz, name).__module__ for name in gz.__all__} | {gz.__name__}
    assert not [name for name in public for pattern in patterns if fnmatch.fnmatchcase(name, pattern)]


def test_public_names_resolve_and_are_frozen():
    assert gz.__all__ == PUBLIC.split()
    assert all(callable(getattr(gz, name)) for name in gz.__all__)
    assert dir(gz) == sorted(gz.__all__)


def test_import_is_cheap():
    result = python("import sys, hf_ganzip; print(sorted({'torch', 'diffusers', 'numpy'} & set(sys.modules)))")
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.process
def test_a_model_quantizes_when_the_integration_is_imported_first():
    """`import diffusers...` inside the package must not hide its own module of that name."""
    result = python(
        "from hf_ganzip import GanzipConfig\nfrom diffusers.quantizers import auto\n"
        "print('hf_ganzip' in auto.AUTO_QUANTIZER_MAPPING)\nimport hf_ganzip as gz\n"
        "model = gz.StyleGAN2Generator(resolution=8, z_dim=4, w_dim=4, channels=(8, 8), mapping_layers=1)\n"
        "gz.quantize_(model)\nprint(model.is_quantized)"
    )
    assert result.stdout.split() == ["True", "True"], result.stderr


def test_a_callback_waits_for_an_import_that_succeeds(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "late.py").write_text("import missing_at_first")
    called = []
    when_imported("late", lambda: called.append("late"))
    with pytest.raises(ImportError):
        importlib.import_module("late")
    assert not called
    (tmp_path / "missing_at_first.py").touch()
    importlib.invalidate_caches()
    importlib.import_module("late")
    assert called == ["late"]


def test_lookup_suggests_and_lists():
    registry = {"sqrt": 1, "log": 2}
    assert lookup(registry, "log", "scaling") == 2
    assert lookup(registry, len, "scaling") is len
    with pytest.raises(ValueError, match=r"Unknown scaling 'sqr'. Did you mean 'sqrt'\? Available: log, sqrt."):
        lookup(registry, "sqr", "scaling")
    with pytest.raises(ValueError, match=r"Unknown scaling 'xyz'. Available"):
        lookup(registry, "xyz", "scaling")


def imported_modules(name: str, file: Path) -> set[str]:
    """Modules of ours that a file imports, also within functions, but for what only type checkers read and for the
    registries in its own packages.
    """
    found = set()
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.level:
            package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
            base = ".".join([*package[: len(package) - node.level + 1], *(node.module or "").split(".")]).rstrip(".")
            found |= {f"{base}.{each.name}" if f"{base}.{each.name}" in MODULES else base for each in node.names}
    return {each for each in found & MODULES.keys() if not name.startswith(f"{each}.")}


PACKAGE = Path(gz.__file__).parent
MODULES = {
    ".".join(["hf_ganzip", *file.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}


def test_no_module_imports_what_imports_it():
    """Not by detours either: each change has a direction in which it can be followed."""
    TopologicalSorter({name: imported_modules(name, file) for name, file in MODULES.items()}).prepare()
    assert "hf_ganzip.checkpoints.rebuild" in imported_modules(
        "hf_ganzip.checkpoints.torch_file", MODULES["hf_ganzip.checkpoints.torch_file"]
    )


# What a room may import lies above it; docs/architecture.md draws the rooms in this order.
ROOMS = (
    *("core", "assets", "images"),  # shared by all
    *("models", "families", "quantization", "saved"),  # load, and packed weights
    *("integration", "pipelines", "checkpoints"),
    *("pruning", "refine", "recipes"),  # compress, refine
    *("metrics", "training"),
    *("evaluation", "studies", "evaluate_modules"),
    *("exporting", "publishing"),
    *("scripts", "space", "cli"),  # what is started
)
AGAINST_THE_FLOW = {  # module -> module of a later room: why
    ("core.hub", "assets"): "bundled models have names as those of the Hub; assets look theirs up by core.registry",
    ("models.base", "training.feature_quantization"): "a discriminator whose config names quantizers builds them",
    ("recipes", "evaluation.sources"): "a criterion's images may be any source that can be measured",
    ("training.perceptual", "evaluation.extractors.weights"): "perceptual distances are networks of extractors",
    ("evaluation", "evaluate_modules.feature_metric"): "metrics that were published or installed import it from there",
}


def test_rooms_import_what_comes_before_them():
    """In the order of the work, with the exceptions that have a reason; one that is no more must go from the list."""
    assert {name.split(".")[1] for name in MODULES if "." in name} == {*ROOMS, "__main__"}
    place = {room: number for number, room in enumerate(ROOMS)}
    found = {
        (name.removeprefix("hf_ganzip."), other.removeprefix("hf_ganzip."))
        for name, file in MODULES.items()
        for other in imported_modules(name, file) - {"hf_ganzip"}
        if name not in ("hf_ganzip", "hf_ganzip.__main__") and place[other.split(".")[1]] > place[name.split(".")[1]]
    }
    assert found == AGAINST_THE_FLOW.keys()
