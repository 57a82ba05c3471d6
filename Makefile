# Everything a contributor or a newcomer needs. `make run` serves, `make test` is what CI runs.
# Needs git, make and Python 3.11 or later with venv; the rest is installed into .venv, locked by hash.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.roadworthy-setup
# A Python is found on the machine or the setup stops; none is ever downloaded.
export UV_PYTHON_DOWNLOADS := never
UV := $(BIN)/uv
UV_INSTALL := $(UV) pip install --quiet --require-hashes
LOCK := $(UV) pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 $(if $(UPGRADE),--upgrade)
PYTEST := $(BIN)/python -m pytest
TRY := tests/unit tests/integration
# Two workers, each with whole files: servers started by a file's fixtures are started once.
XDIST := -n 2 --dist loadfile

.PHONY: help setup run test check test-pythons bench soak docs lock clean

help: ## Say what can be made
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv with the roadworthy command and the development tools
	@:

$(STAMP): pyproject.toml requirements/uv.txt requirements/dev.txt
	@test -x $(BIN)/python || { \
	  python=$$(scripts/pythons | head -n 1 | cut -d ' ' -f 2-); \
	  if [ -z "$$python" ]; then echo "make: no Python from 3.11 to 3.14 with venv was found" >&2; exit 1; fi; \
	  echo "Making $(VENV) with $$python"; \
	  "$$python" -m venv $(VENV); }
	@echo "Installing the locked dependencies"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(UV_INSTALL) --python $(BIN)/python -r requirements/dev.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

run: setup ## Serve the agents of this folder, or the built-in ones, on port 8000
	@exec $(BIN)/roadworthy serve

test: check ## Everything that CI runs
	$(PYTEST) $(XDIST) tests
	@$(MAKE) test-pythons TRY=tests/unit

check: setup ## Lint, format, types, layers, dependencies, generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/deptry src
	$(BIN)/python -m roadworthy.cli.config_docs --check

test-pythons: setup ## Unit and integration tests (TRY) on every other Python from 3.11 to 3.14 that is found
	@scripts/test-pythons $(TRY)

bench: setup ## One table of ratios against the same graph in-process
	$(BIN)/python -m benchmarks

soak: setup ## The long tests and measurements: endurance, idle streams, random schedules
	@$(PYTEST) -m soak tests || [ $$? -eq 5 ] # 5: no test is marked so
	$(BIN)/python -m benchmarks.soak

docs: setup ## Write docs/configuration.md from the settings
	$(BIN)/python -m roadworthy.cli.config_docs

lock: setup ## Lock the dependencies again; UPGRADE=1 takes newer versions
	$(LOCK) requirements/uv.in -o requirements/uv.txt
	$(LOCK) pyproject.toml -o requirements/base.txt
	$(LOCK) --group dev -c requirements/base.txt pyproject.toml -o requirements/dev.txt

clean: ## Remove what was made, except data folders
	rm -rf $(VENV) .venvs .pytest_cache .ruff_cache .import_linter_cache .hypothesis .schemathesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
