# Every target sets up what it needs by itself: a fresh clone, Python 3.11 or later and a C compiler are enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= hiermm-compare

# The package is installed, not linked, so that tests and commands run what a user gets. It is installed again
# whenever one of its files changes.
PACKAGE := pyproject.toml setup.py MANIFEST.in $(shell find hiermm -type f \
	\( -name '*.py' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.h' -o -path '*/datasets/data/*' \))
# Objects of an earlier build are used again where their source is unchanged; Python files must not be.
INSTALL = rm -rf build/lib* build/bdist* && $(BIN)/python -m pip install --quiet --disable-pip-version-check

export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: help compare test lint bench peers notebooks clean

help:
	@echo "make compare    compare the models on the shipped data; results go to $(OUT)/"
	@echo "make test       run the whole test suite"
	@echo "make lint       check style, types and Cython sources"
	@echo "make bench      time hiermm and the peers installed; writes benchmarks/results.md"
	@echo "make peers      install all peers for make bench"
	@echo "make notebooks  execute every notebook"
	@echo "make clean      remove everything that these commands made"

compare: $(VENV)/compare.stamp
	$(BIN)/hiermm compare --out $(OUT)

# PYTHONSAFEPATH: programs that the tests start must not find the source tree before the installed package.
test: $(VENV)/dev.stamp
	PYTHONSAFEPATH=1 $(BIN)/pytest -n 2 tests

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint hiermm/_ext
	$(BIN)/mypy

bench: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/run.py
	$(BIN)/pytest benchmarks/test_kernels.py --benchmark-storage=.benchmarks --benchmark-autosave --benchmark-compare \
		--benchmark-columns=median,iqr --benchmark-group-by=func --benchmark-sort=name

# Two peers want older libraries than hiermm does and live in an environment of their own.
peers: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[peers]'
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	$(VENV)-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation ssm

notebooks: $(VENV)/dev.stamp
	$(BIN)/pytest --nbmake --nbmake-timeout=600 notebooks

clean:
	rm -rf $(VENV) $(VENV)-peers build dist *.egg-info .benchmarks .pytest_cache .ruff_cache .mypy_cache $(OUT)
	find hiermm -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/python.stamp:
	$(PYTHON) -m venv $(VENV)
	touch $@

# `make test` after `make compare` adds the tools; `make compare` after `make test` has all it needs already.
$(VENV)/compare.stamp: $(VENV)/python.stamp $(PACKAGE)
	$(INSTALL) '.[all]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/python.stamp $(PACKAGE)
	$(INSTALL) '.[dev]'
	touch $@ $(VENV)/compare.stamp
