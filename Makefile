# Everything a contributor types. `make help` explains itself from the comments behind the targets.
PYTHON ?= python3.11
VENV ?= .venv
DEMO_VENV ?= .venv-demo
BIN := $(VENV)/bin
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test slow simulate check format bench docs new-provider clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamps make a second call start at once; a changed dependency list builds anew.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps -e examples/toy_provider
	@touch $@

node_modules/.ready: package.json package-lock.json
	@command -v npm >/dev/null || { echo "make test needs npm for Azurite, the Azure storage emulator: install Node.js 18 or newer"; exit 1; }
	npm ci --silent --no-audit --no-fund
	@touch $@

$(DEMO_VENV)/.ready: pyproject.toml
	@echo "Creating the demo's environment in $(DEMO_VENV) (once, about a minute) ..."
	@$(PYTHON) -m venv $(DEMO_VENV)
	@$(DEMO_VENV)/bin/python -m pip install --quiet --upgrade pip
	@$(DEMO_VENV)/bin/python -m pip install --quiet -e '.[demo]'
	@touch $@

demo: $(DEMO_VENV)/.ready ## train, register, deploy, predict and shift traffic on this machine, then clean up
	@$(DEMO_VENV)/bin/python examples/demo/demo.py

test: $(VENV)/.ready node_modules/.ready ## run all tests but the slow suite (creates .venv; needs npm for the Azure emulator)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

simulate: $(VENV)/.ready ## N=20000 hostile schedules of the durable loop on all cores; SEED=n tells one of them line by line
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--count $(or $(N),20000) --first $(or $(FIRST),0))

slow: $(VENV)/.ready node_modules/.ready ## run the slow suite: the proofs over many more seeds
	$(BIN)/python -m pytest -m slow -n $(JOBS) --dist loadgroup

check: $(VENV)/.ready ## lint, formatting, strict types, layer contract, generated pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/generate_docs.py --check

format: $(VENV)/.ready ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready ## measure side by side with the peers; writes docs/benchmarks/ (minutes; run on a quiet machine)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

docs: $(VENV)/.ready ## regenerate the pages made from code (capability table, CLI reference)
	$(BIN)/python scripts/generate_docs.py

new-provider: $(VENV)/.ready ## make new-provider NAME=x: scaffold an outside provider in ./x
	@$(BIN)/python scripts/new_provider.py "$(NAME)"

clean: ## remove environments and caches
	rm -rf .venv .venv-demo .ci-venv node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
