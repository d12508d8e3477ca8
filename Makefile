# Everything a person or CI runs. `make demo` and `make test` set up what they need first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.rloop-installed

# Files of tests side by side, one per core: their fixtures are made once.
PARALLEL := -n logical --maxprocesses 8 --dist loadfile
IDLE := $(shell command -v chrt >/dev/null && echo chrt --idle 0 || echo nice -n 19)

.PHONY: help setup demo test check sandbox ray engine e2e chaos sim format lock clean

help: ## Show this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv with the pinned requirements (CPU)

$(STAMP): requirements/cpu.txt pyproject.toml deploy/install.sh
	@PYTHON=$(PYTHON) VENV=$(VENV) sh deploy/install.sh
	@touch $@

demo: $(STAMP) ## The main job, end to end, on this machine (six to twelve minutes)
	$(BIN)/rloop train recipes/demo.yaml

test: check ## All tests: the simulated runs take what the real ones, which wait a lot, leave of the machine
	@$(MAKE) --no-print-directory --jobs=2 simulated real

.PHONY: simulated real
simulated: $(STAMP)
	@log=$$(mktemp); status=0; $(IDLE) $(BIN)/python -m pytest tests/sim -q >$$log 2>&1 || status=$$?; \
	echo "tests/sim:"; cat $$log; rm $$log; exit $$status

real: $(STAMP)
	@for tier in sandbox ray engine e2e chaos; do $(MAKE) --no-print-directory $$tier || exit; done

check: $(STAMP) ## Format, lint, types, import rules, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/unit -q $(PARALLEL)

sandbox ray engine e2e: $(STAMP) ## One tier of tests
	$(BIN)/python -m pytest tests/$@ -q $(if $(filter sandbox,$@),$(PARALLEL))

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
