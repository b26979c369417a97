# Two commands: `make demo` shows the loop learning, `make test` runs the tests. Both set everything up first.

PYTHON ?= python3
VENV   ?= .venv
# Where torch comes from: empty takes PyPI's build. A CPU-only build saves 2 GB: TORCH_INDEX=<PyTorch's CPU wheel index>
TORCH_INDEX ?=
PIP_FLAGS = $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

BIN := $(VENV)/bin
FAST := not kafka and not browser and not system
READY := $(VENV)/.ready

.PHONY: help setup demo test check up bench kafka kafka-stop format clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY)  ## install into .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "tickerloop needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing (torch is large: a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## the whole loop learning, on this machine, in under three minutes
	@$(BIN)/tickerloop demo

up: $(READY)  ## everything on this machine until Ctrl-C
	@$(BIN)/tickerloop up

check: $(READY)  ## the fast part: format, lint, types, pure tests
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/pytest -m "$(FAST)" -n 2 --maxfail 5

test: $(READY)  ## everything this machine can run
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/pytest -m "$(FAST)" -n 2
	@$(BIN)/pytest -m "not ($(FAST))"

bench: $(READY)  ## benchmarks, minutes each: make bench BENCH="live --runs 1", TEXTS=headlines.csv FIELD=title
	@$(BIN)/python -m ops.bench $(BENCH) $(if $(TEXTS),--texts $(TEXTS)) $(if $(FIELD),--text-field $(FIELD))

kafka:  ## a real Kafka broker without Docker (Java 17 and Maven)
	@ops/kafka/broker start

kafka-stop:  ## stop it
	@ops/kafka/broker stop

format: $(READY)  ## format and fix what can be fixed by itself
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

clean:  ## remove what was built and stored here
	rm -rf $(VENV) var .pytest_cache .mypy_cache .ruff_cache
