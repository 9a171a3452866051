# `make demo` and `make test` each work alone on a machine that has only Python 3.11 (to 3.13) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
RUN := $(BIN)/cascade-jax
DEMO := --gin_file=gin/experiments/demo.gin

.PHONY: demo test test-fast test-slow fuzz torture lint format map task-list clean install

install: $(STAMP)

$(STAMP): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("cascade_jax needs Python 3.11, 3.12 or 3.13 and %s is %s; name another one: make PYTHON=python3.11" % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $(STAMP)

demo: $(STAMP)
	$(RUN) train $(DEMO)
	$(RUN) collect $(DEMO)
	$(RUN) evaluate $(DEMO)
	@echo "Open runs/demo/report/report.html"

# A file's tests stay in one process, so that what they share is made once; long files come first.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP)
	$(PYTEST)

test-fast: $(STAMP)
	$(PYTEST) -m "not medium and not slow"

# One after the other: some are hosts that wait for each other only so long.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# 5,000 damaged inputs, ten minutes on two cores; others: make fuzz FUZZ="--seed 1 --reader hf".
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz $(FUZZ)

# Kills commands at chosen and random moments and compares what comes out; see tests/torture/kill.py.
torture: $(STAMP)
	$(BIN)/python -m tests.torture.kill --kills 200 --seed 0

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The map of files, docs/map.md, from the docstrings; a test compares it.
map: $(STAMP)
	$(BIN)/python docs/write_map.py

# The list of tasks, tasks/all.json, which `cascade-jax tasks` shows; a test compares it.
task-list: $(STAMP)
	$(BIN)/python -m tasks.write_list

clean:
	rm -rf $(VENV) runs build *.egg-info
