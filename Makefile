# make install | demo | test | test-all | mutants | attack | bench     Everything happens in .venv; nothing else is needed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install demo lint test test-all mutants attack pin bench clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/approxmass demo

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# As the package sets it, which torch may be loaded before: a busy machine is not to spin.
export GOMP_SPINCOUNT ?= 1000

# What every change must pass: within 8 minutes on two cores.
test: lint
	$(BIN)/pytest -n auto --dist loadfile -m "not slow"

# Everything, the slow tests too; its summary is kept in results/tests.txt.
test-all: lint
	$(BIN)/pytest -n auto --dist loadfile --durations 15 > .pytest-all.log; status=$$?; \
	tail -n 40 .pytest-all.log | tee results/tests.txt; exit $$status

# Whether the tests find one thing changed in what every number rests on; an hour on one core.
mutants: $(INSTALLED)
	$(BIN)/python tools/mutants.py results/mutants.json

# Half an hour of attacks on readers, files, server and watcher; counts add up in results/attacks.json.
attack: $(INSTALLED)
	$(BIN)/python tools/attacks.py results/attacks.json

# After a change that means to change a score: say why in the commit.
pin: $(INSTALLED)
	$(BIN)/python tests/pinned/make.py tests/pinned/scores.json

# An hour on quiet cores; DATA=folder of image sets adds what needs photos. An hour more: benchmarks/long.py.
RESULTS := benchmarks/results
bench: $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/pixels.py $(RESULTS)/pixels.json
	$(BIN)/python benchmarks/vectors.py $(RESULTS)/vectors.json $(DATA)
	$(BIN)/python benchmarks/scoring.py $(RESULTS)/scoring.json
	$(BIN)/python benchmarks/photos.py $(RESULTS)/photos.json
	$(BIN)/python benchmarks/growth.py $(RESULTS)/growth.json
	$(BIN)/python benchmarks/serve.py $(RESULTS)/serve.json
	$(BIN)/python benchmarks/busy.py .busy.json && mv .busy.json $(RESULTS)/busy.json
ifdef DATA
	$(BIN)/python benchmarks/embeddings.py $(DATA) .embeddings.npz
	$(BIN)/python benchmarks/rivals.py .rivals.json .embeddings.npz && mv .rivals.json $(RESULTS)/rivals.json
	$(BIN)/python tools/scale.py results/scale.json $(DATA)
	$(BIN)/python tools/onnx_parity.py $(DATA) results/onnx_parity.json
endif
	$(BIN)/python benchmarks/table.py $(RESULTS)

clean:
	rm -rf .venv .pytest-all.log .import_linter_cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
