# make demo: one question under three caches, side by side.  make test: the tests, in minutes.
# make test-all: the exhaustive ones, too.
# make test-ray: a Ray cluster of two nodes.  make test-browser: the pages of results in Chromium.  make lint: ruff and mypy.
# make docs: the reference page docs/cli.md.  make site: all pages as a site in build/site.
# make pictures: the pictures of screens and pages in docs/images; needs Chromium.
# make test-gpu: every command, method and dtype on a GPU, and its kernels.
# make families: the tables of docs/families.md.  make bench-cpu: what is measured without a GPU, as ratios within one run.
# make fuzz: random files, pictures, cache programs and conversations, for FUZZ_SECONDS.
# make first-use: the README from top to bottom in an empty environment, with the time to the first answer.
# make schemas: docs/schemas.  make wheel: builds it twice and looks into it.  make audit: known faults of what is installed.
# make paper: the tables of PrefixKV's paper, from 10 to 90 %; needs the models, the data and a GPU, and was not run here.
# make sbom: a bill of materials, build/sbom.json.
# TORCH and TRANSFORMERS choose what is installed (make test TORCH=torch==2.13.0), PYTHON the interpreter of a new .venv,
# ARGS what pytest is told beside (make test ARGS="tests/cli -x").

TORCH ?= torch
TRANSFORMERS ?= transformers
PYTHON ?= python3
ARGS ?=
GPU_PROCESSES ?= 6
GPU_RESULTS ?= build/gpu-tests.json
FUZZ_SECONDS ?= 60
FUZZ_RESULTS ?= build/fuzz.json
PAPER_MODELS ?= llava-hf/llava-1.5-7b-hf llava-hf/llava-1.5-13b-hf
DETAIL ?= detail_1k.json
DETAIL_IMAGES ?= train2017
MMVET ?= mm-vet.json
MMVET_IMAGES ?= images

VENV := .venv
BIN := $(VENV)/bin
# One stamp for each pair of requirements: another TORCH or TRANSFORMERS, or a change of pyproject.toml, installs again.
REQUIREMENTS := $(foreach requirement,$(TORCH) $(TRANSFORMERS),'$(requirement)')
STAMP := $(VENV)/installed-$(shell printf '%s' '$(TORCH) $(TRANSFORMERS)' | cksum | cut -d ' ' -f 1)

.PHONY: demo test test-all test-gpu test-browser test-ray fuzz bench-cpu paper install compile schemas wheel audit sbom families lint format docs first-use site pictures clean
.DEFAULT_GOAL := demo

demo: $(STAMP)
	@$(BIN)/python -m tools.demo.side_by_side

# Two processes, each with one thread: the test models are small.
test: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal $(ARGS)

test-all: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal --all $(ARGS)

# On a CUDA device: the result is JSON in GPU_RESULTS. Every process has its own copy of the small models on the one GPU.
test-gpu: $(STAMP)
	@OMP_NUM_THREADS=1 PREFIXKV_GPU_RESULTS=$(GPU_RESULTS) \
	  $(BIN)/python -m pytest -q -n $(GPU_PROCESSES) -m gpu --all tests/gpu tests/kernels $(ARGS)

# Debian's Chromium is installed where it is missing and may be; else the tests say that it is, and are skipped.
test-browser: $(STAMP)
	@command -v chromium >/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || \
	  { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; } >/dev/null 2>&1 || \
	  echo "Chromium could not be installed"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m browser tests/browser $(ARGS)

# A cluster of two nodes on this machine, one of which is killed; Ray is installed for it.
test-ray: $(STAMP)
	@$(BIN)/python -c "import ray.data" 2>/dev/null || $(BIN)/pip install -q --disable-pip-version-check -e ".[ray]"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m ray tests/scale $(ARGS)

# No part of the tests: other cases with every FUZZ_SEED, and counts instead of a fixed list.
fuzz: $(STAMP)
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(FUZZ_RESULTS) $(FUZZ_SECONDS) $(FUZZ_SEED)

bench-cpu: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.cpu docs/results/bench-cpu.json
	@$(BIN)/python -m benchmarks.startup docs/results/startup.json

# Not run here. DETAIL and MMVET are the files of LLaVA-Description and MM-Vet; results are in build/paper, and a run that
# was stopped goes on.
paper: $(STAMP)
	@mkdir -p build/paper
	@for model in $(PAPER_MODELS); do for data in detail mmvet; do \
	  test $$data = detail && given='--data $(DETAIL) --images $(DETAIL_IMAGES)' || given='--data $(MMVET) --images $(MMVET_IMAGES)'; \
	  $(BIN)/python -m prefixkv_cli eval --model $$model $$given --first-token prompt --metrics ppl,rouge \
	    --methods local,h2o,prefixkv-release,prefixkv,guided --codecs plain,auto \
	    --budgets 100%,90%,80%,70%,60%,50%,40%,30%,20%,10% --out build/paper/$$data-$${model##*/} --json \
	    > build/paper/$$data-$${model##*/}.json || exit 1; \
	done; done

install: $(STAMP)

families: $(STAMP)
	@$(BIN)/python -m tests.families.table
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.families.census

lint: $(STAMP)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@echo "lint: ruff and mypy are content"

# Whether the sources are Python for each of PYTHONS.
compile:
	@for python in $(PYTHONS); do \
	  $$python -m compileall -q -f prefixkv prefixkv_cli tools tests && echo "$$($$python --version): compiles" || exit 1; done

format: $(STAMP)
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

schemas: $(STAMP)
	@$(BIN)/python -m tools.file_schemas docs/schemas

# Needs pip's registry, for the tools that build.
wheel: $(STAMP)
	@$(BIN)/python -m tools.wheel_check build/wheels

# Needs pip's registry and a network.
audit: $(STAMP)
	@$(BIN)/python -m tools.supply audit

# What is installed with prefixkv, and under which licences.
sbom: $(STAMP)
	@$(BIN)/python -m tools.supply sbom build/sbom.json

docs: $(STAMP)
	@$(BIN)/python -m prefixkv_cli.reference docs/cli.md

# A link that leads nowhere is an error; with --quiet mkdocs would not count it.
site: $(STAMP)
	@$(BIN)/python -c 'import material, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --config-file tools/site/mkdocs.yml
	@echo "site: build/site/index.html"

# Needs pip's registry; makes an environment of its own.
first-use:
	@$(PYTHON) tools/first_use.py README.md docs/results/first-use.json $(TORCH)

pictures: $(STAMP)
	@$(BIN)/python docs/terminal_pictures.py docs/images
	@$(BIN)/python docs/page_pictures.py docs/images

clean:
	@rm -rf $(VENV) .venv-ci build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# One pip call with all requirements, so that no dependency can replace what was asked for.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "prefixkv needs Python 3.10 or newer: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing prefixkv, $(TORCH) and $(TRANSFORMERS) into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(REQUIREMENTS) --editable '.[dev]'
	@rm -f $(VENV)/installed-* && touch $@
