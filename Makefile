# make env | demo | test | check | oracles | bench | sanity | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# Threads sleep while they wait: spinning ones bring a busy machine to a stand.
export OMP_WAIT_POLICY ?= passive

.PHONY: env demo test check oracles bench sanity clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "nowcast needs Python 3.11 or newer; found `$(PYTHON) --version 2>&1`. On Debian: apt install python3 python3-venv, or make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "Python's venv module is missing. On Debian: apt install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	@touch $(STAMP)

demo: env
	$(BIN)/nowcast demo -o demo --overwrite

test: env
	$(BIN)/python -m pytest -m "not slow and not gpu"

check: env
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "slow or gpu"

# Tests against independent packages; pySTEPS among them needs a C compiler.
oracles: env
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test,oracles]"
	$(BIN)/python -m pytest -m oracle

# Moving MNIST at 32x32: 18,000 sequences in about four minutes on two cores, scored on a fixed test set.
sanity: env
	$(BIN)/nowcast mnist train -o runs/sanity --overwrite
	$(BIN)/nowcast mnist evaluate runs/sanity --fail-above cross_entropy=1200,mse=24

bench: env
	for bench in tests/benchmarks/bench_*.py; do $(BIN)/python $$bench || exit 1; done

clean:
	rm -rf $(VENV) demo build dist *.egg-info
