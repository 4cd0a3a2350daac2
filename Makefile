# make install | demo | test | bench      Everything happens in .venv; nothing else is needed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install demo test bench clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/approxmass demo

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --dist loadfile

# A quarter of an hour; DATA=folder of image sets times the fit on FashionMNIST.
RESULTS := benchmarks/results
bench: $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/pixels.py $(RESULTS)/pixels.json
	$(BIN)/python benchmarks/vectors.py $(RESULTS)/vectors.json $(DATA)
	$(BIN)/python benchmarks/scoring.py $(RESULTS)/scoring.json
	$(BIN)/python benchmarks/growth.py $(RESULTS)/growth.json
	$(BIN)/python benchmarks/table.py $(RESULTS)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
