# Every verb sets itself up in .venv; Python 3.11 or newer with venv is all that a fresh machine needs.
# Another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

EXTRAS := train,export,openvino,pandas,timm-data,dev
COMMA := ,

.PHONY: help demo test fuzz lint fix docs wheel lock audit sbom gpu

help:
	@echo "make demo    teach a student on real digits and print what it learned (under 2 minutes)"
	@echo "make test    all tests that this machine can run"
	@echo "make fuzz    read 10,000 files that were torn, altered or made up (about 10 minutes)"
	@echo "make lint    ruff, mypy, import layers, generated pages, plain words, commit subjects (BASE=v0.1.0: since then)"
	@echo "make fix     format, apply safe fixes, regenerate the generated pages"
	@echo "make docs    regenerate the generated pages"
	@echo "make wheel   build, install in clean environments, with a third party's plugin, and try it"
	@echo "make lock    write constraints.txt: every package in the environment with its version; UPGRADE=torch moves one"
	@echo "make audit   look up the installed packages among known vulnerabilities, where a network allows it"
	@echo "make sbom    write a bill of materials, build/sbom.json: every package, its version and licence"
	@echo "make gpu     the tests and benchmarks that need a CUDA device"

demo: $(READY)
	$(BIN)/python benchmarks/digits_demo.py

# Two workers with one thread each beat one worker with two threads; the rest of a long file is shared out.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

# The factor over what make test tries; the tally becomes rows of the table in docs/reliability.md.
fuzz: $(READY)
	OMP_NUM_THREADS=1 DISTILLKIT_FUZZ=15 DISTILLKIT_FUZZ_TALLY=docs/benchmarks/reliability-fuzz.json \
		$(BIN)/python -m pytest -q tests/fuzz

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/lint-imports --config scripts/floors.toml
	$(BIN)/python docs/generate.py --check
	$(BIN)/python scripts/plain_words.py
	$(BIN)/python scripts/commit_subjects.py $(BASE)

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/generate.py

docs: $(READY)
	$(BIN)/python docs/generate.py

wheel: $(READY)
	scripts/check_wheel.sh $(BIN)/python

# Versions that constraints.txt has already stay, unless UPGRADE names the package. pip reads the file, so it is not in it.
lock: $(READY)
	$(BIN)/python -m uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --no-emit-package pip \
		$(patsubst %,--extra=%,$(subst $(COMMA), ,$(EXTRAS))) $(UPGRADE:%=--upgrade-package=%) \
		--annotation-style line --custom-compile-command "make lock" --output-file constraints.txt

audit: $(READY)
	$(BIN)/python scripts/audit.py

sbom: $(READY)
	$(BIN)/python scripts/sbom.py

gpu: $(READY)
	@if $(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then \
		$(BIN)/python -m pytest -q -m gpu && $(BIN)/python benchmarks/gpu_profile.py --minutes 6 --out docs/benchmarks && \
		$(BIN)/python benchmarks/attention_row.py --device cuda --steps 10; \
	else \
		echo "make gpu: this machine has no CUDA device that torch can use; nothing was run"; \
	fi

# TensorRT's bindings stand beside the environment, not in it: without TensorRT itself they cannot be imported.
# A new entry point, dependency or pin changes one of these files, and the next verb installs it.
$(READY): pyproject.toml constraints.txt $(wildcard tests/export/tensorrt/bindings-*.txt)
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
		'distillkit needs Python 3.11 or newer; $(PYTHON) is ' + sys.version.split()[0] + '; try make PYTHON=python3.12')"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@for major in 10 11; do \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
			--target $(VENV)/tensorrt-$$major -r tests/export/tensorrt/bindings-$$major.txt || \
			echo "no bindings of TensorRT $$major for this system; the tests that read them will be skipped"; \
	done
	@touch $@
