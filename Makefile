# Two commands do all set-up: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXAMPLE := build/examples/movie_reviews
# onnx, executorch, or both: onnx,executorch
FORMAT := onnx
comma := ,
FAMILY := $(EXAMPLE)/family-$(subst $(comma),-,$(FORMAT))
LANGUAGE := build/examples/causal_lm
LANGUAGE_FAMILY := $(LANGUAGE)/family-$(subst $(comma),-,$(FORMAT))
STAMP := $(VENV)/.installed
export TOKENIZERS_PARALLELISM := false
export TRANSFORMERS_VERBOSITY := error
export HF_HUB_DISABLE_PROGRESS_BARS := 1

.PHONY: setup demo demo-causal-lm test test-ort-training android-apk android-test browser-packages browser-test arm64-test faults \
	lint bench race clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

$(EXAMPLE)/eval.jsonl: $(STAMP) examples/movie_reviews/prepare.py
	$(BIN)/python examples/movie_reviews/prepare.py $(EXAMPLE)
	touch $@

# A real model, real text, six memory-limited devices. An earlier fleet's state is removed; the family is kept.
demo: $(EXAMPLE)/eval.jsonl
	$(BIN)/quadloom export $(EXAMPLE)/model --task sequence-classification --num-labels 2 \
		--sequence-length 48 --formats $(FORMAT) --replace --out $(FAMILY)
	$(BIN)/quadloom inspect $(FAMILY)
	$(BIN)/python examples/movie_reviews/baselines.py $(EXAMPLE)
	rm -rf $(EXAMPLE)/fleet
	$(BIN)/quadloom emulate --fleet examples/movie_reviews/fleet.toml --family $(FAMILY) --work $(EXAMPLE)/fleet

$(LANGUAGE)/eval.jsonl: $(EXAMPLE)/eval.jsonl examples/causal_lm/prepare.py
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,gguf]'
	$(BIN)/python examples/causal_lm/prepare.py $(LANGUAGE) --text $(EXAMPLE)
	touch $@

# A real language model of 135 M parameters: 93 MB to fetch, 540 MB of weights, some minutes on two cores.
demo-causal-lm: $(LANGUAGE)/eval.jsonl
	$(BIN)/quadloom export $(LANGUAGE)/model.gguf --task causal-lm --depths 1,2,4,8 --quantized 0,1,2,4,8 \
		--batch-size 4 --sequence-length 64 --formats $(FORMAT) --replace --out $(LANGUAGE_FAMILY)
	$(BIN)/quadloom inspect $(LANGUAGE_FAMILY)
	rm -rf $(LANGUAGE)/fleet
	$(BIN)/quadloom emulate --fleet examples/causal_lm/fleet.toml --family $(LANGUAGE_FAMILY) --work $(LANGUAGE)/fleet

test: lint $(EXAMPLE)/eval.jsonl
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile --durations 15
	PYTHON=$(PYTHON) tests/export/ort_training/run.sh

# onnxruntime-training shares a module name with onnxruntime, so its tests have an environment of their own.
test-ort-training:
	PYTHON=$(PYTHON) tests/export/ort_training/run.sh

# An APK from Debian and npm packages, without the Android SDK: build/android/quadloom.apk.
android-apk:
	android_demo/tools/build_offline.sh build/android

# The Java core of the Android app on a desktop's Java: JUnit against vectors from Python, devices against a real server;
# the APK; and Android's x86-64 library on a desktop's Java. Says what was skipped where a JDK or Debian's tools are not.
android-test: setup
	$(BIN)/python -m pytest -q -rs tests/android_demo

# The libraries of the page /device, by their hashes in package-lock.json, and what drives a browser in its tests.
BROWSER_DEVICE := server/quadloom_server/browser_device
browser-packages: $(BROWSER_DEVICE)/node_modules/.package-lock.json

$(BROWSER_DEVICE)/node_modules/.package-lock.json: $(BROWSER_DEVICE)/package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund --prefix $(BROWSER_DEVICE)
	touch $@

# A tab of a real Chromium beside Python devices; needs Node.js from version 20 on and Debian's chromium, and says what
# was skipped where they are not. `make browser-test PICTURE=docs/browser-device.png` keeps a picture of the page.
PICTURE :=
browser-test: setup
	-$(MAKE) browser-packages
	$(BIN)/python -m pytest -q -rs tests/browser $(if $(PICTURE),--picture $(PICTURE))

# The device program on emulated arm64; 150 MB to fetch once, minutes on two cores. On x86-64, with Debian's apt.
arm64-test: setup
	PYTHON=$(BIN)/python tests/emulation/arm64/run.sh

# A hundred seeded schedules of deaths and broken links; some minutes on two cores. One again: --seed N.
faults: setup
	$(BIN)/python -m tests.faults.run --schedules 100

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/quadloom bench memory
	$(BIN)/quadloom bench step

# The races of docs/race.md; hours on two cores, interrupted they go on. `make race RACES="middle-group ranks"` for some.
RACES :=
race: setup
	PYTHON=$(BIN)/python benchmarks/race.sh $(RACES)

clean:
	rm -rf build $(VENV) .venv-ort-training
