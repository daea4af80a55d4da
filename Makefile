# make demo: run the main job on the model that ships with the package
# make test: lint, types, tests
# make package: the wheel and the sdist, in empty environments, on the oldest and the newest Python
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types tests test-demo-model dist package-here package fix clean

demo: .venv/installed
	$(BIN)/sts ask samples/sign.png "what is on the sign?" --quiet
	$(BIN)/sts batch samples/questions.jsonl --profile aggressive --compare --shard 2/2

test: lint types tests

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

tests: .venv/installed
	$(BIN)/python -m pytest -n auto --maxprocesses 4

# The recipe of the demo model, apart: nothing that is installed depends on it
test-demo-model: .venv/installed
	$(BIN)/python -m pytest demo_model second_model

dist: .venv/installed
	$(BIN)/python -m hatchling build -t sdist -t wheel

# The wheel in an empty environment of this Python
package-here: .venv/installed
	$(BIN)/python tests/installing.py --here

# Downloads PyTorch twice, gigabytes, if uv does not have it yet
package: .venv/installed
	$(BIN)/python tests/installing.py

fix: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
