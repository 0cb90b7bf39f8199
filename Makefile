# Two commands do everything on a fresh machine with Python 3.11, g++ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test lint bench docs native sanitize check-aarch64 clean
.DEFAULT_GOAL := test

$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt scikit-build-core nanobind ninja cmake pathspec
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[torch,zoo,formats,tables,trees,page,dev]"
	touch $@

# Compiles native/ again into the environment, and writes down the types of what it offers.
native:
	@flock /tmp/tercile-native.lock $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@$(BIN)/python -m nanobind.stubgen -q -m tercile._native -o src/tercile/_native.pyi

# The kernels' tests on a module of its own, compiled with checks of addresses and of undefined behaviour.
SANITIZED := build/sanitize
sanitize: $(INSTALLED)
	@PATH=$(CURDIR)/$(BIN):$$PATH cmake -S . -B $(SANITIZED) -G Ninja -DCMAKE_BUILD_TYPE=Release -DTERCILE_SANITIZE=ON \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python > /dev/null
	@PATH=$(CURDIR)/$(BIN):$$PATH cmake --build $(SANITIZED) --target _native > $(SANITIZED)/log || (cat $(SANITIZED)/log; false)
	@for kernels in plain avx2 avxvnni avx512; do \
	  $(BIN)/python -c "import sys; from tercile import _native; sys.exit('$$kernels' not in _native.available_kernels())" || continue; \
	  echo "$$kernels:"; PYTHONPATH=native/sanitize TERCILE_NATIVE=$$(echo $(SANITIZED)/_native*.so) TERCILE_KERNELS=$$kernels \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  $(BIN)/python -m pytest -x -q -p no:cacheprovider $(SANITIZED_TESTS) || exit 1; done
SANITIZED_TESTS ?= tests/native tests/quantization/runtime/test_packed_matrix.py tests/quantization/runtime/test_threads.py \
  tests/quantization/test_packing.py tests/quantization/test_hadamard.py

# Every set of kernels of AArch64, with and without dot products: needs g++-aarch64-linux-gnu and qemu-user of Debian.
AARCH64 := build/aarch64
AARCH64_CXX := aarch64-linux-gnu-g++ -O2 -std=c++20 -fopenmp-simd -ffp-contract=fast -Wno-psabi
check-aarch64:
	@mkdir -p $(AARCH64)
	$(AARCH64_CXX) -c native/checks/packed_check.cpp -o $(AARCH64)/packed_check.o
	$(AARCH64_CXX) -c native/targets/packed_plain.cpp -o $(AARCH64)/packed_plain.o
	$(AARCH64_CXX) -c native/targets/packed_neon.cpp -o $(AARCH64)/packed_neon.o
	$(AARCH64_CXX) -march=armv8.2-a+dotprod -c native/targets/packed_dotprod.cpp -o $(AARCH64)/packed_dotprod.o
	$(AARCH64_CXX) -static $(AARCH64)/*.o -o $(AARCH64)/packed_check
	qemu-aarch64 -cpu max $(AARCH64)/packed_check
	qemu-aarch64 -cpu cortex-a53 $(AARCH64)/packed_check

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy

# Compresses all-MiniLM-L6-v2 and searches with it: the main job, from nothing.
demo: $(INSTALLED)
	$(BIN)/tercile demo

# Us and peers in one run; each script prints a table and writes it under benchmarks/results/.
bench: $(INSTALLED)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

# The reference of every public name, as HTML, under build/docs/.
docs: $(INSTALLED)
	$(BIN)/python -m pdoc --output-directory build/docs tercile.quantiles tercile.filters tercile.quantization \
	  tercile.compression tercile.zoo tercile.papers tercile.api

clean:
	rm -rf build $(VENV)
