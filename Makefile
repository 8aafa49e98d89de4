# make demo [DATA=folder]   everything: set-up, training, evaluation, pictures
# make test                 set-up and all checks
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=

.PHONY: demo test test-commands test-data test-engines test-core setup check protos fast clean

demo: $(STAMP)
	$(BIN)/singleshot demo $(if $(DATA),"$(DATA)") $(ARGS)

# Two runs side by side, each with one thread: threads of several processes would wait for each other. What loads the
# engines (OpenVINO, ONNX Runtime, LiteRT) runs apart from what forks.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q
ENGINES := tests/bench tests/deploy tests/runtime tests/weights
DATA := tests/datasets tests/images tests/loading tests/scenes

test: check
	@$(MAKE) --no-print-directory -j2 test-commands test-data test-engines test-core

test-commands: $(STAMP)
	$(PYTEST) tests/cli $(ARGS)

test-data: $(STAMP)
	$(PYTEST) $(DATA) $(ARGS)

test-engines: $(STAMP)
	$(PYTEST) $(ENGINES) $(ARGS)

test-core: $(STAMP)
	$(PYTEST) tests --ignore=tests/cli $(DATA:%=--ignore=%) $(ENGINES:%=--ignore=%) $(ARGS)

# Formatting, lint, types; the import law is one of the tests.
check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The descriptors that the readers of Caffe's and TensorFlow's files load, from the .proto files beside them.
PROTOS := src/singleshot/weights/readers/protos
protos: $(STAMP)
	$(BIN)/python -m grpc_tools.protoc -I$(PROTOS) --descriptor_set_out=$(PROTOS)/protos.binpb $(notdir $(wildcard $(PROTOS)/*.proto))

fast: $(STAMP)
	$(PYTEST) -m "not slow" $(ARGS)

setup: $(STAMP)

# Installed once, and again when the dependencies change.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "singleshot needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build src/*.egg-info
