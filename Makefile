# Everything a newcomer needs: `make demo` and `make test` do their own set-up on a fresh Debian machine (root).
# Nothing is installed that is already there.
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PYTHON ?= python3
PYTEST := $(BIN)/pytest -p no:cacheprovider
TYPES := .build/types
# Some tests look at real time, on machines that others use too: one that fails is run again, twice at most.
AGAIN := --reruns 2

.PHONY: help venv setup-run setup-test demo test test-all test-unit test-netns test-long test-guest test-traffic lint format types bench docs package deb clean

help:
	@echo "make demo        two routers, a client and a server in namespaces: failover, watched live"
	@echo "make test        the tests, in some minutes (installs what it needs when it is missing)"
	@echo "make test-all    with the twin runs of virtual servers and what lasts for minutes: most of an hour"
	@echo "make test-unit   without root and kernel, in virtual time"
	@echo "make test-netns  in network namespaces, with real peers (root)"
	@echo "make test-long   the same for minutes on end: partitions, floods"
	@echo "make test-guest  IPVS in a guest kernel (test-traffic: without the twin runs, in minutes)"
	@echo "make lint        ruff, mypy --strict, import rules"
	@echo "make bench       measurements beside keepalived and other peers"
	@echo "make docs        renew the generated pages under docs/"
	@echo "make package     sdist and wheel in dist/"
	@echo "make deb         a Debian package in dist/"

venv: $(VENV)/.ready

# The stamp is renewed when the dependencies change.
$(VENV)/.ready: pyproject.toml deploy/setup.sh
	@deploy/setup.sh python
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

setup-run:
	@deploy/setup.sh run

setup-test:
	@deploy/setup.sh test

demo: venv setup-run
	@$(PY) deploy/demo/demo.py

test: test-unit test-netns test-traffic

test-all: test-unit test-netns test-guest test-long

test-unit: venv
	$(PYTEST) tests/unit -n 2 $(AGAIN)

# Twin runs compare times with a real keepalived: four side by side leave the machine idle enough for that.
test-netns: venv setup-test
	$(PYTEST) tests/kernel tests/deploy tests/interop -n 4 --dist loadgroup -m "not long" $(AGAIN)

# Partitions and floods that last minutes.
test-long: venv setup-test
	$(PYTEST) tests/kernel tests/deploy tests/interop -m long $(AGAIN)

test-guest: venv setup-test
	$(PY) tests/ipvs/guest.py --guests 2 --timeout 2400 --memory 3G --pytest "$(AGAIN)"

# The part of it that ends in minutes: the table and real traffic through deaths; without twin runs and connection sync.
test-traffic: venv setup-test
	$(PY) tests/ipvs/guest.py --timeout 1200 --memory 4G --pytest "--ignore=tests/ipvs/test_twin.py --ignore=tests/ipvs/test_connsync.py $(AGAIN)"

lint: venv types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=$(TYPES) $(BIN)/mypy -p holdfast.actors -p holdfast.bus -p holdfast.cli -p holdfast.config -p holdfast.kernel
	PYTHONPATH=$(TYPES) $(BIN)/lint-imports --config .importlinter

# The type checker and the import linter do not follow editable installs: they get the packages under their names here.
types:
	@mkdir -p $(TYPES)/holdfast && ln -sfnr actors bus cli config kernel $(TYPES)/holdfast/

format: venv
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: venv setup-test
	$(PY) bench/vrrp_failover.py
	$(PY) bench/vrrp_takeover.py
	$(PY) bench/vrrp_rest.py
	$(PY) bench/bfd/detection.py
	$(PY) bench/bfd/cost.py
	$(PY) bench/bfd/reaction.py

docs: venv
	$(PY) -m holdfast.cli.docs docs

package: venv
	$(PY) -m build --no-isolation --outdir dist .

deb: venv
	PYTHON=/usr/bin/python3 PIP="$(BIN)/pip --python /usr/bin/python3" deploy/debian/build.sh dist

clean:
	rm -rf .build dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
