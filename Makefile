# `make report` runs the main job, `make test` the tests; both set up .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export OMP_WAIT_POLICY = passive

report: $(VENV)/ready
	$(BIN)/sdeverify report studies/digits

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

nightly: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow or not slow'

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

.PHONY: report test nightly check
