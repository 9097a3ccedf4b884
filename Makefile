# Every target does its own set-up (scripts/setup.sh) and skips what is there. Variables: see `make help`.
PYTHON_IN_VENV := .venv/bin/python
# Tests run in two processes with one torch thread each; `make test JOBS=8` on a larger machine.
JOBS ?= 2
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check format wheel clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "ARGS='...'       more arguments for the demo's training (Hydra overrides; it ends without the auxiliary routers"
	@echo "                 then) or the tests (pytest options)"
	@echo "TORCH_INDEX=...  where set-up takes torch from: the URL of a pip index, or a folder of wheels"
	@echo "PYTHON=...       the interpreter to build .venv on (3.11 to 3.13)"

setup:
	@bash scripts/setup.sh

demo: setup ## pretrain a small moma_4t4i on the embedded pictures and text, then its auxiliary routers (minutes on a laptop)
	$(PYTHON_IN_VENV) -m momafuse.train +experiment=moma_4t4i size=pico data.image_share=0.75 run.name=demo $(ARGS)
	$(if $(ARGS),,$(PYTHON_IN_VENV) -m momafuse.train +experiment=aux_routers model_from=runs/demo trainer.max_steps=200)

test: setup ## the tests (25 to 30 minutes on two cores with AVX512, 35 with AVX2)
	$(PYTHON_IN_VENV) -m pytest -n $(JOBS) $(ARGS)

test-slow: setup ## the tests that take minutes each
	$(PYTHON_IN_VENV) -m pytest -n $(JOBS) -m slow --timeout 3600 $(ARGS)

check: setup ## ruff and mypy
	$(PYTHON_IN_VENV) -m ruff check .
	$(PYTHON_IN_VENV) -m ruff format --check .
	$(PYTHON_IN_VENV) -m mypy

format: setup ## let ruff fix and format what it can
	$(PYTHON_IN_VENV) -m ruff check --fix .
	$(PYTHON_IN_VENV) -m ruff format .

wheel: setup ## dist/momafuse-*.whl
	$(PYTHON_IN_VENV) -m build --wheel --no-isolation

clean: ## remove .venv and caches; runs/ and corpora/ stay
	rm -rf .venv .setup-lock build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
