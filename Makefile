# make demo: one question about a picture.  make test: the tests, in minutes.  make test-all: the exhaustive ones, too.
# make lint: ruff and mypy.
# make docs: the reference page docs/cli.md.  make pictures: the terminal pictures docs/images/*.svg.
# make test-lowest: the tests with the oldest torch and transformers that work.  make families: the README's table of them.
# TORCH and TRANSFORMERS choose what is installed (make test TORCH=torch==2.13.0), PYTHON the interpreter of a new .venv.

TORCH ?= torch
TRANSFORMERS ?= transformers
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
# One stamp for each pair of requirements: another TORCH or TRANSFORMERS, or a change of pyproject.toml, installs again.
STAMP := $(VENV)/installed-$(shell printf '%s' '$(TORCH) $(TRANSFORMERS)' | cksum | cut -d ' ' -f 1)

.PHONY: demo test test-all test-lowest families lint format docs pictures clean
.DEFAULT_GOAL := demo

demo: $(STAMP)
	@$(BIN)/prefixkv chat prefixkv/demo/scene.png --prompt "Which object is in row 3, column 3?" --model demo --budget 20% --stats

# Two processes, each with one thread: the test models are small.
test: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2

test-all: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --all

# The lowest versions that pyproject.toml allows; `make test` takes the newest.
test-lowest:
	@$(MAKE) --no-print-directory test VENV=.venv-lowest TORCH=torch==2.6.0 TRANSFORMERS=transformers==5.17.0

families: $(STAMP)
	@$(BIN)/python -m tests.families.table

lint: $(STAMP)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@echo "lint: ruff and mypy are content"

format: $(STAMP)
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

docs: $(STAMP)
	@$(BIN)/python -m prefixkv_cli.reference docs/cli.md

pictures: $(STAMP)
	@$(BIN)/python docs/terminal_pictures.py docs/images

clean:
	@rm -rf $(VENV) .venv-lowest build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# One pip call with all requirements, so that no dependency can replace what was asked for.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "prefixkv needs Python 3.10 or newer: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing prefixkv, $(TORCH) and $(TRANSFORMERS) into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' '$(TRANSFORMERS)' --editable '.[dev]'
	@rm -f $(VENV)/installed-* && touch $@
