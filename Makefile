# Everything one does with this repository. Each target sets up what it needs in .venv, once.
# Works with GNU make 3.81 (macOS) and later. On Windows, README.md has the commands that do the same.

FIRST_NOTEBOOK ?= 00_start_here.ipynb
AZURE_TESTS := tests/notebooks/test_azure_mode.py tests/hub/test_azure_mode.py
DEMO_NOTEBOOK := notebooks/02_firmware_update.ipynb
LAB_ARGS ?=
LAYOUT ?=
TEST_ARGS ?=
LOCK_ARGS ?=
DOCTOR_ARGS ?=
PLATFORM ?=
PYTHONS ?=

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
OURS := $(VENV)/.made-by-make

# Set but empty: the local hub, whatever .env says. Tests and the demo never reach a real hub.
LOCAL_ONLY := FWUPDATE_IOTHUB_CONNECTION_STRING= FWUPDATE_IOTHUB_WEBSOCKETS=
DEMO_ENV := $(LOCAL_ONLY) FWUPDATE_STATE_DIR="$(CURDIR)/build/localhub-state"
DEMO_FILES := build/02_firmware_update.html build/timeline.png

# Plain pip, not uv, although uv is faster (20 s against 45 s on 2 cores): pip honours the mirrors, proxies
# and certificates that people have set for it. Compiling on all cores afterwards is faster than pip's own
# compiling, and does not leave it to the first import (where PYTHONDONTWRITEBYTECODE is set, to every one).
PIP := PIP_USER=0 $(PY) -m pip --disable-pip-version-check --no-input
COMPILE := $(PY) -m compileall -qq -j 0 -x '/(tests|mypy)/' $(VENV)/lib

IN_RANGE := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
SERIES := import sys; print("%d.%d" % sys.version_info[:2])

# .venv is set up anew when its Python does not run, when it was set up in another folder (a virtual
# environment holds its own path), when its set-up was cut short, and when PYTHON= asks for another version.
SET_UP_IN := $(shell $(PY) -c 'print(open("$(READY)").read().strip())' 2>/dev/null)
ifneq "$(SET_UP_IN)" "$(CURDIR)"
REBUILD := FORCE
endif
ifneq "$(PYTHON)" ""
SERIES_WANTED := $(shell '$(PYTHON)' -c '$(SERIES)' 2>/dev/null)
SERIES_THERE := $(shell $(PY) -c '$(SERIES)' 2>/dev/null)
ifneq "$(SERIES_WANTED)" "$(SERIES_THERE)"
REBUILD := FORCE
endif
endif

.DEFAULT_GOAL := help
.PHONY: help env layout lab doctor test test-all test-azure azure-setting demo bench-trace bench-download \
  bench-fleet lint lock wheelhouse wheelhouse-check clean FORCE

help: ## this list
	@echo "make <target>, where <target> is one of:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1	\2/p' Makefile

env: $(READY) ## set up .venv (PYTHON=python3.12 chooses the Python)

# A pyenv shim exists and fails when its version is not active, so each candidate is run.
$(READY): pyproject.toml constraints.txt requirements.txt $(REBUILD)
	@set -e; \
	if [ -n "$(REBUILD)" ]; then \
	  found=; lacks_venv=; seen=; \
	  for p in $(if $(PYTHON),'$(PYTHON)',python3.13 python3.12 python3.11 python3.10 python3 python); do \
	    "$$p" -c '' >/dev/null 2>&1 || continue; \
	    seen="$$seen $$p"; \
	    "$$p" -c '$(IN_RANGE)' || continue; \
	    if "$$p" -c 'import ensurepip, venv' >/dev/null 2>&1; then found="$$p"; break; fi; \
	    [ -n "$$lacks_venv" ] || lacks_venv="$$p"; \
	  done; \
	  if [ -z "$$found" ] && [ -n "$$lacks_venv" ]; then \
	    series=$$("$$lacks_venv" -c '$(SERIES)'); \
	    echo "$$lacks_venv cannot make virtual environments: its venv module is not installed." >&2; \
	    echo "On Debian and Ubuntu: sudo apt install python3-venv (or python$$series-venv). Then run make again." >&2; \
	    exit 1; \
	  elif [ -z "$$found" ]; then \
	    if [ -z '$(PYTHON)' ]; then echo "No Python 3.10, 3.11, 3.12 or 3.13 was found on PATH." >&2; \
	    elif [ -z "$$seen" ]; then echo "PYTHON=$(PYTHON) does not run." >&2; \
	    else echo "PYTHON=$(PYTHON) is a Python outside 3.10 to 3.13: $$('$(PYTHON)' --version 2>&1)." >&2; fi; \
	    echo "Install one of 3.10 to 3.13, for example:" >&2; \
	    echo "  Debian, Ubuntu   sudo apt install python3 python3-venv" >&2; \
	    echo "  Fedora           sudo dnf install python3.12" >&2; \
	    echo "  macOS            brew install python@3.12" >&2; \
	    echo "  any, with conda  conda env create -f environment.yml (then no make is needed)" >&2; \
	    echo "or name one that is not on PATH: make env PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	  fi; \
	  if [ -e $(VENV) ] && [ ! -e $(OURS) ]; then \
	    echo "$(VENV) is there, but make did not make it. Move it away or delete it, then run make again." >&2; \
	    exit 1; \
	  fi; \
	  echo "Setting up $(VENV) with $$("$$found" --version). This happens once and takes a minute or two."; \
	  rm -rf $(VENV); \
	  mkdir $(VENV); : > $(OURS); \
	  "$$found" -m venv $(VENV); \
	else \
	  echo "Updating $(VENV): pyproject.toml, constraints.txt or requirements.txt has changed."; \
	fi; \
	rm -f $(READY); \
	$(PIP) install --quiet -c constraints.txt 'pip>=25.1'; \
	$(PIP) install --quiet --no-compile -r requirements.txt --group dev; \
	$(COMPILE) || true; \
	printf '%s\n' '$(CURDIR)' > $(READY)

# Notebook 00 opens in a layout: the notebook on the left, the place of its live panel on the right. To JupyterLab,
# that is a workspace: it saves there what the user changes. Ours is imported when there is none yet, when ours is
# newer (it knows the panel's cell by number: an older one may show another cell), and when asked for (LAYOUT=new).
LAYOUT_NOTEBOOK := 00_start_here.ipynb
ifeq "$(FIRST_NOTEBOOK)" "$(LAYOUT_NOTEBOOK)"
LAB_URL := /lab/workspaces/fwupdate/tree/$(FIRST_NOTEBOOK)
lab: layout
else
LAB_URL := /lab/tree/$(FIRST_NOTEBOOK)
endif

layout: $(READY)
	@set -- "$${JUPYTERLAB_WORKSPACES_DIR:-$$($(PY) -m jupyter --config-dir)/lab/workspaces}"/fwupdate-????.*; \
	if [ '$(LAYOUT)' != new ] && [ "$$1" -nt jupyter/workspace.json ]; then exit 0; fi; \
	$(PY) -m jupyterlab workspaces import jupyter/workspace.json || \
	  echo "make lab: no layout, because $${1%/*} cannot be written to. JupyterLab opens without it." >&2

# As default_url, the notebook is also in the address that is printed where no browser can be opened.
# The folder jupyter/ has the settings with which JupyterLab asks no questions, and runs for root, too.
lab: $(READY) ## open JupyterLab on the first notebook (LAB_ARGS=… is passed on; LAYOUT=new restores the layout)
	@JUPYTER_CONFIG_PATH='$(CURDIR)/jupyter' exec $(PY) -m jupyterlab --ServerApp.root_dir=notebooks \
	  --LabApp.default_url='$(LAB_URL)' $(LAB_ARGS)

doctor: $(READY) ## is this machine ready? A table with the fix for each line that is not ok (DOCTOR_ARGS=--json)
	@$(PY) -m fwupdate_helpers.doctor $(DOCTOR_ARGS)

test: $(READY) ## run the tests (TEST_ARGS=… is passed on to pytest)
	$(LOCAL_ONLY) $(PY) -m pytest $(TEST_ARGS)

test-all: $(READY) ## run the tests on every Python from 3.10 to 3.13 that is installed, and with the uamqp stand-in
	$(LOCAL_ONLY) $(PY) -m nox -- $(TEST_ARGS)

test-azure: azure-setting $(READY) ## run all notebooks on your own IoT Hub (it costs messages; see README.md)
	FWUPDATE_TEST_AZURE=1 $(PY) -m pytest -n0 $(AZURE_TESTS) $(TEST_ARGS)

azure-setting:
	@if [ -z "$$FWUPDATE_IOTHUB_CONNECTION_STRING" ]; then \
	  echo "make test-azure: FWUPDATE_IOTHUB_CONNECTION_STRING is not set in the environment. Set it to a service" >&2; \
	  echo "connection string of an IoT Hub of your own; for the images, set FWUPDATE_IMAGE_CONTAINER_URL, too." >&2; \
	  exit 2; \
	fi

demo: $(READY) ## run notebook 02 without a browser; the page and the timeline go to build/
	@mkdir -p build; rm -f $(DEMO_FILES)
	@trap '$(DEMO_ENV) $(PY) -m fwupdate_helpers.localhub stop' EXIT; trap 'exit 130' INT TERM; \
	$(DEMO_ENV) $(PY) notebooks/images/render.py $(DEMO_NOTEBOOK) build
	@for f in $(DEMO_FILES); do \
	  [ -s "$$f" ] || { echo "make demo: $$f was not written." >&2; exit 1; }; echo "$$f"; \
	done

bench-trace: $(READY) ## measure what the wire trace costs a direct method
	@$(LOCAL_ONLY) PYTHONPATH=. $(PY) benchmarks/trace.py

bench-download: $(READY) ## measure a device's download against curl, and its memory
	@$(LOCAL_ONLY) $(PY) benchmarks/download.py

bench-fleet: $(READY) ## measure what a fleet of 10 to 1,000 devices costs, in time and memory
	@$(LOCAL_ONLY) PYTHONPATH=. $(PY) benchmarks/fleet.py

lint: $(READY) ## check format, style, types, and that notebooks hold no outputs
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(LOCAL_ONLY) $(PY) -m pytest -q tests/notebooks/test_lint.py

# Does not wait for an up-to-date .venv: a changed range in pyproject.toml may contradict the old pins.
lock: ## write constraints.txt anew after a change in pyproject.toml (LOCK_ARGS=--upgrade renews every pin)
	@[ -x $(VENV)/bin/uv ] || $(MAKE) env
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.10 --no-python-downloads \
	  --no-annotate --custom-compile-command 'make lock' $(LOCK_ARGS) \
	  --group pyproject.toml:dev --output-file constraints.txt pyproject.toml

wheelhouse: $(READY) ## collect all packages for an installation without network (PLATFORM=all PYTHONS=all for every computer)
	@$(PY) tools/wheelhouse.py $(if $(PLATFORM),--platform $(PLATFORM)) $(if $(PYTHONS),--series $(PYTHONS))

wheelhouse-check: $(READY) ## install from it where there is no network, and do an update (Linux; takes a minute)
	@$(PY) -m tools.wheelhouse_check

clean: ## delete .venv, build/ and caches
	@if [ -d build/localhub-state ] && [ -x $(PY) ]; then $(DEMO_ENV) $(PY) -m fwupdate_helpers.localhub stop || true; fi
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
	find fwupdate_helpers tests notebooks benchmarks tools compat \( -name __pycache__ -o -name .ipynb_checkpoints \) \
	  -type d -prune -exec rm -rf {} + 2>/dev/null || true
