# Every target makes its own .venv; nothing but python3 (3.11 or newer), pip and make is needed.

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check
# Workers of the test run: more than twice the two cores it is made for, since tests of real servers mostly wait.
JOBS ?= 6
# Left to `make test-all`: with it all checks would take longer than the quarter of an hour that a change may wait for.
LATER ?= recipes costs plugin/test_suites.py plugin/test_guide.py compat/test_check_perf.py $(addprefix interop/test_,$(addsuffix .py,queues stm naming rwlocks barriers))
# Seeds of `make sim`.
SEEDS ?= 0-200
# Extra arguments for pytest: make unit ARGS="-k lease -x"
ARGS ?=

# Tests start programs hundreds of times: compiling them once is enough.
unexport PYTHONDONTWRITEBYTECODE

SOURCES := src tests recipes examples benchmarks tools

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check fmt lint types mypy pyright tests unit sim zoo explore bench peers proto docs dist clean

help: ## This list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.base ## The main job on real processes: locks, failover, fencing. About a minute.
	@$(BIN)/coord demo

test: $(VENV)/.peers ## Lint, types, tests, packaging: what a change must pass.
	@$(MAKE) --no-print-directory -j4 lint mypy pyright tests

tests: $(VENV)/.peers
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(addprefix --ignore=tests/,$(LATER)) $(ARGS)

test-all: ## The same with what takes longest: about half an hour.
	COORD_TEST_LATER=1 COORD_SIM_FULL=1 COORD_SDK_FLAVOURS=all COORD_FAULT_RUNS=1 COORD_COMPAT_SCRIPTS=300 COORD_CLUSTER_KILLS=10 $(MAKE) --no-print-directory test LATER=

zoo: $(VENV)/.dev ## Every bug that the tests plant, and how many seeds it takes to find it.
	$(PY) -m tests.simulation.zoo $(ARGS)

explore: $(VENV)/.dev ## Schedules of every recipe under faults: make explore ARGS="--recipe mutex --schedules 100000".
	$(PY) -m tests.exploration $(ARGS)

check: $(VENV)/.dev ## What a commit must pass, without the tests.
	@$(MAKE) --no-print-directory -j3 --output-sync=target lint mypy pyright

fmt: $(VENV)/.dev ## Rewrite the sources in the house format.
	$(BIN)/ruff check --quiet --fix-only $(wildcard $(SOURCES))
	$(BIN)/ruff format $(wildcard $(SOURCES))

lint: $(VENV)/.dev ## Format, rules, import contracts, dead code, dependencies.
	$(BIN)/ruff format --check $(wildcard $(SOURCES))
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/lint-imports
	$(BIN)/vulture
	$(BIN)/deptry src

types: mypy pyright ## mypy and pyright, both strict.

mypy: $(VENV)/.dev
	$(BIN)/mypy

pyright: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(PY)

unit: $(VENV)/.dev ## The tests without packaging and the slow ones.
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow" --ignore tests/packaging $(ARGS)

sim: $(VENV)/.dev ## 200 simulated clusters, one per seed, with faults: make sim SEEDS=1000-1200 ARGS="--members 1"
	$(PY) -m coord.testing.sim --seeds $(SEEDS) --jobs 2 --report reports/sim $(ARGS)

bench: $(VENV)/.dev $(VENV)/.peers ## coord-server and etcd side by side; prints a table of ratios.
	$(PY) -m benchmarks $(ARGS)
	$(PY) -m benchmarks.python_clients
	$(PY) -m benchmarks.recipes

peers: $(VENV)/.dev ## Fetch what we compare with (etcd 3.4, h2load, ZooKeeper, Redis ...) by apt-get into .venv, unless it is here.
	@$(PY) -m tools.peers
	@touch $(VENV)/.peers

proto: $(VENV)/.dev ## Regenerate descriptors and stubs from the .proto files.
	$(PY) tools/proto.py

docs: $(VENV)/.dev ## Build the documentation site into site/.
	$(PY) -m tools.site

dist: $(VENV)/.dev ## Wheel and source distribution into dist/.
	rm -rf dist
	$(PY) -m build --no-isolation

clean: ## Remove everything that make has made, .venv too.
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first interpreter that runs, is new enough and can make a virtual environment.
$(PY):
	@for python in python3.13 python3.12 python3.11 python3; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$($$python --version)"; \
	    $$python -m venv $(VENV) && $(PIP) install -qq --upgrade pip && exit 0; \
	    rm -rf $(VENV); exit 1; \
	  fi; \
	done; \
	echo "make: needs Python 3.11 or newer with the venv module (tried python3.13, python3.12, python3.11, python3)" >&2; \
	exit 1

# What the product needs: enough for `make demo`.
$(VENV)/.base: pyproject.toml | $(PY)
	$(PIP) install -qq --editable .
	@touch $@

# What its developers need on top.
$(VENV)/.dev: pyproject.toml $(VENV)/.base
	$(PIP) install -qq --editable '.[dev]'
	@touch $@

# Programs to compare with. What cannot be had is told once, and tried again by `make peers`.
$(VENV)/.peers: $(VENV)/.dev
	@$(PY) -m tools.peers
	@touch $@
