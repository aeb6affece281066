# Every target sets up .venv first. A fresh machine needs only Python 3.11 or newer with venv.
# To use another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

EXTRAS := train,export,openvino,pandas,timm-data,tune,dev
COMMA := ,

.PHONY: help demo test fuzz lint fix docs wheel lock audit sbom gpu

help:
	@echo "make demo    distil a student on real digits and print its accuracy (under 2 minutes)"
	@echo "make test    all tests that this machine can run"
	@echo "make fuzz    read 10,000 truncated, altered or fabricated files (about 10 minutes)"
	@echo "make lint    ruff, mypy, import layers, generated pages, plain words, commit subjects (BASE=v0.1.0: since then)"
	@echo "make fix     format, apply safe fixes, regenerate the generated pages"
	@echo "make docs    regenerate the generated pages"
	@echo "make wheel   build, install in clean environments, with third-party plugins, and try it"
	@echo "make lock    write constraints.txt: every package in the environment with its version; UPGRADE=torch upgrades one"
	@echo "make audit   look up the installed packages in a database of known vulnerabilities (needs a network)"
	@echo "make sbom    write the bill of materials build/sbom.json: every package, its version and licence"
	@echo "make gpu     the tests and benchmarks that need a CUDA device"

demo: $(READY)
	$(BIN)/python benchmarks/digits_demo.py

# Two workers with one thread each are faster than one worker with two threads; worksteal also splits long files.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

# DISTILLKIT_FUZZ multiplies the number of files in `make test`; the tally becomes rows of the table in
# docs/reliability.md.
fuzz: $(READY)
	OMP_NUM_THREADS=1 DISTILLKIT_FUZZ=15 DISTILLKIT_FUZZ_TALLY=docs/benchmarks/reliability-fuzz.json \
		$(BIN)/python -m pytest -q tests/fuzz

# import-linter without its cache: the two configurations share the list of changed files, and each hides changes from
# the other.
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/lint-imports --no-cache --config scripts/floors.toml
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

# Versions already in constraints.txt are kept, unless UPGRADE names the package. pip itself is left out because it reads
# the file.
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
		$(BIN)/python benchmarks/attention_row.py --device cuda --steps 10 && \
		$(BIN)/python benchmarks/gpu_training.py --minutes 9 --out docs/benchmarks; \
	else \
		echo "make gpu: this machine has no CUDA device that torch can use; nothing was run"; \
	fi

# TensorRT's bindings are installed outside site-packages, because they cannot be imported without TensorRT itself.
# A new entry point, dependency or pin changes one of these files, so the next target installs it.
$(READY): pyproject.toml constraints.txt $(wildcard tests/export/tensorrt/bindings-*.txt)
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
		'distillkit needs Python 3.11 or newer; $(PYTHON) is ' + sys.version.split()[0] + '; try make PYTHON=python3.12')"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) cannot create virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@for major in 10 11; do \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
			--target $(VENV)/tensorrt-$$major -r tests/export/tensorrt/bindings-$$major.txt || \
			echo "no bindings of TensorRT $$major for this system; the tests that read them are skipped"; \
	done
	@touch $@
