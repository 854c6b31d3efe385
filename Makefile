# Two commands matter: `make run` (a working three-node cluster) and `make test`.
# Everything is installed into .venv, which is made from the newest Python >= 3.11 found.

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP   := $(BIN)/python -m pip --disable-pip-version-check -qq

CODE  := meshsvc twisted tests bench examples
NODES  ?= 3
SHARDS ?= 2
DIR    ?= dev-cluster
SEEDS    ?= 200
SCENARIO ?= swarm
JOBS     ?= 2
REQUESTS ?= 100000
SEED     ?= 5
CHAOS_S  ?= 600

# Tests, benches and `make run` start many processes: without its bytecode each compiles 260 modules.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install run test check lint types layers tests contracts format bench dist clean sim traces raft-sim proto chaos

help:
	@echo 'make run        a local cluster of $(NODES) nodes with $(SHARDS) shards each, in ./$(DIR)'
	@echo 'make test       lint, types, layers and all tests: what CI runs (also: make check)'
	@echo 'make contracts  each promise of docs/contracts.md and whether a test keeps it'
	@echo 'make raft-sim   Raft cores alone under faults, and the bugs planted in them'
	@echo 'make sim        $(SEEDS) seeds of a simulated cluster (make sim SCENARIO=lossy-wan SEEDS=50)'
	@echo 'make chaos      $(CHAOS_S) s of killed and stopped nodes under clients; $(REQUESTS) random requests to us and to etcd'
	@echo 'make bench      every figure against its yardstick (make bench QUICK=--quick)'
	@echo 'make proto      the protobuf modules anew from meshsvc/etcd/proto/*.proto'
	@echo 'make lint types layers tests format dist clean'

# A candidate counts only if it runs: a version manager may list one that does not.
PROBE := import sys, venv, ensurepip; raise SystemExit(sys.version_info < (3, 11))
$(BIN)/python:
	@for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
	  if $$python -c '$(PROBE)' >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo 'no Python >= 3.11 with venv found$(if $(PYTHON), as $(PYTHON)): install one, or name it with make PYTHON=...' >&2; exit 1

# `pip install --group` came with pip 25.1.
$(STAMP): pyproject.toml examples/ratelimit/pyproject.toml examples/presence/pyproject.toml | $(BIN)/python
	@echo 'installing meshsvc, its development tools and the example into $(VENV)'
	@$(PIP) install --upgrade 'pip>=25.1'
	@$(PIP) install --editable . --editable ./examples/ratelimit \
	  --editable ./examples/presence --group dev
	@touch $@

install: $(STAMP)

run: $(STAMP)
	@$(BIN)/meshsvc dev --nodes $(NODES) --shards $(SHARDS) --dir $(DIR)

test check: lint types layers tests

lint: $(STAMP)
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/ruff format --quiet --diff $(CODE)

types: $(STAMP)
	@$(BIN)/mypy --no-error-summary

layers: $(STAMP)
	@$(BIN)/lint-imports --no-cache > $(VENV)/layers.log 2>&1 || { cat $(VENV)/layers.log; exit 1; }

# What starts processes has the machine to itself; what only computes then shares it in two.
tests: $(STAMP)
ifdef ARGS
	@$(BIN)/python -m pytest $(ARGS)
else
	@$(BIN)/python -m pytest --ignore=tests/sim
	@$(BIN)/python -m pytest tests/sim/planting > $(VENV)/planting.log 2>&1 & planting=$$!; \
	$(BIN)/python -m pytest tests/sim --ignore=tests/sim/planting; others=$$?; \
	wait $$planting; bugs=$$?; cat $(VENV)/planting.log; exit $$((others | bugs))
endif

contracts: $(STAMP)
	@PYTHONPATH=tests/contracts $(BIN)/python -m pytest -p report --contracts \
	  $(if $(WRITE),--contracts-write) $(ARGS)

format: $(STAMP)
	@$(BIN)/ruff check --quiet --fix $(CODE); $(BIN)/ruff format --quiet $(CODE)

bench: $(STAMP)
	@$(BIN)/python bench/all.py $(QUICK)

sim: $(STAMP)
	@$(BIN)/meshsvc sim run --scenario $(SCENARIO) --seeds $(SEEDS) --jobs $(JOBS)

# Long runs of what `make test` does briefly.
chaos: $(STAMP)
	@MESHSVC_DIFFERENTIAL=$(REQUESTS) MESHSVC_DIFFERENTIAL_SEED=$(SEED) \
	  MESHSVC_CHAOS_S=$(CHAOS_S) MESHSVC_CHAOS_SEED=$(SEED) \
	  $(BIN)/python -m pytest -s tests/chaos tests/etcd/test_differential.py

# Raft cores alone, under faults: make raft-sim SEEDS=10000 takes some ten minutes.
raft-sim: $(STAMP)
	@$(BIN)/python tests/raft/fuzz.py 0 $(SEEDS)
	@$(BIN)/python tests/raft/raft_bugs.py 3

traces: $(STAMP)
	@MESHSVC_WRITE_TRACES=1 $(BIN)/python -m pytest tests/sim/test_sim_traces.py tests/raft/test_raft_traces.py

proto: $(STAMP)
	@$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. meshsvc/etcd/proto/*.proto

dist: $(STAMP)
	@$(BIN)/python -m hatchling build --directory dist

clean:
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find meshsvc twisted tests bench examples \
	  \( -name __pycache__ -o -name '*.egg-info' -o -name dropin.cache \) -prune -exec rm -rf {} +
