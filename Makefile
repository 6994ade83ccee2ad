# make demo   everything: environment, corpus, features, the whole ablation, the report
# make test   the tests          make lab   JupyterLab at the notebooks          make lint   ruff
# make bench  how fast it is, plain versions beside it (BENCH=--gpu on a GPU): outputs/bench/
# make grid PARAMS=iemocap-frozen   the same grid with another params file; OVERRIDES="training.epochs=5" changes it

PYTHON ?= python3
PARAMS ?= demo
OVERRIDES ?=
CORES ?= all
BIN := .venv/bin
# one thread per job: the grid runs as many jobs as there are cores
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# a GPU serves one job at a time; without one there is nothing to share out
GPUS := $(addprefix --resources gpu=,$(filter-out 0,$(shell ls /proc/driver/nvidia/gpus 2>/dev/null | wc -l)))

SHELL := bash
.SHELLFLAGS := -o pipefail -c
# what is left of Snakemake's log: which job runs, how far the grid is, and what went wrong
PROGRESS := { grep --line-buffered -vE '^(Select jobs|Execute [0-9]+ jobs|\[[A-Z][a-z][a-z] |Finished jobid|Assuming|Using shell|Building DAG|Rules claiming|Complete log|localrule all|    input: .*report.html|    jobid: 0$$|    resources: tmpdir|$$)' || true; }

.PHONY: demo grid test bench lab lint lock clean

demo:
	@$(MAKE) --no-print-directory grid PARAMS=demo
	@echo "demo: outputs/demo/report.html"

grid: $(BIN)/.installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(THREADS) snakemake --cores $(CORES) $(GPUS) --keep-going --rerun-incomplete \
		--rerun-triggers params input --quiet host reason --config params=$(PARAMS) overrides="$(OVERRIDES)" 2>&1 | $(PROGRESS)

test: $(BIN)/.installed
	@$(BIN)/python -m pytest

bench: $(BIN)/.installed
	@$(THREADS) $(BIN)/python -m benchmarks $(BENCH)

lab: $(BIN)/.installed
	@$(BIN)/jupyter lab notebooks

lint: $(BIN)/.installed
	@$(BIN)/ruff check .

# needs uv; one resolution for Linux and macOS, Python 3.11-3.13, without index addresses
lock:
	uv pip compile --universal --generate-hashes --python-version 3.11 --all-extras --fork-strategy fewest \
		--no-header --no-annotate --quiet pyproject.toml -o requirements.lock

clean:
	rm -rf outputs/$(PARAMS)

$(BIN)/.installed: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; install Python 3.11-3.13 (or make PYTHON=...)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "error: foalkit needs Python 3.11-3.13, $(PYTHON) is $$($(PYTHON) -V 2>&1); try make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot make virtual environments; install its venv package (python3-venv)"; exit 1; }
	@echo "setting up .venv from requirements.lock: some minutes and 6 GB, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock > .venv/install.log 2>&1 || \
		{ tail -n 2 .venv/install.log; echo "error: installing failed; is the package index reachable from here? (.venv/install.log has it all)"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . >> .venv/install.log 2>&1 || \
		{ tail -n 2 .venv/install.log; echo "error: foalkit itself could not be installed (.venv/install.log has it all)"; exit 1; }
	@touch $@
