# Everything happens inside the checkout: the virtual environment in .venv, downloads and caches in .cache.
#   make check      while you work: lint, types and the unit tests
#   make test       all that CI checks: lint, types, the guides, unit tests, packages, tests inside a real ComfyUI
#   make test-long  before a release: many more made-up cases, for an hour or more
#   make mutate     before a release: how many single mutations of the engine no test notices
#   make audit      known vulnerabilities of what is installed; its answer changes with the day, so CI does not ask
#   make compatibility COMFYUI=/path/to/ComfyUI  the tests inside that ComfyUI; writes its row in docs/compatibility.md
#   make docs       the guides as a site, in .cache/site
#   make demo       one model on one device and split over all of them, in a real ComfyUI: the same picture
# Each stage of these is a target of its own: make unit, make lint, ...
#
# COMFYUI_PATH=/path/to/ComfyUI uses that checkout instead of the pinned release; VENV=... another environment.
# TORCH_INDEX=URL installs torch from that package index: PyTorch's own has builds for the CPU alone.
# WORKERS=N runs that many tests at a time; each takes a core and up to 2 GB of memory.

PYTHON  ?= python3
VENV    ?= .venv
WORKERS ?= 2
export COMFYUI_PATH
# Every process that a test starts imports ComfyUI: compiled modules are kept, also where the shell says otherwise.
unexport PYTHONDONTWRITEBYTECODE

PY       := $(VENV)/bin/python
PIP      := $(PY) -m pip --disable-pip-version-check
TORCH    := $(VENV)/.torch-installed
PACKAGES := $(VENV)/.packages-installed
RELEASE  := $(VENV)/.comfyui-folder
TYPING   := .cache/typing
SETUP    := environment torch packages comfyui-release
STAGES   = @MAKE="$(MAKE)" $(PYTHON) .ci/stages.py
# As many tests at a time, and each computes on one core.
TESTS    := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# The same order each time, so that a failure can be looked for; make test-long shuffles.
PYTEST   := $(TESTS) -p no:randomly

ROOT_MODULES := $(patsubst %.py,-m multigpu.%,$(filter-out __init__.py,$(wildcard *.py)))

.DEFAULT_GOAL := help
.PHONY: help setup check test test-long mutate audit compatibility demo clean FORCE
.PHONY: $(SETUP) lint types docs unit comfyui long-unit long-comfyui

help:
	@sed -n 's/^#   //p' Makefile

setup:
	$(STAGES) $(SETUP)

check:
	$(STAGES) $(SETUP) lint types unit

test:
	$(STAGES) $(SETUP) lint types docs unit comfyui

test-long:
	$(STAGES) $(SETUP) long-unit long-comfyui

mutate: $(RELEASE)
	$(PY) benchmarks/mutate.py

compatibility: $(PACKAGES)
	$(if $(COMFYUI),,$(error Name a checkout: make compatibility COMFYUI=/path/to/ComfyUI))
	WORKERS=$(WORKERS) $(PY) .ci/compatibility.py "$(COMFYUI)"

demo:
	$(STAGES) $(SETUP)
	$(PY) -m multigpu demo

# The setup. Each step is done again when what it was made from has changed.

environment: $(PY)
torch: $(TORCH)
packages: $(PACKAGES)
comfyui-release: $(RELEASE)

$(PY):
	@echo "Creating the virtual environment $(VENV)"
	$(PYTHON) -m venv $(VENV)

$(TORCH): requirements-torch.txt | $(PY)
	@echo "Installing torch: 2.7 GB with the CUDA libraries that its build for Linux needs; README.md says how to do without"
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements-torch.txt
	@touch $@

$(PACKAGES): pyproject.toml $(TORCH)
	@echo "Installing this package and the tools to check it"
	$(PIP) install -e ".[dev,docs]"
	@touch $@

# Which ComfyUI is used, and its requirements installed: done again when either changes.
$(RELEASE): $(PACKAGES) FORCE
	@$(PY) multigpu_core/provisioning/release.py > $@.new
	@cat "$$(cat $@.new)/requirements.txt" >> $@.new
	@cmp -s $@ $@.new || echo "Installing what ComfyUI requires"
	@cmp -s $@ $@.new || $(PIP) install -r requirements-torch.txt -r "$$(head -n 1 $@.new)/requirements.txt"
	@mv $@.new $@

# The stages.

lint: $(PACKAGES)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports --cache-dir .cache/import-linter
	$(PY) .ci/structure.py --check
	$(PY) -m bandit --quiet --configfile pyproject.toml --severity-level high -r $(wildcard *.py) multigpu_core integrations benchmarks examples

# A type checker cannot follow the editable install, so it sees the checkout through a link with the package's name.
types: $(RELEASE)
	@mkdir -p $(TYPING) && ln -sfn "$(CURDIR)" $(TYPING)/multigpu
	MYPYPATH=$(TYPING) $(PY) -m mypy --cache-dir .cache/mypy -m multigpu $(ROOT_MODULES) -p multigpu.multigpu_core -p multigpu.integrations

docs: $(PACKAGES)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --site-dir .cache/site

# Two processes: what registers a backend or a ComfyUI in one cannot help a test in the other to pass.
unit: $(RELEASE)
	$(PYTEST) -m "not long" tests/unit

comfyui: $(RELEASE)
	$(PYTEST) -m "not long" tests/comfyui tests/packaging

# The tests marked long, and all that make cases up (those of Hypothesis), with many more of them.
long-unit: $(RELEASE)
	$(TESTS) -m "long or hypothesis" --hypothesis-profile=long tests/unit

long-comfyui: $(RELEASE)
	$(TESTS) -m "long or hypothesis" --hypothesis-profile=long tests/comfyui

audit: $(PACKAGES)
	$(PY) -m pip_audit --skip-editable

clean:
	rm -rf .cache build *.egg-info

FORCE:
