# Two commands: `make demo [SOURCE=folder-of-videos]` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3.11
VENV ?= .venv
SOURCE ?=
OUT ?= demo
BIN := $(VENV)/bin

.PHONY: install demo test lint types quick clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) on this machine: pass PYTHON=path-to-python-3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: install
	$(BIN)/likeness demo --out $(OUT) $(if $(SOURCE),--source $(SOURCE))

test: install lint types
	$(BIN)/python -m pytest -n 2

quick: install
	$(BIN)/python -m pytest -n 2 -m "not long"

lint: install
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(OUT) .mypy_cache .ruff_cache .pytest_cache
