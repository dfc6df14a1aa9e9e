# Everything a contributor runs. `make help` lists the targets.
#
# On a machine whose package index offers only the CUDA build of torch (several GB), a CPU build
# comes with: make PIP_FLAGS="--extra-index-url <a CPU wheel index>" quickstart

PYTHON    ?= python3
PIP_FLAGS ?=
PYTEST_FLAGS ?=

VENV  := .venv
READY := $(VENV)/.ready
BIN   := $(VENV)/bin
PIP   := $(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt

QUICKSTART := configs/experiments/quickstart.yaml
CHECKPOINT := runs/quickstart/checkpoints/last.ckpt

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all check lint types docstrings layers spelling bench nano

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV): $(READY)

$(READY): pyproject.toml constraints.txt
	@if [ ! -x $(BIN)/pip ]; then \
		for python in $(PYTHON) python3.13 python3.12 python3.11; do \
			$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && found=$$python && break; \
		done; \
		[ -n "$$found" ] || { echo "vedit needs Python >= 3.11; name one with: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }; \
		echo "environment 1/4: $(VENV) with $$($$found --version)"; \
		$$found -m venv $(VENV); \
	fi
	@echo "environment 2/4: torch (the longest download)"
	@$(PIP) torch
	@echo "environment 3/4: vedit and what it needs"
	@$(PIP) -e '.[dev]'
	@echo "environment 4/4: pydoclint, apart (its docstring parser is not the one jsonargparse needs)"
	@[ -x $(VENV)/pydoclint/bin/python ] || $(BIN)/python -m venv $(VENV)/pydoclint
	@$(VENV)/pydoclint/bin/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt pydoclint
	@ln -sf ../pydoclint/bin/pydoclint $(BIN)/pydoclint
	@touch $@

quickstart: $(READY)  ## Fetch a demo clip, make edits from it, train the nano system, test it (CPU)
	@echo "1/5 fetch the demo clips"
	@$(BIN)/vedit data fetch-demo --output data/demo
	@echo "2/5 build source/target pairs"
	@$(BIN)/vedit data build --config configs/data/quickstart.yaml
	@echo "3/5 encode them to latents and contexts"
	@$(BIN)/vedit data encode --config configs/data/quickstart.yaml
	@echo "4/5 train"
	@if [ -f $(CHECKPOINT) ]; then \
		echo "    $(CHECKPOINT) is there; remove runs/quickstart to train again"; \
	else \
		$(BIN)/vedit fit --config $(QUICKSTART); \
	fi
	@echo "5/5 test on held-out edits"
	@$(BIN)/vedit test --config $(QUICKSTART) --ckpt_path $(CHECKPOINT)

test: $(READY)  ## Run the quick tests
	@$(BIN)/pytest -m "not slow and not gpu and not slurm" $(PYTEST_FLAGS)

test-all: $(READY)  ## Run every test this machine can run
	@$(BIN)/pytest $(PYTEST_FLAGS)

check: lint types docstrings layers spelling  ## Run the static checks (`make -k check` shows all failures)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)
	@$(BIN)/mypy src

docstrings: $(READY)
	@$(BIN)/pydoclint src

layers: $(READY)
	@$(BIN)/lint-imports --no-logo

spelling: $(READY)
	@$(BIN)/codespell

bench: $(READY)  ## Measure speed and memory on this CPU
	@$(BIN)/python benchmarks/cpu.py

nano: $(READY)  ## Make the nano weights again (hours on two CPU cores)
	@echo "1/6 codec"
	@$(BIN)/python nano/train_codec.py
	@echo "2/6 text encoder"
	@$(BIN)/python nano/make_text_encoder.py
	@echo "3/6 pretraining data"
	@$(BIN)/vedit data build --config configs/data/pretrain.yaml
	@echo "4/6 latents and contexts"
	@$(BIN)/vedit data encode --config configs/data/pretrain.yaml
	@echo "5/6 pretraining"
	@$(BIN)/vedit fit --config configs/nano/pretrain.yaml
	@echo "6/6 ship to nano/"
	@$(BIN)/python nano/ship.py
