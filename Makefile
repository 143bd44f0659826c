# Every target sets up what it needs: a virtual environment in .venv, the packages of
# pyproject.toml, and what the tests want from Debian. Start with `make help`.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Installing is keyed on what pyproject.toml says, not on when it was written, so that
# a fresh checkout of the same file installs nothing again.
WANTED := $(shell cksum < pyproject.toml | tr ' ' '-')
RUN := $(VENV)/.installed-run-$(WANTED)
DEV := $(VENV)/.installed-dev-$(WANTED)

# Your own file for `make demo`, and further words for `make demo` and `make bench`.
export FILE
ARGS ?=

.PHONY: help install lint format test demo lab bench docs prove properties campaigns
.PHONY: clean system-packages npm-peers

help: ## Show what there is
	@echo "make TARGET [FILE=your-file] [ARGS='...']"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(RUN) $(DEV) ## Make .venv with upload-kit and the tools of its developers

lint: $(DEV) ## Check style, types, spelling and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(DEV) ## Mend what the style checks can mend by themselves
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Two files side by side: most tests wait for a process or a timer. What fails beside
# others is run once more alone, and has to pass then.
test: lint system-packages npm-peers ## Run every check and every test
	@rm -f .coverage .coverage.*
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report= --durations=15 $(ARGS) \
	  || { echo "Once more, alone, what failed:"; \
	       $(BIN)/python -m pytest --last-failed --last-failed-no-failures none \
	         --cov --cov-append --cov-report= $(ARGS); }
	$(BIN)/python -m coverage report --skip-covered --fail-under=90

demo: $(RUN) ## Upload a real file through every layer, kill it, resume, prove it (FILE=yours)
	@$(BIN)/upload-kit demo $(ARGS) $${FILE:+"$$FILE"}

lab: $(DEV) ## Open JupyterLab on the notebooks
	$(BIN)/python -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks $(ARGS)

bench: $(RUN) ## Measure the layers on this machine
	$(BIN)/upload-kit bench $(ARGS)

docs: $(DEV) ## Build the site of the documentation into site/, strictly
	$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md changelog.d docs deploy
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m pytest --no-header -q --doctest-modules upload_kit
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

prove: properties campaigns ## Search long for a counterexample: all of the following two

properties: $(DEV) system-packages npm-peers ## Search for one to every property, 20 times as hard
	$(BIN)/python -m pytest --hypothesis-profile=prove --timeout=3600 -m hypothesis $(ARGS)

campaigns: $(DEV) system-packages npm-peers ## Upload thousands of files through faults, kills and loads (ARGS='--only link')
	$(BIN)/python -m tests.campaigns.prove $(ARGS)

clean: ## Remove everything that make made
	rm -rf $(VENV) build dist site htmlcov .coverage .coverage.*
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

system-packages:
	@.ci/system-packages tests

npm-peers: system-packages
	@.ci/npm-peers

$(BIN)/python:
	@python=$$(.ci/find-python) && echo "Making $(VENV) with $$python" && "$$python" -m venv $(VENV)

$(RUN): | $(BIN)/python
	@echo "Installing upload-kit into $(VENV)"
	@$(PIP) install --quiet --upgrade pip
	@$(PIP) install --quiet --editable '.[all]'
	@rm -f $(VENV)/.installed-run-*
	@touch $@

$(DEV): $(RUN)
	@echo "Installing the tools of its developers into $(VENV)"
	@$(PIP) install --quiet --group dev
	@rm -f $(VENV)/.installed-dev-*
	@touch $@
