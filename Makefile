# The whole of the set-up is here: a fresh Debian machine needs no more than make and Python.
#
#   make demo      HTTPS, a DNS query over UDP and a BIND through real SOCKS5, on loopback
#   make test      linters, types, and the tests, against real servers too
#   make test-all  the tests on every Python from 3.10 on that this machine has
#   make check     linters and types only

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n auto

BIN = $(VENV)/bin

.PHONY: demo test test-all check servers clean

demo: $(VENV)/.demo
	@$(BIN)/python -m socksclient demo

test: check servers
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-all: servers
	sh tests/all-pythons.sh

check: $(VENV)/.test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/python tests/project/check_comments.py socksclient tests benchmarks docs

servers: $(BIN)/python
	PYTHON=$(BIN)/python sh tests/install-servers.sh

# Debian's python3 comes without venv; it is installed where that is possible.
$(BIN)/python:
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	  $$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends python3-venv && \
	  $(PYTHON) -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable . --group test --group check
	@touch $@

clean:
	rm -rf .venv* .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache dist
