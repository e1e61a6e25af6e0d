# Every target does its own set-up in .venv; needed are Python >= 3.10 with pip and venv, make and git.
# On Linux, TORCH_INDEX=https://download.pytorch.org/whl/cpu gets the small CPU build of torch.

PYTHON ?= python3
TORCH_INDEX ?=
BIN := .venv/bin
READY := .venv/ready

MODELS := stylegan2-fashion-mnist stylegan2-fashion-mnist-discriminator biggan-fashion-mnist ddpm-fashion-mnist fashion-mnist-features

.PHONY: demo test test-peers quality style benchmark model-cards

demo: $(READY)
	$(BIN)/hf-ganzip demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --doctest-modules hf_ganzip tests

# The tests against torchvision, torch-fidelity and lpips, too: a CUDA build of torch, 6 GB.
test-peers: .venv-peers/ready
	OMP_NUM_THREADS=1 .venv-peers/bin/python -m pytest -n 2 --dist worksteal -m "not slow" --doctest-modules hf_ganzip tests

quality: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(READY)
	set -e; for script in $(sort $(wildcard benchmarks/[a-z]*.py)); do echo "$$script"; $(BIN)/python "$$script"; done

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

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "hf_ganzip needs Python 3.10 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --progress-bar off --constraint constraints.txt \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable ".[dev]"
	touch $@
