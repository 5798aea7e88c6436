# `make` prints what there is. Each target sets up its own environment first, and only once.
SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.installed-core
RUNTIME := $(VENV)/.installed-runtime
DEVELOPMENT := $(VENV)/.installed-development
# The newest Python that TensorFlow has wheels for, or PYTHON=... on the command line.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)
# The client library and the page for browsers; nothing where there is no Node.js 20: their tests skip, and say so.
PAGE := iom/service/on_device_page/page.html
WEB_SOURCES := $(shell find clients/web iom/service/page -type f -not -path '*/node_modules/*' -not -path '*/dist/*')
WEB := $(shell node -e 'process.exit(+(parseInt(process.versions.node) < 20))' 2>/dev/null \
	&& command -v npm >/dev/null && echo $(PAGE))
# TensorFlow's log lines are for its developers.
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help demo test wheel-test proofs stores hsm web docs lint format smoke clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: Python 3.11, 3.12 or 3.13 is needed; set PYTHON=/path/to/it" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(CORE): requirements.txt pyproject.toml setup.py | $(BIN)/python
	@echo "installing the core of iom into $(VENV): 270 MB, a minute at most"
	$(BIN)/python -m pip install --disable-pip-version-check --constraint requirements.txt -e .
	@touch $@

$(RUNTIME): $(CORE)
	@echo "installing TensorFlow and what else requirements.txt names into $(VENV): 2.6 GB, minutes"
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

$(DEVELOPMENT): requirements-dev.txt requirements-docs.txt $(RUNTIME)
	@echo "installing what tests and checks need, of requirements-dev.txt and requirements-docs.txt"
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: $(CORE) ## Hash three synthetic faces, change the key, and write a picture (runs/demo)
	$(BIN)/iom demo --output runs/demo

test: lint $(WEB) ## Lint, type-check and run all tests but the long proofs
	$(BIN)/python -m pytest -n 2 --dist worksteal

wheel-test: $(DEVELOPMENT) ## Build the wheel, install it, and run the README's examples in an empty folder
	$(BIN)/python -m pytest tests/integration/test_wheel.py

proofs: $(DEVELOPMENT) ## Run the long proofs (real data in prepared data, foreign programs; 20 minutes)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m proof

stores: $(DEVELOPMENT) ## The suite of all record stores: SQLite and PostgreSQL (if installed)
	$(BIN)/python -m pytest -m "proof or not proof" -rs tests/gallery/test_sqlite_store.py \
		tests/gallery/test_postgres_store.py

hsm: $(DEVELOPMENT) ## Keys in a PKCS #11 token, with SoftHSM (packages: Debian softhsm2, Fedora softhsm, macOS softhsm)
	$(BIN)/python -m pytest -rs tests/gallery/test_pkcs11.py

web: $(PAGE) ## Build and test the client library and the page for browsers (Debian: nodejs, npm)
	cd clients/web && npm test

$(PAGE): $(WEB_SOURCES)
	@test -n "$(WEB)" || { echo "error: Node.js 20 or newer with npm is needed (Debian: nodejs, npm)" >&2; exit 1; }
	cd clients/web && npm ci --ignore-scripts --no-audit --no-fund && npm run check && npm run build
	@touch $@

docs: $(DEVELOPMENT) ## Make the documentation site (runs/site), where every warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

smoke: $(RUNTIME) ## Both training stages and an evaluation on synthetic faces, in minutes
	rm -rf runs/smoke
	$(BIN)/python -m iom synthesize --output runs/smoke/faces --subjects 40 --images 6 --seed 1
	$(BIN)/python train_stage1.py --config configs/smoke/stage1.yaml --output runs/smoke/stage1
	$(BIN)/python train_stage2.py --config configs/smoke/stage2.yaml --output runs/smoke/stage2
	$(BIN)/python evaluate.py --config configs/smoke/evaluate.yaml --output runs/smoke/evaluation

lint: $(DEVELOPMENT) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

format: $(DEVELOPMENT) ## Mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment, caches, runs and what was built
	rm -rf $(VENV) .cache runs .pytest_cache .mypy_cache .ruff_cache \
		clients/web/node_modules clients/web/dist iom/service/on_device_page
