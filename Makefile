# Retrofit in two commands: `make tables` and `make test`.  Needs Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The plain index gives a CUDA build of torch on Linux; for the smaller CPU build set
#   TORCH_INDEX_URL=<address of PyTorch's CPU wheel index>
TORCH_INDEX := $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL),)
TORCH := $(shell sed -n 's/^torch==\([0-9.]*\).*/torch==\1/p' requirements.lock)

.PHONY: help env tables full paper test lint verify lock clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | awk -F'|' '{printf "  make %-8s %s\n", $$1, $$2}'

env: $(STAMP)  ## the virtual environment with locked dependencies

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(f"Retrofit needs Python 3.11 or newer; $(PYTHON) is {sys.version.split()[0]}. Set PYTHON=...") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing torch, then everything else, into $(VENV) (once; a few minutes)"
	@# torch first: no other package may choose its build
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_INDEX) $(TORCH)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $(STAMP)

tables: env  ## the quick tier of every study: tables, figures, claims, report page
	@$(BIN)/snakemake --config tier=quick

full: env  ## what the committed tables show (about 20 minutes on 2 cores)
	@$(BIN)/snakemake --config tier=full

test: env  ## all tests
	@$(BIN)/python -m pytest

lint: env  ## ruff, snakefmt, snakemake --lint, schema
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/snakefmt --check Snakefile workflows
	@$(BIN)/snakemake --lint
	@$(BIN)/python -m methods schema --check

verify: env  ## which committed tables are stale; trains nothing
	@$(BIN)/python -m methods verify

lock: env  ## write requirements.lock from what is installed
	@$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -v -i -E '^(nvidia-|triton|retrofit)' > requirements.lock

clean:  ## forget runs, logs and scratch files (not data, not the committed results)
	rm -rf results/runs results/logs results/benchmarks results/quick work .snakemake
