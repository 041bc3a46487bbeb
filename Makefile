# Every target does its own set-up first. `make help` lists them; CONTRIBUTING.md says more.
VENV ?= .venv
PORT ?= 8000
STUDIES ?= demo/studies
# Test processes side by side; each starts servers of its own, of up to 4 GB.
JOBS ?= 2
# In front of PATH: the server calls `python` and `itkimage2segimage` by name.
export PATH := $(abspath $(VENV))/bin:$(PATH)
export VENV PYTHON CPU CLUSTER
.DEFAULT_GOAL := help
.PHONY: help setup format lint types test test-fast e2e demo bench lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: ## make .venv and install the locked packages (CPU=1: PyTorch's CPU build; CLUSTER=1: for several machines)
	@requirements/install.sh

format: setup ## rewrite the code as the linter wants it
	ruff check --fix-only --quiet . && ruff format .

lint: setup ## ruff, rules and format
	ruff check . && ruff format --check .

types: setup ## mypy
	mypy

test: lint types ## what is checked without a browser: lint, types, all tests but those (JOBS=2 at a time)
	OMP_NUM_THREADS=1 python -m pytest --ignore=tests/e2e -n $(JOBS) --dist loadfile

test-fast: setup ## the tests that take seconds and start no server
	python -m pytest -m "not slow and not app and not e2e and not data and not gpu"

e2e: setup ## the browser specs, with what they measured (installs chromium and orthanc where it may)
	requirements/e2e.sh && python -m pytest tests/e2e

demo: setup ## serve the demo studies on 127.0.0.1 (PORT=8000, STUDIES=demo/studies, LABELS=lesion,organ)
	python apps/sam3d/cli.py demo --studies "$(STUDIES)" --port $(PORT) --labels "$(LABELS)"

bench: setup ## run every benchmark; each prints one line of JSON
	@for file in benchmarks/*.py; do python "$$file" || exit 1; done

lock: ## resolve the newest allowed versions into requirements/*.lock (needs uv and a network)
	python3 requirements/lock.py

clean: ## remove caches and the demo's files, not .venv
	rm -rf demo build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find apps tests benchmarks requirements -name __pycache__ -prune -exec rm -rf {} +
