# Geometry-aware sharpness minimization: what there is to do here. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# Any Python 3.11 or 3.12; `make PYTHON=/path/to/python demo` names one.
PYTHON ?= $(shell for p in python3 python3.11 python3.12; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' 2>/dev/null && echo $$p && break; done)
RUN := .venv/bin/python
# What was written as key=value behind a target, for the scripts that take such words.
WORDS = $(filter-out PYTHON=%,$(MAKEOVERRIDES))

.PHONY: help
help: ## List the tasks
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*?## "}; {printf "  make %-17s %s\n", $$1, $$2}'

.venv/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found. Name one: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	@echo "Setting up .venv (a few minutes, once)"
	@$(PYTHON) -m venv .venv
	@$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[suite,dev]' 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

.PHONY: setup
setup: .venv/.ready ## Make the environment in .venv (every task below does so by itself)

.PHONY: demo
demo: .venv/.ready ## Train seven methods on real digits and render results/demo/
	@$(RUN) train.py table=demo
	@$(RUN) scripts/render_tables.py table=demo

.PHONY: test
test: .venv/.ready ## Run the tests, on two cores at once
	@$(RUN) -m pytest -n 2

.PHONY: coverage
coverage: .venv/.ready ## Run the tests and list the lines of the package that none of them reaches
	@$(RUN) -m pytest -n 2 --cov=llqr_sam --cov-report=term-missing:skip-covered

.PHONY: test-slow
test-slow: .venv/.ready ## Run the tests marked slow
	@$(RUN) -m pytest -n 2 -m "slow and not (slurm or gpu or nmt or integrations or wheel)"

.PHONY: test-slurm
test-slurm: .venv/.ready ## Start a real SLURM here (Debian, as root) and run a table on it
	@$(RUN) -m pytest -m slurm tests/integration -rs --require-slurm

# fairseq 0.12.2 asks for a Hydra, an OmegaConf and a Python of its time, and needs none of them: so it comes without its
# dependencies. Built beside a torch it compiles extensions for minutes; without one only the three that are used here.
BUILD := .venv/build-fairseq
.venv/.nmt: .venv/.ready constraints-nmt.txt
	@echo "Adding fairseq to .venv (a minute, once)"
	@rm -rf $(BUILD) && $(RUN) -m venv $(BUILD)
	@$(BUILD)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --constraint constraints-nmt.txt \
		setuptools wheel cython numpy 2> >(grep -v '^WARNING: Location' >&2)
	@$(BUILD)/bin/python -m pip wheel --quiet --disable-pip-version-check --constraint constraints-nmt.txt --no-deps --no-build-isolation \
		--wheel-dir $(BUILD) fairseq 2> >(grep -v '^WARNING: Location' >&2)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --constraint constraints-nmt.txt \
		--editable '.[suite,dev,nmt]' 2> >(grep -v '^WARNING: Location' >&2)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps $(BUILD)/fairseq-*.whl
	@rm -rf $(BUILD)
	@touch $@

.PHONY: nmt
nmt: .venv/.nmt ## Add fairseq to .venv, for translation

.PHONY: test-nmt
test-nmt: .venv/.nmt ## Run the tests that need fairseq
	@$(RUN) -m pytest -m nmt

.venv/.integrations: .venv/.ready constraints-integrations.txt
	@echo "Adding lightning, transformers and accelerate to .venv (a minute, once)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --constraint constraints-integrations.txt \
		--editable '.[suite,dev,integrations]' 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

.PHONY: integrations
integrations: .venv/.integrations ## Add lightning, transformers and accelerate to .venv

.PHONY: test-integrations
test-integrations: .venv/.integrations ## Run the tests of the adapters to other training loops
	@$(RUN) -m pytest -m integrations

.PHONY: test-wheel
test-wheel: .venv/.ready ## Build the wheel, install it alone with torch, run the README's example there
	@$(RUN) -m pytest -m wheel tests/integration

OLDEST := .venv-oldest/bin/python
.venv-oldest/.ready: pyproject.toml constraints-oldest.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "error: the oldest versions need Python 3.11. Name it: make PYTHON=/path/to/python3.11 test-oldest"; exit 2; }
	@echo "Setting up .venv-oldest (minutes and gigabytes, once)"
	@$(PYTHON) -m venv .venv-oldest
	@$(OLDEST) -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt --editable '.[suite,dev]' 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

.PHONY: test-oldest
test-oldest: .venv-oldest/.ready ## Run the tests of what computes under the oldest versions that pyproject.toml allows
	@$(OLDEST) -m pytest -n 2 tests/methods tests/oracles tests/studies/theory/control tests/engine

.PHONY: status
status: .venv/.ready ## What runs or has failed in the tables that have begun
	@$(RUN) train.py status=true

.PHONY: lint
lint: .venv/.ready ## ruff and mypy
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

.PHONY: check
check: lint test test-slow ## What CI runs, in the order that fails fastest

.PHONY: tables
tables: .venv/.ready ## Render every table from results/runs and results/timings, the paper's claims, and Table 9
	@$(RUN) scripts/render_tables.py $(WORDS)
	@$(RUN) scripts/storage.py

.PHONY: figures
figures: .venv/.ready ## Draw every figure there are records for, and the claims (about a minute)
	@$(RUN) scripts/figures.py $(WORDS)

.PHONY: report
report: .venv/.ready ## Write the page with all results: results/report/index.html
	@$(RUN) scripts/report.py $(WORDS)

.PHONY: bench
bench: .venv/.ready ## Cost of each method and of a refresh, as ratios to a gradient evaluation
	@$(RUN) scripts/bench.py

.PHONY: reproduce-gpu
reproduce-gpu: .venv/.ready ## The paper's runs in order of value on a GPU; minutes=10 limits a call, the next continues
	@$(RUN) scripts/reproduce_gpu.py $(WORDS)

.PHONY: gpu-window
gpu-window: .venv/.ready ## What a few minutes on a GPU are for, in order of value, packed in one archive; minutes=12
	@$(RUN) scripts/gpu_window.py $(WORDS)

# What travels with the tracked files to a machine without a network: docs/reproduction.md.
TARGET_PYTHON ?= $(RUN)
.PHONY: window
window: .venv/.ready ## Put together in window/ what a machine without a network lacks: packages and the commit's name
	@rm -rf window/wheels window/packages && mkdir -p window
	@$(TARGET_PYTHON) -m pip wheel --quiet --disable-pip-version-check --wheel-dir window/wheels 'hydra-core>=1.3,<1.4' 'pydantic>=2.12' 2> >(grep -v '^WARNING: Location' >&2)
	@for wheel in window/wheels/*.whl; do $(RUN) -m zipfile -e "$$wheel" window/packages; done && rm -r window/wheels
	@echo "$$(git rev-parse HEAD)$$(git diff --quiet HEAD -- llqr_sam || echo -dirty)" > window/commit
	@du -sh window | sed 's/\t.*/ in window\//'

.PHONY: clean
clean: ## Remove what building and running leave behind; results/ and data/ stay
	@rm -rf .venv .venv-oldest build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache outputs
