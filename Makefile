# `make help` lists the targets. All of them work in a fresh clone: they set up .venv when needed.
SHELL := bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test test-fast soak matrix bench lint check clean

# More OpenMP threads than free cores make a CPU worker about fifteen times slower.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

PYTHON_VENV := .venv/bin/python

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv with all that is needed (does nothing when it is up to date)
	@bash scripts/setup.sh

demo: setup ## Start a real cluster on this machine and show that it reuses KV
	@bash scripts/demo.sh

test: setup ## Run all tests (starts real clusters)
	@$(PYTHON_VENV) -m pytest -n auto --dist loadfile tests/unit tests/contract
	@$(PYTHON_VENV) -m pytest --durations 12 tests/cluster tests/faults

test-fast: setup ## Run the unit tests only
	@$(PYTHON_VENV) -m pytest -n auto --dist loadfile tests/unit

soak: setup ## Every fault, 24 cycles of up and down, 30 minutes of random kills (an hour and a half)
	@$(PYTHON_VENV) -m pytest -m "soak or not soak" tests/faults tests/cluster/live_changes \
		tests/cluster/test_without_the_key.py tests/cluster/test_storage_backends.py
	@$(PYTHON_VENV) scripts/soak.py

matrix: setup ## Prove every storage backend, mode and layout (an hour); writes docs/matrix.md
	@$(PYTHON_VENV) scripts/matrix.py

bench: setup ## Measure against peers and limits (an hour on a quiet machine); see docs/performance.md
	@$(PYTHON_VENV) scripts/bench/all.py

lint: setup ## Check style, format and types
	@$(PYTHON_VENV) -m ruff check .
	@$(PYTHON_VENV) -m ruff format --check .
	@$(PYTHON_VENV) -m mypy

check: lint test ## Lint, then test: what CI runs

clean: ## Remove caches and build output (not .venv)
	@rm -rf build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find pdcache tests examples scripts -name __pycache__ -type d -prune -exec rm -rf {} +
