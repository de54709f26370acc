# Everything a developer does, one word each. All of it runs from .venv; nothing is installed outside this folder.

PYTHON ?= python3
ENV_FILE ?= $(firstword $(wildcard .env) deploy/dev.env)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
COMPOSE := docker compose --env-file $(ENV_FILE) --file docker-compose.temporal.yml
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --custom-compile-command "make lock"

EXTRAS := --extra otel --extra redis --extra storage

# uv brings certificates of its own; with this it trusts those of the machine, as pip does.
export UV_SYSTEM_CERTS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo dev test check lint format bench screenshots up down ramp lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv with the locked packages, Perdure and the example (only when one of them changed)

demo: setup ## Watch a run cross a human approval and a killed worker; needs no account, no key, no Docker
	$(BIN)/perdure demo

dev: setup ## Start Temporal, its Web UI, a worker and the API on this machine
	$(BIN)/perdure dev

test: setup ## Run every test
	$(BIN)/python -m pytest

check: lint test ## Run all that CI runs: lint, then test

lint: setup ## Check format, style, types, layers and dependencies; change nothing
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

format: setup ## Format the code and make the safe fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup ## Measure history, CPU, latency and recovery
	$(BIN)/python -m benchmarks

screenshots: setup ## Take the pictures of docs/images out of a real session of the console
	$(BIN)/python -m tests.browser.screenshots docs/images

up: ## Build and start the cluster of docker-compose.temporal.yml (ENV_FILE=.env, or deploy/dev.env without one)
	$(COMPOSE) up --build --detach
	$(COMPOSE) ps

down: ## Stop the cluster; its volumes stay
	$(COMPOSE) down

ramp: setup ## Verify production's histories with this code, then have PERCENT of new runs go to BUILD
	@test -n "$(BUILD)" && test -n "$(PERCENT)" || { echo "make ramp BUILD=… PERCENT=…" >&2; exit 2; }
	$(BIN)/perdure verify-histories --require $(or $(REQUIRE),1)
	$(BIN)/perdure deployments ramp $(BUILD) --percent $(PERCENT) --yes

lock: setup ## Renew the lock files from pyproject.toml
	$(COMPILE) --upgrade --extra dev --extra pii $(EXTRAS) --group dev pyproject.toml --output-file requirements.lock
	$(COMPILE) --constraint requirements.lock $(EXTRAS) pyproject.toml \
		--output-file deploy/requirements-runtime.lock
	echo hatchling | $(COMPILE) --constraint requirements.lock - --output-file deploy/requirements-build.lock

clean: ## Remove .venv, caches and build results
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv is taken from the lock by pip, which checks its hash; uv then installs the rest, thirty times as fast.
$(STAMP): requirements.lock pyproject.toml examples/support_desk/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $(PYTHON) is missing or older than 3.11; name another with PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
		|| { echo "make: $(PYTHON) cannot create virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	awk '/^[^ ]/ { wanted = /^uv==/ } wanted' requirements.lock > $(VENV)/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(VENV)/uv.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation \
		--editable . --editable examples/support_desk
	touch $@
