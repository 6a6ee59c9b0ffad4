# `make` lists the targets. Everything installs into .venv from the lock files; system packages only by cluster-up (or in CI).
.DEFAULT_GOAL := help
.PHONY: help demo test lint unit contract property model integration e2e chaos chaos-night bench cluster-up cluster-install cluster-down lock crds clean

# Compiled modules are worth keeping: tests and demo start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# On two cores, since many tests wait; which share a process, and which come first, says tests/conftest.py.
TOGETHER := -n 4 --dist loadscope --no-loadscope-reorder
TIERS := unit contract property model integration chaos e2e

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

.venv/.base: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Kapstan needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) -V). Say make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev: requirements-dev.lock .venv/.base
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: .venv/.base ## The main job in one go: a flow that is killed and resumes, workers that are killed and lose nothing (CLUSTER=1: on kubectl's cluster, with the chart and the quickstart's image there; NAMESPACE=, IMAGE=)
	@$(BIN)/python examples/quickstart/demo.py $(if $(CLUSTER),--cluster $(addprefix --namespace=,$(NAMESPACE)) $(addprefix --image=,$(IMAGE)))

test: .venv/.dev lint ## Every tier; a tier whose services are missing is skipped with one line (under CI=true: a failure)
	$(PYTEST) $(TOGETHER) --durations=20 $(addprefix tests/,$(TIERS))

lint: .venv/.dev ## Format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright

unit contract property model integration e2e chaos: .venv/.dev ## One tier of the tests
	$(PYTEST) tests/$@

chaos-night: .venv/.dev ## What takes too long for every change, some hours: >= 1,500 real kills, 2,000 random histories on each store and server, flows killed at 200 random points on each store
	KAPSTAN_TEST_CHAOS_ROUNDS=15 $(PYTEST) tests/chaos
	KAPSTAN_TEST_SEQUENCES=2000 $(PYTEST) tests/property/register tests/property/queue/test_protocol.py
	KAPSTAN_TEST_FLOW_POINTS=200 KAPSTAN_TEST_FLOW_WIDE=1 $(PYTEST) -s tests/integration/flows/test_killed_anywhere.py tests/integration/flows/test_very_many.py

bench: .venv/.dev ## Ratios beside peers and bare Redis, one table
	$(BIN)/python -m tests.bench

cluster-up: .venv/.dev ## Bring up a real Kubernetes for the tests (installs system packages)
	$(BIN)/python -m tests.cluster up --install

cluster-install: .venv/.dev ## Build and install the product there, and the quickstart's image for `make demo CLUSTER=1`
	$(BIN)/python -m tests.e2e

cluster-down: .venv/.dev ## Take it down again and leave the machine as it was
	$(BIN)/python -m tests.cluster down

crds: .venv/.dev ## Write crds/ and the generated files of the chart
	$(BIN)/kapstan crds --write

lock: .venv/.dev ## Pin everything anew
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 --group lock-base pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 --extra operator --group lock-base pyproject.toml -o requirements-operator.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 --extra operator --extra postgres --group dev --group lock-base pyproject.toml -o requirements-dev.lock

clean: ## Remove what was built here
	rm -rf .venv dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
