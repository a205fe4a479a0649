# make demo: one question about a picture.  make test: the tests.  make lint: ruff and mypy.
# TORCH chooses the torch to install (make test TORCH=torch==2.13.0), PYTHON the interpreter of a new .venv.

TORCH ?= torch
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
# One stamp for each torch requirement: another TORCH, or a change of pyproject.toml, installs again.
STAMP := $(VENV)/installed-$(shell printf '%s' '$(TORCH)' | cksum | cut -d ' ' -f 1)

.PHONY: demo test lint format clean
.DEFAULT_GOAL := demo

demo: $(STAMP)
	@$(BIN)/prefixkv chat prefixkv/demo/scene.png --prompt "Which object is in row 3, column 3?" --model demo --budget 20% --stats

test: $(STAMP)
	@$(BIN)/pytest -q

lint: $(STAMP)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@echo "lint: ruff and mypy are content"

format: $(STAMP)
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

clean:
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# One pip call with both requirements, so that no dependency can replace the torch that was asked for.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "prefixkv needs Python 3.10 or newer: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing prefixkv and $(TORCH) into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' --editable '.[dev]'
	@rm -f $(VENV)/installed-* && touch $@
