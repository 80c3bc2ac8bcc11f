# make demo: set up and train on the embedded databases.   make test: set up and run the tests.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SOURCES := setup.py pyproject.toml constraints.txt $(wildcard csrc/*.cpp csrc/*.h bindings/*.cpp)

.PHONY: demo test test-all setup system lint format cpp-test sanitize fuzz soak clean

demo: setup
	$(BIN)/python -m spftcore.train --resume

test: setup
	$(BIN)/python -m pytest -m "not heavy"

test-all: setup
	$(BIN)/python -m pytest

setup: $(STAMP)

# torch first and by its exact pin: a range asked for first draws CUDA packages onto machines
# without a GPU.
$(STAMP): $(SOURCES)
	@$(MAKE) --no-print-directory system
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -q -c constraints.txt setuptools wheel pybind11
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e ".[dev]"
	touch $(STAMP)

# What pip cannot install: a C++ compiler, Python's headers and SQLite's header.
system:
	@PYTHON="$(PYTHON)" sh .ci/system-packages

cpp-test:
	$(MAKE) -s -C csrc/tests

sanitize:
	$(MAKE) -s -C csrc/tests asan
	$(MAKE) -s -C csrc/tests tsan

# Random changes of a corpus of queries and of database bytes; RUNS=1000000 for long.
fuzz:
	$(MAKE) -s -C csrc/fuzz

# Random statements and what memory does meanwhile; STATEMENTS=10000000 for long.
soak:
	$(MAKE) -s -C csrc/fuzz soak

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'bindings/*.cpp' 'csrc/tests/*.cpp' 'csrc/tests/*.h' 'csrc/fuzz/*.cpp' 'csrc/fuzz/*.h' 'bench/*.cpp')

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'bindings/*.cpp' 'csrc/tests/*.cpp' 'csrc/tests/*.h' 'csrc/fuzz/*.cpp' 'csrc/fuzz/*.h' 'bench/*.cpp')

clean:
	rm -rf build dist *.egg-info $(VENV) spftcore/*.so csrc/tests/build
