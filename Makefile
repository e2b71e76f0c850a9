# Everything happens in .venv; `make demo` and `make test` need nothing beforehand but Python >= 3.11.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test test-slow clients cluster faults fuzz page coverage lint docs clean

$(STAMP): setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo --out demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)
	$(BIN)/sphinx-build -W --keep-going -q -d build/doctrees docs build/docs

test: lint docs
	$(BIN)/python -m pytest -n auto

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

clients: $(STAMP)
	$(BIN)/python -m tests.integrations.environments

cluster: $(STAMP)
	$(BIN)/python -m tests.cluster.faults
	$(BIN)/python -m tests.cluster.killed_replicas
	$(BIN)/python -m pytest -m slow tests/cluster tests/training/test_ranks.py

faults: $(STAMP)
	$(BIN)/python -m tests.faults

fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz

page: $(STAMP)  # needs Chromium, and npm for axe-core; screenshots go to build/page
	mkdir -p build/page && cd build/page && npm pack --silent axe-core && tar xzf axe-core-*.tgz
	AXE=build/page/package/axe.min.js SHOTS=build/page $(BIN)/python -m pytest tests/service/test_page.py

coverage: $(STAMP)
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered

clean:
	rm -rf demo build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .coverage
