# make demo [DATA=folder]   everything: set-up, training, evaluation, pictures
# make test                 set-up and all checks
# make test-slow            what takes longer than minutes
# make test-latest          the same as test, with the newest releases that pyproject.toml allows
# make lock                 resolve requirements/tested.txt anew
# make test-page            the service's page in a browser: wants Debian's or another Chromium on the path, and
#                           pip install playwright (45 MB) in $(VENV); without them these tests skip
# make docs                 the site, in site/
# TORCH=cpu takes PyTorch's wheels for CPUs alone (a sixth of the download); an existing .venv is left as it is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The exact releases that the tests passed with; LOCK= takes the newest that pyproject.toml allows.
LOCK ?= requirements/tested.txt
TORCH ?=
ARGS ?=

ifeq ($(TORCH),cpu)
TORCH_INDEX := --extra-index-url https://download.pytorch.org/whl/cpu
SIZE := about 0.6 GB to download, 1.6 GB in $(VENV) (PyTorch for CPUs)
else
SIZE := about 3.4 GB to download on Linux, 6.6 GB in $(VENV) (PyTorch with CUDA; TORCH=cpu takes about 0.6 GB)
endif

.PHONY: demo test coverage test-slow test-latest test-commands test-pages test-page test-data test-engines test-core setup check fast lock docs protos clean

demo: $(STAMP)
	$(BIN)/singleshot demo $(if $(DATA),"$(DATA)") $(ARGS)

# Two runs side by side, each with one thread: threads of several processes would wait for each other. What loads the
# engines (OpenVINO, ONNX Runtime, LiteRT) runs apart from what forks; the longest comes first, and both sides take about
# as long. glibc keeps freed memory: a tenth of the time went into asking for pages anew. Modules stay compiled: commands
# start by the hundred. COVERAGE_FILE: a part that ends would take in, and one that begins erase, what others have counted.
PYTEST = COVERAGE_FILE=$(CURDIR)/.coverage-$@ PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8000000000 $(BIN)/python -m pytest -q
ENGINES := tests/bench tests/deploy tests/runtime tests/serve tests/weights
DATA_ROOMS := tests/datasets tests/training

TEST_PARTS := test-engines test-commands test-data test-core

# The linters and types come last, and keep the side that is first ready busy.
test: $(STAMP)
	@$(MAKE) --no-print-directory -j2 $(TEST_PARTS) check

test-commands: $(STAMP)
	$(PYTEST) tests/cli $(ARGS)

test-pages: $(STAMP)
	$(PYTEST) tests/cli/test_pages.py $(ARGS)

test-data: $(STAMP)
	$(PYTEST) $(DATA_ROOMS) $(ARGS)

test-engines: $(STAMP)
	$(PYTEST) $(ENGINES) $(ARGS)

test-core: $(STAMP)
	$(PYTEST) tests --ignore=tests/cli $(DATA_ROOMS:%=--ignore=%) $(ENGINES:%=--ignore=%) $(ARGS)

test-page: $(STAMP)
	$(PYTEST) tests/serve/test_page.py tests/serve/test_page_files.py tests/serve/test_label_page.py tests/serve/test_label_page_files.py tests/serve/test_played_video.py $(ARGS)

test-slow: $(STAMP)
	$(PYTEST) tests --slow -m slow $(ARGS)
	SINGLESHOT_FUZZ=3000 $(PYTEST) tests/datasets/fuzz $(ARGS)

test-latest:
	$(MAKE) test VENV=.venv-latest LOCK=

# The same tests, counting the lines of src that they run; commands' own processes count too. Without test_disk.py: on its
# full disks coverage cannot write its own file either.
coverage: $(STAMP)
	rm -f .coverage .coverage-*
	@$(MAKE) --no-print-directory -j2 $(TEST_PARTS) ARGS="--cov --cov-report= --ignore=tests/cli/test_disk.py $(ARGS)"
	$(BIN)/coverage combine -q .coverage-*
	$(BIN)/coverage report --skip-covered --sort=-cover | tail -60

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
$(STAMP): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "singleshot needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 2; }
	@test -e $(STAMP) || echo "singleshot: installing into $(VENV): $(SIZE)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check $(if $(LOCK),-c $(LOCK)) $(TORCH_INDEX) -e '.[dev]'
	touch $(STAMP)

# For Python 3.11 to 3.13 and every system: markers say what is for which.
lock:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip compile -q --universal --upgrade --python-version 3.11 --extra dev --no-emit-index-url --no-annotate \
	    --custom-compile-command "make lock" -c requirements/limits.txt pyproject.toml \
	    -o requirements/tested.txt

docs: $(STAMP)
	$(BIN)/python docs/build.py

clean:
	rm -rf $(VENV) .venv-latest build site src/*.egg-info
