# Each target works alone on a bare machine with Python >= 3.11: it creates $(VENV) and installs what it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
APP := $(VENV)/.app
DEV := $(VENV)/.dev
DOCS := $(VENV)/.docs
# Byte code is written when a module is first imported, because most of what is installed never is.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile --constraint constraints.txt
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo docs test coverage lint format notebooks clean table curve break bench bench-gpu

help:
	@echo "make demo       train a small model on the built-in English corpus and print what it learned"
	@echo "make test       run ruff, mypy and all tests"
	@echo "make coverage   run the tests that need no torch.compile and print the lines that none runs"
	@echo "make lint       run ruff and mypy alone"
	@echo "make format     format the code with ruff"
	@echo "make notebooks  run the notebooks and write each .ipynb, with outputs, from its .py"
	@echo "make docs       build the documentation in build/docs; a warning is an error"
	@echo "make table      compare DELLA with its rivals, with DATA=folder; resumable"
	@echo "make curve      plot rate against distortion of NVAE and VAE, with DATA=folder; resumable"
	@echo "make bench      measure ratios against other programs in at most 8 minutes, into benchmarks/RESULTS.md"
	@echo "make bench-gpu  the same on a GPU, with the ways to compile"
	@echo "make break      inject faults (bad inputs, damaged runs, full disks, kills) and count what comes of them"
	@echo "make clean      remove .venv and the tools' caches"
	@echo
	@echo "PYTHON=/path/to/python3.12 picks the interpreter, VENV=.venv-3.12 the environment that is made from it (default: .venv)."

demo: $(APP)
	$(BIN)/pyroformer demo

# Two pytests: jaxtyping's checks, which the first makes on every call, cannot be compiled. All parts run, whatever fails.
# One thread for each worker: the tensors are small.
test: export OMP_NUM_THREADS = 1
test: $(DEV)
	@status=0; set -x; \
	$(BIN)/ruff check . || status=1; \
	$(BIN)/ruff format --check . || status=1; \
	$(BIN)/mypy || status=1; \
	$(BIN)/python -m pytest -m "not compile" --numprocesses 2 --dist loadfile || status=1; \
	JAXTYPING_DISABLE=1 $(BIN)/python -m pytest -m compile --jaxtyping-packages= --numprocesses 2 \
		$$(grep -rl --include='test_*.py' mark.compile tests) || status=1; \
	exit $$status

coverage: export OMP_NUM_THREADS = 1
coverage: $(DEV)
	$(BIN)/python -m pytest -m "not compile" --numprocesses 2 --dist loadfile --cov pyroformer --cov-report term-missing:skip-covered

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(DEV)
	$(BIN)/python notebooks/make_notebooks.py

docs: $(DOCS)
	rm -rf docs/reference # what is generated of modules that have moved
	$(BIN)/python -m sphinx -W --keep-going -c docs -b html . build/docs
	@echo "open build/docs/docs/index.html"

table: export OMP_NUM_THREADS ?= 1
table: $(DEV)
	@test -n "$(DATA)" || { echo "make table needs texts: make table DATA=folder" >&2; exit 1; }
	$(BIN)/python benchmarks/della_table.py --data "$(DATA)" --out "runs/table-$(notdir $(DATA:%/=%))"

curve: export OMP_NUM_THREADS ?= 1
curve: $(DEV)
	@test -n "$(DATA)" || { echo "make curve needs texts: make curve DATA=folder" >&2; exit 1; }
	$(BIN)/python benchmarks/curve.py --data "$(DATA)" --out "runs/curve-$(notdir $(DATA:%/=%))" \
		--plot "runs/curve-$(notdir $(DATA:%/=%)).png"

break: export OMP_NUM_THREADS = 1
break: $(DEV)
	$(BIN)/python benchmarks/faults.py --page docs/robustness.md

bench: export OMP_NUM_THREADS ?= 1
bench: $(DEV)
	$(BIN)/python benchmarks/bench.py --write

bench-gpu: $(DEV)
	$(BIN)/python benchmarks/bench_gpu.py --write

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "pyroformer needs Python 3.11 or newer, which '$(PYTHON)' is not: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(APP): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(DOCS): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[docs]"
	touch $(APP) $@

$(DEV): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[dev]"
	touch $(APP) $@
