# SPDX-License-Identifier: Apache-2.0
# `make help` lists what there is. PYTHON=/path/to/python3 (3.11 or newer) builds with another interpreter.

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python3 -I -m pip --quiet --disable-pip-version-check

# directories too: their time changes when a file goes away
SOURCES := setup.py pyproject.toml $(shell find ctnr launcher -name __pycache__ -prune -o ! -name '*.so' -print)
C_FILES := $(shell find ctnr launcher bench tests integration -name '*.[ch]')

export PYTHON

.DEFAULT_GOAL := help
.PHONY: help build run test test-user test-vm check format bench wheel zipapp clean

help: ## Show this list
	@awk -F ': .*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(VENV)/.built ## Install ctnr and ctnr-oci into ./.venv/bin

# its own host name, pid 1, few processes, and a root that forgets
run: build ## Run a container on this machine's own root, read-only below a throw-away overlay
	$(BIN)/ctnr run --rm host: sh -c 'echo "hello from $$(hostname): pid $$$$, $$(id)"; \
		echo "processes here: $$(cd /proc && echo [0-9]*)"; \
		echo "root: $$(grep " / / " /proc/self/mountinfo)"'

# TESTS=integration/test_x.py runs less, PYTEST_FLAGS="-x -k name" passes options
TESTS ?= tests integration
test: build $(VENV)/.group-test ## Run all tests (as root: also as unprivileged users)
	tools/need.sh test || [ $$(id -u) != 0 ] # only root can have it installed; the others' tests are skipped
	@[ $$(id -u) != 0 ] || [ "$(TESTS)" != "tests integration" ] || $(MAKE) --no-print-directory test-user
	$(BIN)/pytest $(PYTEST_FLAGS) $(TESTS)

# A bind mount, because the checkout may be where only root can go
test-user: build $(VENV)/.group-test ## As root: run tests/ as nobody
	unshare --mount --propagation private sh -c 'mount --bind . /mnt && cd /mnt && exec "$$@"' sh \
		setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all \
		env -i PATH=/usr/bin:/bin LANG=C.UTF-8 CI="$$CI" PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=/nonexistent \
		$(BIN)/python3 -P -m pytest -p no:cacheprovider $(PYTEST_FLAGS) tests

# CTNR_VM_USER=subids: as an ordinary user; the other settings are in integration/vm/run
test-vm: TESTS := $(if $(filter file,$(origin TESTS)),integration,$(TESTS))
test-vm: build $(VENV)/.group-test ## As root: run integration/ in a virtual machine with systemd (slow, emulated)
	integration/vm/run $(PYTEST_FLAGS) $(TESTS)

check: build $(VENV)/.group-check ## Lint: Python, types, layers; C by gcc and clang, its format
	@[ $$(id -u) != 0 ] || tools/need.sh check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	set -e; for cc in gcc clang; do \
		command -v $$cc >/dev/null || continue; \
		CC=$$cc $(BIN)/python3 setup.py --quiet build_ext --force --build-lib build/check --build-temp build/check \
			build_scripts --force --build-dir build/check/bin; \
		for file in $(filter-out ctnr/% launcher/%,$(C_FILES)); do \
			$$cc -std=gnu11 -O2 -Wall -Wextra -Werror -c $$file -o /dev/null; \
		done; \
	done
	! command -v clang-format >/dev/null || clang-format --dry-run -Werror $(C_FILES)

format: $(VENV)/.group-check ## Format the sources
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	clang-format -i $(C_FILES)

bench: build ## Compare with crun, runc and bwrap; writes docs/benchmarks.md
	$(BIN)/python3 -I bench/bench.py $(BENCH_FLAGS)

# auditwheel only renames it for the oldest glibc it runs with: there is no library to bundle
wheel: $(VENV)/.setuptools $(VENV)/.group-dist ## Make dist/*.whl, for PyPI
	rm -rf build/lib* build/wheel
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist build/wheel/*.whl

zipapp: build ## Make ctnr.pyz, the whole of ctnr in one file
	$(BIN)/python3 -I tools/make_zipapp.py "$$($(BIN)/python3 -Ic 'import sysconfig; print(sysconfig.get_path("platlib"))')" ctnr.pyz

clean: ## Remove everything made here
	rm -rf $(VENV) build dist *.egg-info ctnr.pyz .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find ctnr launcher bench tests integration tools -name __pycache__ -prune -exec rm -rf {} +

# --- the virtual environment

$(VENV)/.setuptools: pyproject.toml
	tools/need.sh build
	[ -x $(BIN)/python3 ] || $(PYTHON) -m venv $(VENV)
	$(PIP) install 'pip>=25.1' # knows --group
	$(PIP) install --group build
	@touch $@

# flock: two makes at a time share build/
$(VENV)/.built: $(SOURCES) | $(VENV)/.setuptools
	rm -rf build/lib*
	flock $(VENV) $(PIP) install --no-build-isolation .
	@touch $@

$(VENV)/.group-%: pyproject.toml | $(VENV)/.setuptools
	$(PIP) install --group $*
	@touch $@
