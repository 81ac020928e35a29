# One virtual environment, pinned; nothing is fetched from a model hub.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help setup zoo quickstart test check bench clean

help:            ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: $(VENV)/.installed  ## install evoaim and the dashboard into .venv

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "evoaim needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing (some minutes on a slow line) ..."
	$(PIP) torch
	$(PIP) -e '.[dashboard]'
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	$(PIP) -e '.[dashboard,test,dev,peers,postgres,ray]'
	@touch $@

zoo: setup       ## build the demo zoo (about two minutes)
	$(BIN)/evoaim zoo build zoo

quickstart: zoo  ## search the demo zoo: a front of merges, a report, a study
	$(BIN)/evoaim search experiments/quickstart.yaml --run-dir runs/quickstart

test: $(VENV)/.test zoo  ## all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.test  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: zoo       ## benchmarks: ratios measured in one run
	$(BIN)/python experiments/benchmarks/materialize.py
	$(BIN)/python experiments/benchmarks/candidate.py

clean:           ## remove the environment, the zoo and all runs
	rm -rf $(VENV) zoo runs
