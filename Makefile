# Verbs: setup demo up test lint types chaos browser compose-test bench
PY ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup data demo up test lint types unit chaos browser compose-test bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "smartfrz needs Python >= 3.11; set PY=/path/to/python3.11"; exit 1; }
	@echo "Installing into $(VENV). On a CPU-only machine the pin torch==2.13.0 may bring the CUDA build (several GB):"
	@echo "install the CPU wheel into $(VENV) first if you mind."
	$(PY) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

data: setup
	$(BIN)/smartfrz data fetch 20newsgroups minilm-l6

demo: data
	$(BIN)/smartfrz demo

up: setup
	$(BIN)/smartfrz up

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy

unit: setup
	$(BIN)/smartfrz data fetch mnist5k 20newsgroups minilm-l6 rotten-tomatoes bbc-news efficientnet-lite0
	$(BIN)/python -m pytest

test: lint types unit

chaos: setup
	$(BIN)/python -m pytest -m chaos

# Needs a chromium of the system; where there is none the tests are skipped, or fail when CI=true.
browser: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	$(BIN)/python -m pytest -m browser tests/browser

compose-test: setup
	$(BIN)/python -m pytest -m compose

bench: data
	$(BIN)/python -m benchmarks.predictor
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.demo

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
