# What people do with this project. `make` alone lists it.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.run-installed
DEV := $(VENV)/.dev-installed
PINS := pyproject.toml constraints.txt

# How many different courses of random faults `make faults` runs; about a minute each.
SEEDS ?= 20

# uv is several times as fast as pip; where it is missing, pip does the same.
UV := $(shell command -v uv 2>/dev/null)
ifdef UV
INSTALL := $(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt
else
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
endif

.PHONY: help demo up test faults lint format bench clean

help: ## List what can be done (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(RUN) ## Run a story on a broker and a database of its own, and leave nothing behind
	@$(BIN)/millstream demo

up: $(RUN) ## Run the whole stack until Ctrl-C
	@$(BIN)/millstream up

test: $(DEV) ## Run all tests and report coverage
	@$(BIN)/python -m pytest --cov --cov-report=term:skip-covered

faults: $(DEV) ## Kill, freeze and cut everything, SEEDS=20 times, and check what is left
	@FAULT_SEEDS=$(SEEDS) $(BIN)/python -m pytest tests/faults

lint: $(DEV) ## Check style, types, import directions and compatibility of schemas
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/python -m schemas.export --check

format: $(DEV) ## Format the code
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

bench: $(DEV) ## Measure speed, cost and latency; ONLY=latency,sink chooses, QUICK=1 only tries
	@PYTHONPATH=tests $(BIN)/python -m bench.run $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick)

clean: ## Remove the virtual environment and everything that tools have written
	@rm -rf $(VENV) build *.egg-info .coverage .coverage.* coverage.xml
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.millstream/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@echo "making $(VENV)"
ifdef UV
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
else
	@$(PYTHON) -m venv $(VENV)
endif

$(RUN): $(PINS) | $(BIN)/python
	@echo "installing what it takes to run"
	@$(INSTALL) --editable '.[embedded]'
	@touch $@

$(DEV): $(PINS) | $(BIN)/python
	@echo "installing what it takes to run, test and check"
	@$(INSTALL) --editable '.[embedded,dev]'
	@touch $(RUN) $@
