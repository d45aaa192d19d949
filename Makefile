# Everyday verbs. All that is needed is make and Python 3.11 or newer; the rest goes into .venv, at the versions of requirements-lock.txt.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
# More arguments for pytest, such as: make test PYTEST_ARGS="-k retry -x"
PYTEST_ARGS ?=
SEEDS ?= 1000
# What `make check` runs: no PostgreSQL, no long runs.
QUICK_TESTS := $(wildcard $(addprefix tests/,tidy unit workflow store rpc observability))

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types format bench simulate waiting reference lock clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(INSTALLED)  ## start a server with a demo workflow and show what happened; Ctrl-C stops it
	@exec $(BIN)/perdure demo

test: $(INSTALLED)  ## all tests
	$(BIN)/pytest $(PYTEST_ARGS)

check: lint types  ## the quick suite: lint, types, tidy and unit tests
	$(BIN)/pytest -m "not slow" $(QUICK_TESTS) $(PYTEST_ARGS)

lint: $(INSTALLED)  ## style and common mistakes
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(INSTALLED)  ## static types, strict
	$(BIN)/pyright

format: $(INSTALLED)  ## write the code in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(INSTALLED)  ## measure throughput, latency, CPU and memory
	$(BIN)/perdure bench

simulate: $(INSTALLED)  ## simulate whole servers with faults, from SEEDS seeds (default 1000)
	$(BIN)/python -m perdure.testing.simulator --seeds $(SEEDS)

waiting: $(INSTALLED)  ## run what the conformance suites still wait for, and say what passes by now
	$(BIN)/python -m tests.conformance.waiting

reference: $(INSTALLED)  ## write docs/reference from the code
	$(BIN)/python -m tests.tidy.reference

lock: $(INSTALLED)  ## choose dependency versions anew
	$(BIN)/pip install --quiet "uv>=0.8"
	$(BIN)/uv pip compile pyproject.toml --extra postgres --group dev --universal --python-version 3.11 --generate-hashes --upgrade \
		--no-emit-index-url --no-header --no-annotate --quiet --output-file requirements-lock.txt

clean:  ## forget the environment and all caches
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis

# Installed anew when the lock or the project file changes.
$(INSTALLED): requirements-lock.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer with the venv module found; install one, or say PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-lock.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
