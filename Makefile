# make bench   set up .venv and run the demo suite: table and plots in results/
# make test    set up .venv and run every check
# make quick   what to run after each edit: every check but the tests marked as in SLOW below
# make docs    rewrite the tables and the drawing in docs/ that are made by a script
# make clean   remove what these made, but for results/
# PYTHON=...   a Python 3.11 or newer to make .venv with (default: python3)
# TORCH_INDEX=https://download.pytorch.org/whl/cpu   where torch comes from: this one has its CPU build, for a machine
#              without an NVIDIA GPU (default: the package index, whose torch brings CUDA)

PYTHON ?= python3
TORCH_INDEX ?=
PY := .venv/bin/python
INSTALLED := .venv/installed-pyproject.toml

SLOW := process or cluster or browser or fuzz or slow

.PHONY: bench test quick docs clean environment

# On a CPU two runs at a time, each on half of the cores, take a third less time than one after the other (6.5, 9.8 min).
bench: environment
	$(PY) bench.py --suite demo $(if $(shell command -v nvidia-smi),,--jobs 2)

# Small models on many threads wait for each other: one thread is several times faster here.
# Three processes on two cores, as a good part of the tests waits: for SLURM, a browser, a process that is to be killed.
test quick: export OMP_NUM_THREADS ?= 1
test quick: environment
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	.venv/bin/lint-imports --no-cache
	$(PY) -m mypy .
	$(PY) -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(if $(filter quick,$@),-m "not ($(SLOW))")

docs: environment
	$(PY) -m docs.make

# Reused as it is while it works and pyproject.toml is what it was installed from.
environment:
	@if $(PY) -c "" 2>/dev/null && cmp -s pyproject.toml $(INSTALLED); then exit 0; fi; \
	set -e; \
	if ! $(PY) -m pip --version >/dev/null 2>&1; then \
		$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || { \
			echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); name one: make PYTHON=python3.12" >&2; \
			exit 1; \
		}; \
		echo "making .venv with $$($(PYTHON) --version)" >&2; \
		rm -rf .venv; \
		$(PYTHON) -m venv .venv; \
	fi; \
	echo "installing packages into .venv (minutes at first)" >&2; \
	$(if $(TORCH_INDEX),$(PY) -m pip install --quiet --disable-pip-version-check --index-url $(TORCH_INDEX) torch torchvision;,) \
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'; \
	cp pyproject.toml $(INSTALLED)

# Results may be weeks of work, and data/ holds users' images: of these, only the generated demo images go.
clean:
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	if [ -f data/demo/NOT_CLINICAL_DATA.txt ]; then rm -rf data/demo; fi
	@echo "kept: results/ and the datasets in data/; delete them yourself if you mean to"
