# Every target does its own set-up in .venv; needed are Python >= 3.10 with pip and venv, make and git.
# On Linux, TORCH_INDEX=https://download.pytorch.org/whl/cpu gets the small CPU build of torch.

PYTHON ?= python3
TORCH_INDEX ?=
BIN := .venv/bin
READY := .venv/ready

MODELS := stylegan2-fashion-mnist stylegan2-fashion-mnist-discriminator biggan-fashion-mnist ddpm-fashion-mnist fashion-mnist-features

.PHONY: demo test test-all test-peers test-processors test-versions release quality style check chromium docs docs-serve benchmark model-cards

demo: $(READY)
	$(BIN)/hf-ganzip demo

# Everything that runs inside pytest's own processes, and one of each kind of what `make test-all` runs: minutes.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not process" --doctest-modules hf_ganzip tests

# The rest: fresh interpreters, scripts, pages of the documentation, the browser, compilation, wheels.
test-all: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "process and not slow" tests

# What depends on the processor's kernels, with those of other processors: on one thread (two tests at a time) and on two, each without gradients and with.
KERNELS := ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=SSE41 ONEDNN_MAX_CPU_ISA=AVX2 ONEDNN_MAX_CPU_ISA=AVX512_CORE
test-processors: $(READY)
	failed=; for kernels in $(KERNELS); do for gradients in "" TEST_WITH_GRADIENTS=yes; do for threads in 1 2; do \
		case=$$(echo $$kernels OMP_NUM_THREADS=$$threads $$gradients); echo "$$case"; \
		env $$case OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -n $$((2 / threads)) --dist worksteal -m "processor and not process" \
			$$(grep -rl --include='test_*.py' mark.processor tests) || failed="$$failed ($$case)"; \
	done; done; done; test -z "$$failed" || { echo "failed with$$failed"; exit 1; }

# The tests against torchvision, torch-fidelity and lpips, too: a CUDA build of torch, 6 GB.
test-peers: .venv-peers/ready
	OMP_NUM_THREADS=1 .venv-peers/bin/python -m pytest -n 2 --dist worksteal -m "not slow" --doctest-modules hf_ganzip tests

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

docs-serve: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# The lowest versions that pyproject.toml allows, and the newest that there are: what touches the libraries, not the whole suite.
VERSIONS_TESTED := tests/test_package.py tests/test_integration.py tests/test_integration_refusals.py tests/test_integration_contract.py \
	tests/test_transformers.py tests/test_images.py tests/quantization tests/pruning tests/refine tests/pipelines tests/publishing tests/metrics_hub \
	tests/evaluation tests/training tests/models/test_contracts.py
TEST_TOOLS := pytest pytest-timeout pytest-xdist hypothesis scikit-learn peft torchmetrics ruff
LIBRARIES := torch diffusers transformers accelerate huggingface_hub datasets evaluate numpy

test-versions: .venv-lowest/ready .venv-newest/ready
	set -e; for venv in .venv-lowest .venv-newest; do \
		$$venv/bin/python -c 'import importlib.metadata as m, sys; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]), sep=", ")' $(LIBRARIES); \
		OMP_NUM_THREADS=1 $$venv/bin/python -m pytest -n 2 --dist worksteal -m "not slow" --override-ini filterwarnings= $(VERSIONS_TESTED); \
	done

# What would be published, in dist/: built, its description and contents checked, tried in an empty environment. Nothing is uploaded: the tag vVERSION does that
# (.github/workflows/release.yml), after the lowest and newest libraries of test-versions.
release: .venv-release/ready $(READY)
	rm -rf dist
	.venv-release/bin/python -m build --outdir dist .
	.venv-release/bin/python -m twine check --strict dist/*
	OMP_NUM_THREADS=1 HF_GANZIP_DIST=dist $(BIN)/python -m pytest -m "not slow" tests/test_release.py
	@echo "dist/ is ready. Before the tag v$$($(BIN)/python -c 'import hf_ganzip; print(hf_ganzip.__version__)'): make test test-all test-versions"

quality: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What continuous integration runs (.ci/run), and quality: all but what needs other packages, other processors or the network.
check: chromium
	$(MAKE) quality
	$(MAKE) test
	$(MAKE) test-all

# The browser tests need it; without it they are skipped. It is installed where that takes no password: as root, from the distribution.
chromium:
	@command -v chromium chromium-browser google-chrome >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -qq chromium; } >/dev/null 2>&1 \
		|| echo "Chromium is missing and could not be installed: the browser tests are skipped." >&2

# Best on a machine that does nothing else; half an hour. Peers that are not installed are left out.
benchmark: $(READY)
	mkdir -p docs/benchmarks
	set -e; for script in $(sort $(wildcard benchmarks/[a-z]*.py)); do echo "$$script"; \
		$(BIN)/python "$$script" --json "docs/benchmarks/$$(basename $$script .py).json"; done
	$(BIN)/python benchmarks/_page.py

# The cards of the bundled models, from their records and the reports beside them.
model-cards: $(READY)
	set -e; for model in $(MODELS); do folder=model_cards/$$model; mkdir -p $$folder; \
		$(BIN)/hf-ganzip card $$model $$model --license apache-2.0 --dataset zalando-datasets/fashion_mnist --output $$folder/README.md \
		$$(ls $$folder/*.json 2>/dev/null | sed 's/^/--report /') $$(test -f $$folder/samples.png && echo --picture samples.png); done

.venv-peers/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-peers
	grep -v '^torch==' constraints.txt > .venv-peers/constraints.txt
	.venv-peers/bin/python -m pip install --quiet --progress-bar off --constraint .venv-peers/constraints.txt \
		torch==2.14.1 torchvision==0.29.1 --editable ".[dev,features,perceptual]"
	touch $@

.venv-release/ready:
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet --progress-bar off "build>=1.2" "twine>=6.1"
	touch $@

.venv-lowest/ready: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --progress-bar off uv
	cd .venv-lowest && bin/uv pip compile --quiet --python bin/python --resolution lowest-direct --extra metrics --extra plot --extra transformers \
		--output-file lowest.txt ../pyproject.toml
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --requirements .venv-lowest/lowest.txt $(TEST_TOOLS)
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --no-deps --editable .
	touch $@

.venv-newest/ready: pyproject.toml
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --progress-bar off --editable ".[metrics,plot,transformers]" $(TEST_TOOLS)
	touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "hf_ganzip needs Python 3.10 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --progress-bar off --constraint constraints.txt \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable ".[dev]"
	touch $@
