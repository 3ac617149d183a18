# `make demo` and `make test` are all that a fresh machine needs: each makes .venv, installs, and runs.
PY ?= python3
V ?= .venv
STAMP = $(V)/.medseg-installed
PYTEST = $(V)/bin/pytest

.PHONY: demo test test-slow fuzz kill kill-infer bench lint clean

$(STAMP): pyproject.toml constraints.txt
	$(PY) -m venv $(V)
	$(V)/bin/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(V)/bin/medseg demo --force

# One thread for each of two processes: more only wait for each other on networks this small.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist worksteal -m 'not slow'
	$(PYTEST) --nbmake --nbmake-timeout=300 notebooks

test-slow: $(STAMP)
	$(PYTEST) -m slow --timeout 1800

# 20,000 broken files through every reader, about 15 minutes on one core; prints the table of benchmarks/README.md.
fuzz: $(STAMP)
	$(V)/bin/python -m tests.io.fuzz.run --mutants 20000

# The peers of benchmarks/ in an environment of their own.
bench: $(STAMP)
	$(PY) -m venv .venv-bench
	.venv-bench/bin/pip install -q -c constraints.txt torch nnunetv2==2.8.1

# A training killed 100 times at random moments and resumed: the same files as the unbroken run's. About 10 minutes.
kill: $(STAMP)
	$(V)/bin/python -W ignore -m tests.workflows.kills --kills 100 --races 10

# A cohort of 40 scans killed 200 times at random moments and run again: each case once, the same files. About 5 minutes.
SCANS ?= $(wildcard ../shared/data/Task04_Hippocampus/imagesTr)
kill-infer: $(STAMP)
	$(V)/bin/python -W ignore -m tests.workflows.kills_infer --kills 200 --cases 40 --races 10 $(SCANS:%=--scans %)

lint: $(STAMP)
	$(V)/bin/ruff check .
	$(V)/bin/ruff format --check .
	$(V)/bin/mypy

clean:
	rm -rf $(V) .venv-bench demo .mypy_cache .ruff_cache
