# Everything a person or CI runs. `make demo` and `make test` set up what they need first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.rloop-installed

.PHONY: help setup demo test check unit ray engine e2e chaos sim format lock clean

help: ## Show this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv with the pinned requirements (CPU)

$(STAMP): requirements/cpu.txt pyproject.toml deploy/install.sh
	@PYTHON=$(PYTHON) VENV=$(VENV) sh deploy/install.sh
	@touch $@

demo: $(STAMP) ## The main job, end to end, on this machine (six to twelve minutes)
	$(BIN)/rloop train recipes/demo.yaml

test: check sim ray engine e2e chaos ## All tests

check: $(STAMP) ## Format, lint, types, import rules, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/unit -q

ray engine e2e: $(STAMP) ## One tier of tests
	$(BIN)/python -m pytest tests/$@ -q

chaos: $(STAMP) ## Whole runs under fire: the tests, or with N=32 [SEED=0] so many trials and a table
	$(BIN)/python $(if $(N),tests/chaos/campaign.py $(N) $(addprefix --seed ,$(SEED)),-m pytest tests/chaos -q)

sim: $(STAMP) ## Simulated runs under faults: the tests, or with N=5000 so many seeds and a report, or one SEED=123
	$(BIN)/python $(if $(N)$(SEED),tests/sim/many_seeds.py $(N) $(addprefix --seed ,$(SEED)),-m pytest tests/sim -q)

format: $(STAMP) ## Format and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(STAMP) ## Resolve requirements/cpu.txt and its hashes again
	VENV=$(VENV) sh deploy/lock.sh

clean: ## Remove caches (not .venv, not runs)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
