# Everything happens inside the checkout: the virtual environment in .venv, downloads and caches in .cache.
#   make test    all that CI checks: lint, format, types, unit tests, tests inside a real ComfyUI, the guides
#   make test-long  what explores many cases and takes long: before a release
#   make audit   known vulnerabilities of what is installed; outside of CI, because its answer changes with the day
#   make docs    the guides as a site, in .cache/site
#   make demo    one model on one device and split over all of them, in a real ComfyUI: the same picture
# COMFYUI_PATH=/path/to/ComfyUI uses that checkout instead of the pinned release; VENV=... another environment.

PYTHON ?= python3
VENV   ?= .venv
export COMFYUI_PATH

PY       := $(VENV)/bin/python
PIP      := $(PY) -m pip --disable-pip-version-check
STAMP    := $(VENV)/.packages-installed
COMFYUI  := $(VENV)/.comfyui-folder
TYPING   := .cache/typing

ROOT_MODULES := $(patsubst %.py,-m multigpu.%,$(filter-out __init__.py,$(wildcard *.py)))

.DEFAULT_GOAL := help
.PHONY: help setup test test-long audit lint types unit comfyui docs demo clean FORCE

help:
	@sed -n 's/^#   //p' Makefile

setup: $(STAMP) $(COMFYUI)

$(STAMP): pyproject.toml requirements-torch.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -r requirements-torch.txt
	$(PIP) install --quiet -e ".[dev,docs]"
	touch $@

# Which ComfyUI is used, and its requirements installed: done again when either changes.
$(COMFYUI): $(STAMP) FORCE
	@$(PY) multigpu_core/testing/comfyui_release.py > $@.new
	@cat "$$(cat $@.new)/requirements.txt" >> $@.new
	@cmp -s $@ $@.new || $(PIP) install --quiet -r requirements-torch.txt -r "$$(head -n 1 $@.new)/requirements.txt"
	@mv $@.new $@

test: lint types unit comfyui docs

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m bandit --quiet --configfile pyproject.toml --severity-level high -r $(wildcard *.py) multigpu_core integrations benchmarks examples

# A type checker cannot follow the editable install, so it sees the checkout through a link with the package's name.
types: setup
	@mkdir -p $(TYPING) && ln -sfn "$(CURDIR)" $(TYPING)/multigpu
	MYPYPATH=$(TYPING) $(PY) -m mypy --cache-dir .cache/mypy -m multigpu $(ROOT_MODULES) -p multigpu.multigpu_core -p multigpu.integrations

# Two processes: what registers a backend or a ComfyUI in one cannot help a test in the other to pass.
unit: setup
	$(PY) -m pytest -m "not long" --ignore=tests/comfyui

comfyui: setup
	$(PY) -m pytest -m "not long" tests/comfyui

# A folder without a long test is no failure (exit status 5: nothing was selected).
test-long: setup
	$(PY) -m pytest -m long --ignore=tests/comfyui || test $$? -eq 5
	$(PY) -m pytest -m long tests/comfyui || test $$? -eq 5

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --site-dir .cache/site

audit: $(STAMP)
	$(PY) -m pip_audit --skip-editable

demo: setup
	$(PY) -m multigpu demo

clean:
	rm -rf .cache build *.egg-info

FORCE:
