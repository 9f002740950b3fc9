# One command on a fresh machine: `make demo` or `make test`. Needs Python 3.11+; a C compiler and
# an arm64 emulator are used when present. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TOOLS := qemu-user-static gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf \
  libc6-dev-armhf-cross gcc-riscv64-linux-gnu libc6-dev-riscv64-cross qemu-user qemu-system-arm \
  cmake ninja-build pkg-config
C_FILES = $(shell find runtime tests/bench -name '*.[ch]' 2>/dev/null)
.DEFAULT_GOAL := help
.PHONY: help demo test test-all large bench bench-kernels bench-arm ort-arm sizes wheel check format tools clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

$(STAMP): pyproject.toml constraints.txt
	@echo "== setting up $(VENV) (a few minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or later is needed\nhint: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[events,bench,train]' || \
	  echo "warning: not installed: expelliarmus, openvino, kornia, matplotlib (their tests are skipped)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[tvm]' || \
	  echo "warning: not installed: apache-tvm (its tests are skipped)"
	@touch $@

tools: ## cross compilers for ARM and RISC-V, emulators, CMake, pkg-config, with apt when root
	@missing=$$(for p in $(TOOLS); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "== apt-get install $$missing"; \
	  apt-get install -y -qq --no-install-recommends $$missing >/dev/null 2>&1 && exit 0; \
	  apt-get update -qq; \
	  for p in $$missing; do \
	    apt-get install -y -qq --no-install-recommends $$p >/dev/null || \
	      echo "warning: not installed: $$p (its tests are skipped)"; \
	  done; \
	else \
	  echo "warning: missing: $$(echo $$missing) (their tests are skipped)"; \
	  echo "hint: sudo apt install $$(echo $$missing)"; \
	fi

demo: $(STAMP) tools ## shipped checkpoint to predictions, parity table and latency
	@echo "== examples/01_quickstart.py"
	@$(BIN)/python examples/01_quickstart.py

OLDEST := build/onnxruntime-oldest
$(OLDEST)/done: $(STAMP)
	@$(BIN)/python -m venv $(OLDEST) && \
	  $(OLDEST)/bin/python -m pip install --quiet 'onnxruntime==1.17.3' 'numpy<2' && touch $@ || \
	  echo "warning: not installed: onnxruntime 1.17.3 in $(OLDEST) (its tests are skipped)"

test: $(STAMP) tools $(OLDEST)/done ## the tests, a few minutes
	@echo "== pytest"
	$(BIN)/python -m pytest -n 2
	@echo "next: make check"

test-all: $(STAMP) tools ## the tests and the slow ones
	@echo "== pytest, slow tests too"
	$(BIN)/python -m pytest -n 2 -m "slow or not slow"
	@echo "next: make check"

large: $(STAMP) tools ## BESTformer-4-384: export time, size, equality, latency
	$(BIN)/python -m pytest -m slow -s -q tests/e2e/test_large.py
	@echo "next: make check"

bench: $(STAMP) ## latency of BESTformer-4-384 over firing rates 2 to 50 %: build/bench/curve.png
	$(BIN)/python tests/bench/curve.py
	@echo "next: docs/benchmarks.md says how to read it"

bench-kernels: $(STAMP) ## kernels against dense rivals and the limits of this core, minutes
	$(BIN)/python tests/bench/kernels.py
	@echo "next: make bench-arm"

sizes: $(STAMP) ## bytes of libbst.so and of the static bst_run for arm64
	$(BIN)/python tests/bench/sizes.py
	@echo "next: make check"

bench-arm: $(STAMP) tools ## executed instructions on ARM, emulated, layer by layer; never time
	$(BIN)/python tests/bench/arm.py
	@echo "next: make check"

ort-arm: $(STAMP) tools ## the custom ops in ONNX Runtime for arm64, emulated; gets 190 MB into build/
	test -e build/arm64-python/done || $(BIN)/python tests/e2e/arm64_python.py build/arm64-python
	$(BIN)/python -m pytest -m slow -s -q tests/e2e/test_onnxruntime_matrix.py -k arm64
	@echo "next: make check"

wheel: $(STAMP) ## dist/: a pure wheel, and one with the runtime's library for this machine
	$(BIN)/python -m pip wheel --quiet --no-deps -w dist .
	BESTDEPLOY_PREBUILT=1 $(BIN)/python -m pip wheel --quiet --no-deps -w dist .
	@ls dist
	@echo "next: pip install one of them; on a machine without a C compiler the one that names a platform"

check: $(STAMP) ## ruff, mypy, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(if $(C_FILES),$(BIN)/clang-format --dry-run -Werror $(C_FILES))
	@echo "next: git commit, or make format where something was found"

format: $(STAMP) ## rewrite the sources in the house format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(if $(C_FILES),$(BIN)/clang-format -i $(C_FILES))
	@echo "next: make check"

clean: ## everything built, but not the compiler cache
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "next: make test"
