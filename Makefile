# The commands of this project. Each does the set-up that it needs by itself, once: an interpreter, .venv, packages.

.DEFAULT_GOAL := help
.PHONY: help run test lint format bench bench-full soak faults stress hostile fuzz autobahn scan clean
MAKEFLAGS += --no-print-directory
BIN := .venv/bin
# What is appended to the command, as in: make test ARGS="-k drain"
ARGS ?=
export PYTHON
# Without compiled files, a second start of the tests takes three times as long.
unexport PYTHONDONTWRITEBYTECODE

help: ## show this list
	@sed -n 's/^\([a-z-]*\): ## /  make \1	/p' Makefile | expand -t 19
	@echo '  ARGS="..." is handed on to the command; PYTHON=/path/to/python3.14t names the interpreter.'

run: ## serve the example application on http://127.0.0.1:8000 (Ctrl-C ends it)
	@tools/bootstrap run
	@exec $(BIN)/serverd -c examples/notes/server.yaml $(ARGS)

test: ## run the tests
	@tools/bootstrap dev
	@exec $(BIN)/pytest $(ARGS)

lint: ## check style, types and the layers
	@tools/bootstrap dev
	@failed=; \
	for check in "ruff check ." "ruff format --check ." "mypy -p serverd" "mypy tests benchmarks examples" \
	    "lint-imports --no-logo"; do \
	    echo "$$check"; \
	    $(BIN)/$$check || failed="$$failed '$$check'"; \
	done; \
	[ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

format: ## put the code into its one form
	@tools/bootstrap dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: ## measure serverd beside uvicorn, granian and gunicorn on the same cores (two minutes)
	@tools/bootstrap bench
	@exec $(BIN)/python benchmarks/run.py --quick $(ARGS)

bench-full: ## measure everything beside six servers, with growth, memory, reloads and plots (35 minutes)
	@tools/bootstrap plots || tools/bootstrap bench
	@exec $(BIN)/python benchmarks/run.py $(ARGS)

soak: ## reload, upgrade and kill children under load, 170 times (five minutes); ARGS="--minutes 30": all sorts of load and faults
	@tools/bootstrap dev
	@exec $(BIN)/python benchmarks/soak.py $(ARGS)

fuzz: ## random requests through both parsers and h11 until Ctrl-C, and what they disagree about
	@tools/bootstrap dev
	@exec $(BIN)/python -m tests.fuzz $(ARGS)

hostile: ## measure well-behaved clients beside thousands of slow and hostile ones (20 minutes)
	@tools/bootstrap dev
	@exec $(BIN)/python benchmarks/hostile.py $(ARGS)

faults: ## make system calls fail in every process of a daemon, once and for a while, and print what came of it (ten minutes)
	@tools/bootstrap dev
	@exec $(BIN)/pytest tests/faults/matrix.py --timeout=120 $(ARGS)

stress: ## force thread switches under a mixed load, with and without the GIL (four minutes)
	@tools/bootstrap dev
	@STRESS_SECONDS=40 exec $(BIN)/pytest tests/process/test_stress.py --timeout=600 $(ARGS)

autobahn: ## run the Autobahn TestSuite, 517 cases of WebSocket (ten minutes)
	@tests/autobahn/run $(ARGS)

scan: ## let TLS scanners look at a daemon (five minutes; needs testssl.sh)
	@tools/bootstrap dev
	@SCAN_TLS=1 exec $(BIN)/pytest tests/process/test_tls_scanners.py $(ARGS)

clean: ## remove .venv and what the tools leave (the interpreter in your cache stays)
	rm -rf .venv .venv.lock build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
