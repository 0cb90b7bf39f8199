# Two commands do everything on a fresh machine with Python 3.11, g++ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test lint bench docs native clean
.DEFAULT_GOAL := test

$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt scikit-build-core nanobind ninja cmake pathspec
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[torch,zoo,dev]"
	touch $@

# Compiles native/ again into the environment.
native:
	@flock /tmp/tercile-native.lock $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy
