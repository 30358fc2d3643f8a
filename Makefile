# `make demo` and `make test` need nothing but Python 3.11 or newer with pip: they set up .venv on first use,
# the demo with the package's own requirements, the others with the dev extra.

BIN := .venv/bin
BASE := .venv/.base
READY := .venv/.ready
DEMO_FLAGS ?= --num-samples 600
export PIP_ROOT_USER_ACTION := ignore
# uv leaves compiling to the first import: keep what that compiles, or every process compiles again (20 s of CPU each).
unexport PYTHONDONTWRITEBYTECODE
NOTEBOOKS = $(shell find nbs -name '*.ipynb' -not -path '*/.*' -not -path '*/_*' -not -path 'nbs/benchmarks/*' | LC_ALL=C sort)
HAS_VOILA = $(BIN)/python -c 'import sys, importlib.util as u; sys.exit(not u.find_spec("voila"))' || { echo "The dashboard needs Voila: $(BIN)/python -m pip install -c constraints.txt voila" >&2; exit 1; }
VOILA = JUPYTER_PATH="$$PWD/nbs/dashboards/_share" JUPYTER_PREFER_ENV_PATH=1 sh -c 'cd nbs/dashboards && exec "$$@"' sh "$(abspath $(BIN))/python" -m voila --template=offline $(VOILA_FLAGS)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo quick test ratchet lab dashboard explorer notebooks readme docs bench clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: $(READY)  ## Make .venv with everything in it (the others do this when needed)

demo: $(BASE)  ## Predict a neuron of the bundled pocket model and print the result beside its baselines
	$(BIN)/neural-introspection run --model pocket --output-dir runs/demo $(DEMO_FLAGS)

quick: $(READY)  ## Check a change in two minutes: ruff, export, import rules, tests/unit, the notebooks it touches
	@$(BIN)/python .ci/quick.py

test: $(READY)  ## Run every notebook, every check and every test; the last line has the counts
	@$(BIN)/python .ci/test.py

test-%: $(READY)  ## Run the notebooks and tests of one system: make test-tracing
	@$(BIN)/python .ci/test.py $*

ratchet: $(READY)  ## Write down that there are fewer old faults (.ci/ratchet.json)
	@$(BIN)/python .ci/ratchet.py --update

lab: $(READY)  ## Open the notebooks in JupyterLab
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/python -m jupyterlab nbs/index.ipynb

dashboard: $(READY)  ## Explore a trace in the browser: TRACE=path make dashboard (a small network without one)
	@$(HAS_VOILA)
	@case "$$TRACE" in ""|/*) ;; *) TRACE="$$PWD/$$TRACE" ;; esac; NI_TRACE="$$TRACE" $(VOILA) trace.ipynb

explorer: $(READY)  ## Train and explore toy models in the browser: TOYS=folder make explorer (runs/toy-explorer without one)
	@$(HAS_VOILA)
	@TOYS="$${TOYS:-runs/toy-explorer}"; case "$$TOYS" in /*) ;; *) TOYS="$$PWD/$$TOYS" ;; esac; NI_TOYS="$$TOYS" $(VOILA) toy.ipynb

notebooks: $(READY)  ## Execute all notebooks afresh, for the site
	$(BIN)/python .ci/execute.py $(NOTEBOOKS)

readme: $(READY)  ## Write README.md from nbs/index.ipynb
	$(BIN)/python .ci/readme.py

docs: $(READY)  ## Render the site into _docs (needs Quarto)
	@$(BIN)/python .ci/docs.py

bench: $(READY)  ## Execute the benchmark notebooks
	$(BIN)/python .ci/execute.py nbs/benchmarks/*.ipynb

clean:  ## Remove what was built and the demo's results; .venv stays
	rm -rf build dist _proc _docs *.egg-info .pytest_cache runs/demo runs/demo-* nbs/sidebar.yml
	find nbs neural_introspection tests .ci -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

$(BASE): settings.ini setup.py constraints.txt
	@sh .ci/venv .venv
	@touch $@

$(READY): settings.ini setup.py constraints.txt
	@sh .ci/venv .venv dev
	@touch $(BASE) $@
