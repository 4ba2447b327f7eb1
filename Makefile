PYTHON ?= python3
BIN := .venv/bin

.PHONY: test lint

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

test: .venv/installed
	$(BIN)/pytest -q

lint: .venv/installed
	$(BIN)/ruff check ftcli tests
