# Needs make (3.81 or newer) and Python 3.11 or newer; everything else goes into .venv, made by the first target that
# needs it and refreshed when pyproject.toml changes.
#     make test ARGS="-k postgresql"      more arguments for the program that a target runs
#     make test PYTHON=/path/to/python3   the Python that .venv is made from

VENV := .venv
RUN := $(VENV)/bin/python -m
READY := $(VENV)/.ready
BASELINE := benchmarks/baseline.json
ARGS :=

# Tried by running it: a name on PATH may be a shim without a Python behind it.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11
PYTHON ?= $(shell for p in $(PYTHONS); do $$p -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && echo $$p && break; done)

.DEFAULT_GOAL := help
# The steps of `check` run in their order, under make -j too.
.NOTPARALLEL:
.PHONY: help demo test check format format-check lint types imports manifest fuzz bench bench-compare bench-baseline profile build clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

demo: $(READY) ## try manydb on a demo database
	$(VENV)/bin/manydb demo $(ARGS)

test: $(READY) ## run the tests; says which databases were tested
	$(RUN) pytest $(ARGS)

check: format-check lint types imports test ## everything a change must pass; stops at the first failure

format: $(READY) ## format the code
	$(RUN) ruff format $(ARGS)

format-check: $(READY) ## say which files are not formatted
	$(RUN) ruff format --check

lint: $(READY) ## look for mistakes
	$(RUN) ruff check

types: $(READY) ## check the types
	$(RUN) mypy

imports: $(READY) ## check which module imports which
	$(VENV)/bin/lint-imports

manifest: $(READY) ## write down anew what clients are told first
	MANYDB_TEST_MANIFEST=write $(RUN) pytest tests/test_manifest.py $(ARGS)

fuzz: $(READY) ## look for statements that pass as reads and are none
	$(RUN) tests.fuzz --seconds 60 $(ARGS)

bench: $(READY) ## run the benchmarks
	$(RUN) benchmarks $(ARGS)

bench-compare: $(READY) ## say which ratio is not what it was when the baseline was stored
	$(RUN) benchmarks --quick --compare $(BASELINE) $(ARGS)

bench-baseline: $(READY) ## store the ratios of now as the baseline
	$(RUN) benchmarks --quick --repeat 3 --save $(BASELINE) $(ARGS)

profile: $(READY) ## write where a call's time goes; ARGS='"100 rows" --database postgresql'
	$(RUN) benchmarks.profiling $(ARGS)

build: $(READY) ## build the wheel into dist/
	$(RUN) build --wheel --no-isolation

clean: ## remove what the other targets made, .venv too
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null || { \
		echo 'manydb needs Python 3.11 or newer. Install one, or name it: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'Installing manydb and its tools into $(VENV)'
	@test -x $(VENV)/bin/python || "$(PYTHON)" -m venv $(VENV)
	@$(RUN) pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
