# Two commands do everything on a fresh machine with Python >= 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
JOBS ?= 2

.PHONY: docs demo test test-slow small-scale lint evidence benchmarks clean

demo: $(VENV)/.demo
	$(BIN)/unlabeled demo

test: $(VENV)/.test lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q $(PYTEST)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -q -m "slow and not gpu" --timeout 1800 $(PYTEST)

# the proofs that each method learns, on real scans beside the project; their figures go to evidence/small-scale.csv
small-scale: $(VENV)/.test
	UNLABELED_PROOFS=evidence/small-scale.csv $(BIN)/python -m pytest -q -s -m slow tests/methods -k "$(or $(ONLY),proof or learns or small_scale)"
	$(BIN)/python evidence/collect.py

# the documentation, strictly: a broken link, or a page that is in no menu, is an error; open site/index.html
docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

evidence: $(VENV)/.demo
	$(BIN)/python evidence/run.py --data $(DATA) $(if $(PLAN),--plan $(PLAN))
	$(BIN)/python evidence/collect.py

# torch first: the pinned build is the one for the CPU
$(VENV)/.base: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Unlabeled needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $$(grep '^torch==' constraints.txt)
	touch $@

$(VENV)/.demo: $(VENV)/.base pyproject.toml
	$(PIP) -e '.[demo]'
	touch $@

$(VENV)/.test: $(VENV)/.base pyproject.toml
	$(PIP) -e '.[test]'
	$(PIP) --no-deps dynamic-network-architectures
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
