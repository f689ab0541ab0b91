# Retrofit in two commands: `make tables` and `make test`.  Needs Python 3.11 or newer with pip, git and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
PIP := $(RUN) pip --disable-pip-version-check install
# Named after what it was made from: a touched file reinstalls nothing, a changed one does.
STAMP := $(VENV)/.installed-$(shell cat requirements.lock pyproject.toml | cksum | cut -d ' ' -f 1)
# PyPI's torch for Linux brings CUDA along; for the smaller build set
#   TORCH_INDEX_URL=<address of PyTorch's CPU wheel index>
TORCH := $(shell sed -n '/^torch==/p' requirements.lock)
TORCH_INDEX := $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL))

.PHONY: help env tables full expected test lint verify lock clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | awk -F'|' '{printf "  make %-8s %s\n", $$1, $$2}'

env: $(STAMP)  ## the virtual environment with the locked dependencies

$(STAMP):
	@command -v $(PYTHON) > /dev/null || { echo "there is no $(PYTHON); Retrofit needs Python 3.11 or newer: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit("%s is Python %d.%d; Retrofit needs 3.11 or newer: make PYTHON=..." % (("$(PYTHON)",) + sys.version_info[:2]) if sys.version_info < (3, 11) else 0)'
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) -m venv does not work here; is the package python3-venv missing?"; exit 1; }
	@echo "Setting up $(VENV), once: $(TORCH) (the large one) ..."
	@# torch first: no other package may choose its build
	@$(PIP) $(TORCH_INDEX) $(TORCH)
	@echo "Setting up $(VENV), once: the other packages ..."
	@$(PIP) --quiet -r requirements.lock
	@$(PIP) --quiet --no-deps --editable .
	@rm -f $(VENV)/.installed-*
	@touch $@

tables: env  ## the quick tier of every study: tables, figures, claims, report page
	@$(RUN) snakemake --config tier=quick

full: env  ## what the committed tables show
	@$(RUN) snakemake --config tier=full

expected: tables  ## take the quick tables as what CI must find again; review the difference and commit it
	@mkdir -p results/expected
	@for table in results/quick/tables/*.json; do cp $$table results/expected/$$(basename $$table .json).quick.json; done

test: env  ## all tests
	@$(RUN) pytest

lint: env  ## style of Python and Snakemake files, the workflow's own lint, the schema
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) snakefmt --check Snakefile workflows
	@$(RUN) snakemake --lint
	@$(RUN) methods schema --check

verify: env  ## which committed tables are stale; trains nothing
	@$(RUN) methods verify

lock: env  ## write requirements.lock from what is installed
	@$(VENV)/bin/python .ci/lock.py > requirements.lock

clean:  ## forget runs, logs and scratch files; data and committed results stay
	rm -rf results/runs results/logs results/quick results/paper work .snakemake
