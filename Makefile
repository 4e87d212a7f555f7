# Everything a newcomer needs: `make demo` and `make test` do their own set-up on a fresh Debian machine (root).
# Nothing is installed that is already there.
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PYTHON ?= python3

.PHONY: help venv setup-run setup-test demo test test-unit test-netns lint format bench docs package clean

help:
	@echo "make demo     two routers, a client and a server in namespaces: failover, watched live"
	@echo "make test     every test (installs what it needs when it is missing)"
	@echo "make lint     ruff, mypy --strict, import rules"
	@echo "make bench    measurements beside keepalived and other peers"
	@echo "make docs     renew the generated pages under docs/"
	@echo "make package  sdist and wheel in dist/"

venv: $(VENV)/.ready

# The stamp is renewed when the dependencies change.
$(VENV)/.ready: pyproject.toml deploy/setup.sh
	@deploy/setup.sh python
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

setup-run:
	@deploy/setup.sh run

setup-test:
	@deploy/setup.sh test

lint: venv
	@mkdir -p .build/types/holdfast && ln -sfnr actors bus cli config kernel .build/types/holdfast/
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=.build/types $(BIN)/mypy -p holdfast.actors -p holdfast.bus -p holdfast.cli -p holdfast.config -p holdfast.kernel
	PYTHONPATH=.build/types $(BIN)/lint-imports --config .importlinter

format: venv
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean:
	rm -rf .build dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

test: venv setup-test
	$(BIN)/pytest

demo: venv setup-run
	@$(PY) deploy/demo/demo.py
