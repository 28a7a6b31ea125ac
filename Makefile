# `make demo`: a real result. `make test`: lint, types and the whole suite. `make help`: the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help install backbones demo docs test test-slow test-oldest test-browser test-ray numerics mutants fuzz torture torture-predict load fuzz-service lint bench ready-models wheel-test clean

help:
	@echo "make demo     train and evaluate a gated mixture of experts on 8,000 tweets -> runs/demo/report.md"
	@echo "make test     lint, types and tests"
	@echo "make test-slow  whole experiments on tiny models, a torture of training, the wheel"
	@echo "make test-oldest  core tests with the lowest supported versions of transformers, peft, accelerate and datasets"
	@echo "make test-browser  both pages in headless Chromium (Debian's, installed where it is missing)"
	@echo "make test-ray  bulk labelling on a Ray cluster of two nodes on this machine, killed in several ways"
	@echo "make mutants  plant bugs one by one and see which test catches each -> docs/reliability.md"
	@echo "make fuzz     damage data files and model folders by the thousand, and read them -> docs/reliability.md"
	@echo "make torture  kill a training in every way and see whether it ends the same -> results/reliability/torture.json"
	@echo "make torture-predict  kill a bulk job 30 times and compare every row -> results/reliability/torture-predict.json"
	@echo "make load     load the service over loopback (wrk, h2load: apt-get install wrk nghttp2-client) -> docs/reliability.md"
	@echo "make fuzz-service  5,000 requests that schemathesis makes up"
	@echo "make numerics  answer real texts alone and in many batches -> docs/reliability.md"
	@echo "make docs     the documentation as a website -> site/index.html"
	@echo "make bench    speed and memory beside the FLOP ratio -> results/bench/"
	@echo "make install  only create $(VENV) and install"
	@echo "make backbones  add the weights of all-mpnet-base-v2 and Gemma 3 270M (650 MB)"
	@echo "make ready-models  train the models that come with the package again -> src/sentimoe_ready/ (DATA=folder)"
	@echo "make wheel-test  install the wheel into an empty environment and ask it"
	@echo "make clean    remove $(VENV) and runs/"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,compress,explain,explore,serve,suspects,ray]'
	touch $@

backbones: $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[backbones]'

demo: $(INSTALLED)
	$(BIN)/python -m experiments.demo runs/demo

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(INSTALLED)
	$(BIN)/ruff check src tests tools experiments examples
	$(BIN)/ruff format --check src tests tools experiments examples
	$(BIN)/mypy

# by files, because their fixtures train models
test: lint
	$(BIN)/python -m pytest -q -n logical --dist loadfile

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -q -n logical -m slow

OLDEST := .venv-oldest
OLDEST_TESTS := data hub private upcycle saving training collapse moe
test-oldest:
	test -d $(OLDEST) || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check -c constraints-oldest.txt torch
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e . pytest
	$(OLDEST)/bin/python -m pytest -q $(OLDEST_TESTS:%=tests/test_%.py)

BROWSER := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
test-browser: $(INSTALLED)
	$(if $(BROWSER),,apt-get update -qq && apt-get install -y -qq chromium > /dev/null)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	$(BIN)/python -m pytest -q -o addopts= tests/browser

test-ray: $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt daft
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -o addopts= tests/ray

# JOBS=2: two bugs at a time. What is known already is not run again
mutants: $(INSTALLED)
	$(BIN)/python tools/mutants.py --jobs $(or $(JOBS),1)

fuzz: $(INSTALLED)
	$(BIN)/python tools/fuzz_data.py --write
	$(BIN)/python tools/fuzz_folders.py --write

torture: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python tools/torture.py

torture-predict: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python tools/torture_predict.py

# MODEL=folder (and DENSE=folder for the plain app) serves another than the ready model; PARTS="soak" takes half an hour
load: $(INSTALLED)
	$(BIN)/python tools/load_service.py $(if $(MODEL),--model $(MODEL)) $(if $(DENSE),--dense $(DENSE)) $(if $(PARTS),--parts $(PARTS))

# schemathesis has an environment of its own: it wants other versions of what the service runs on
FUZZ := .venv-fuzz
fuzz-service: $(INSTALLED)
	test -d $(FUZZ) || $(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/pip install --quiet --disable-pip-version-check schemathesis==4.32.5
	$(BIN)/python tools/fuzz_service.py $(FUZZ)/bin/schemathesis

# DATA=folder: the data sets; without it the bundled tweets
numerics: $(INSTALLED)
	$(BIN)/python tools/numerics.py $(if $(DATA),--data-root $(DATA))

bench: $(INSTALLED)
	$(BIN)/python -m experiments.copies results/bench/copy-moe.json

# DATA=folder: the data sets. Training, about an hour; what is done already is not done again
ready-models: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments ready-models --data-root $(DATA)
	$(BIN)/python tools/ready_golden.py

# the wheel in an empty environment, without extras and outside the checkout
WHEEL := /tmp/sentimoe-wheel-test
wheel-test:
	rm -rf $(WHEEL) && mkdir $(WHEEL)
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps -w $(WHEEL) .
	$(PYTHON) -m venv $(WHEEL)/venv
	$(WHEEL)/venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(WHEEL)/venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt $(WHEEL)/*.whl
	cd $(WHEEL) && venv/bin/sentimoe predict "I love it" && venv/bin/sentimoe models
	rm -rf $(WHEEL)

clean:
	rm -rf $(VENV) $(OLDEST) $(FUZZ) runs
