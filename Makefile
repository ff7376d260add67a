# The front door. Every target makes what it needs; the second run starts at once.
#
#   make demo    the whole system on this machine, with real users
#   make serve   the service on 127.0.0.1:8000 over the same store
#   make night   one night over all users of that store; goes on where it was stopped
#   make learn   the learner beside it: counts, weights and new items from the event log
#   make test    lint, types, tests
#   make test-browser  the tests of the page /explore in the system's Chromium
#   make test-all  the tests that need vLLM, Ray or a Redis Cluster, in an environment of their own
#   make train   a release of DATA at RELEASE; CONFIG=fast for small models in minutes
#   make dev     only what the commands beneath need on top of the demo's: training, bench, tests
#   make bench   quality, finish, latency, semantic ids, trie
#   make baselines  train the baselines of Table 1 and judge them; hours, goes on after a stop
#   make chaos   what holds under faults, R1 to R10: kills, a fault proxy, overload; an hour
#   make locust  simulated users for 20 s, on a service of its own or at URL=http://...
#   make docs    the documentation as a site with search, in site/
#   make map     docs/files.md again, from the docstrings
#   make clean   forget the environment, the store and the caches

PYTHON ?= $(shell command -v python3.11 || command -v python3)
RELEASE ?= releases/beauty
DATA ?= data/beauty
SEED ?= 0
HOST ?= 127.0.0.1
PORT ?= 8000
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
RESULTS ?= bench/results
# Users of other data than the bundled ones have keys and folders of their own in the store, by the
# name of DATA, or by NAMESPACE.
ifneq ($(origin NAMESPACE),undefined)
export THINKAHEAD_NAMESPACE := $(NAMESPACE)
endif
URL ?=
CONFIG ?= auto
# The bundled release is judged on the test items, so its models must not learn them.
LEARNS ?= $(if $(filter releases/beauty,$(RELEASE)),held-out,everything)
FORCE ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --no-input
BASE := $(VENV)/.base
OURS := $(VENV)/bin/thinkahead
DEV := $(VENV)/.dev
LOCUST := $(VENV)/.locust
DOCS_VENV := .venv-docs
DOCS := $(DOCS_VENV)/.docs
KERNEL := models/online/kernel/built/.made
ALL_VENV := .venv-all
ALL := $(ALL_VENV)/.all
BROWSER_VENV := .venv-browser
BROWSER := $(BROWSER_VENV)/.browser
BASELINES_VENV := .venv-baselines
BASELINES := $(BASELINES_VENV)/.baselines
MODELS ?= gru4rec hgn sasrec_recbole bert4rec hstu rearec tiger

.PHONY: help demo serve night learn test test-browser test-all lint types train dev bench baselines chaos locust docs docs-serve map clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

demo: $(OURS) $(KERNEL)
	$(PY) -m bench demo --release $(RELEASE) --data $(DATA)

serve: $(OURS) $(KERNEL)
	$(OURS) serve --release $(RELEASE) --data $(DATA) --host $(HOST) --port $(PORT)

night: $(OURS) $(KERNEL)
	$(OURS) night --release $(RELEASE) --data $(DATA)

learn: $(DEV)
	$(OURS) learn --release $(RELEASE) --data $(DATA)

# Tests that measure time or start services run alone, the others two at a time. One needs MkDocs.
test: lint types $(KERNEL) $(DOCS)
	$(PY) -m pytest -n 2 --dist worksteal -m "not system"
	$(PY) -m pytest -m system

test-browser: $(BROWSER) $(KERNEL)
	$(BROWSER_VENV)/bin/python -m pytest -m browser tests/browser

test-all: $(ALL) $(KERNEL)
	$(ALL_VENV)/bin/python -m pytest -m "vllm or ray or cluster"

lint: $(DEV)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(DEV)
	$(PY) -m mypy

train: $(DEV) $(KERNEL)
	$(OURS) train --data $(DATA) --out $(RELEASE) --seed $(SEED) --config $(CONFIG) \
		--learns $(LEARNS) $(if $(FORCE),--force)

dev: $(DEV) $(KERNEL)

bench: $(DEV) $(KERNEL)
	$(PY) -m bench trie --json $(RESULTS)/trie.json
	$(PY) -m bench sids --data $(DATA) --release $(RELEASE) --json $(RESULTS)/sids.json
	$(PY) -m bench exact --data $(DATA) --release $(RELEASE) --json $(RESULTS)/exact.json
	$(PY) -m bench scale --json $(RESULTS)/scale.json
	$(PY) -m bench finish --data $(DATA) --release $(RELEASE) --json $(RESULTS)/finish.json
	$(PY) -m bench baseline --data $(DATA) --release $(RELEASE) --json $(RESULTS)/baseline.json
	$(PY) -m bench latency --data $(DATA) --release $(RELEASE) --json $(RESULTS)/latency.json
	$(PY) -m bench footprint --release $(RELEASE) --json $(RESULTS)/footprint.json
	$(PY) -m bench path --data $(DATA) --release $(RELEASE) --json $(RESULTS)/path.json
	$(PY) -m bench quality --data $(DATA) --release $(RELEASE) --json $(RESULTS)/quality.json
	$(if $(filter bench/results,$(RESULTS)),$(PY) -m bench tables)

baselines: $(BASELINES) $(KERNEL)
	$(BASELINES_VENV)/bin/python -m bench table1 --data $(DATA) --release $(RELEASE) \
		--models $(MODELS) --json $(RESULTS)/table1.json

chaos: $(DEV) $(KERNEL)
	$(PY) -m bench soak --release $(RELEASE) --json $(RESULTS)/soak.json
	$(PY) -m bench chaos --release $(RELEASE) --json $(RESULTS)/chaos.json
	$(if $(filter bench/results,$(RESULTS)),$(PY) -m bench tables)

locust: $(LOCUST) $(KERNEL)
	$(PY) -m bench scenario --data $(DATA) --release $(RELEASE) $(if $(URL),--host $(URL))

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs build --strict
	$(DOCS_VENV)/bin/python docs/tools/check_site.py site

docs-serve: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs serve

map:
	$(PYTHON) docs/tools/file_map.py

clean:
	rm -rf $(VENV) $(ALL_VENV) $(BROWSER_VENV) $(BASELINES_VENV) $(DOCS_VENV) .state models/online/kernel/built
	rm -rf site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A half-made environment has no stamp and is made again from nothing.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# torch first and alone: pip prefers the CPU build of that version where TORCH_INDEX has one. Where it
# cannot be reached, pip takes the default build with its CUDA packages (gigabytes, and it works).
$(BASE): requirements.lock $(VENV)/.made
	@echo "Installing requirements.lock (once)"
	@$(PIP) $$($(PY) deploy/torch_index.py $(TORCH_INDEX) \
		$$(sed -n 's/^torch==//p' requirements.lock)) --constraint requirements.lock torch
	@$(PIP) --no-deps --requirement requirements.lock
	@touch $@

# The command `thinkahead` and the client, from this folder. Needs no index: setuptools is locked.
$(OURS): pyproject.toml clients/python/pyproject.toml $(BASE)
	@$(PIP) --no-index --no-deps --no-build-isolation --editable . --editable clients/python
	@touch $@

$(DEV): requirements-dev.lock $(OURS)
	@echo "Installing requirements-dev.lock (once)"
	@$(PIP) --no-deps --requirement requirements-dev.lock
	@touch $@

# Says so, and is no error, where there is no C compiler: ONNX Runtime then does the finish.
$(KERNEL): models/online/build_kernel.py $(wildcard models/online/kernel/*.[ch]) | $(BASE)
	@$(PY) -m models.online.build_kernel
	@mkdir -p $(@D)
	@touch $@

# vLLM's CPU build and Ray are gigabytes and nobody else's, so they get an environment of their own,
# in which everything that they share with ours has the version that ours has.
$(ALL): requirements.lock requirements-dev.lock requirements-all.lock
	@echo "Making $(ALL_VENV) (once; gigabytes)"
	@$(PYTHON) -m venv --clear $(ALL_VENV)
	@$(ALL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
		--constraint requirements.lock torch
	@$(ALL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
		--requirement requirements.lock --requirement requirements-dev.lock \
		--requirement requirements-all.lock
	@touch $@

# Playwright alone; the other packages are those of .venv, which it sees behind its own.
$(BROWSER): requirements-browser.lock $(DEV)
	@echo "Making $(BROWSER_VENV) (once)"
	@$(PYTHON) -m venv --clear $(BROWSER_VENV)
	@$(BROWSER_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
		--requirement requirements-browser.lock
	@$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(BROWSER_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
	@touch $@

# RecBole and RecTools pin versions that the rest cannot have, so they get an environment too.
$(BASELINES): requirements.lock requirements-dev.lock requirements-baselines.lock
	@echo "Making $(BASELINES_VENV) (once)"
	@$(PYTHON) -m venv --clear $(BASELINES_VENV)
	@$(BASELINES_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
		--constraint requirements.lock torch
	@$(BASELINES_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
		--no-deps --requirement requirements.lock --requirement requirements-dev.lock \
		--requirement requirements-baselines.lock
	@touch $@

# What Locust brings along is nobody else's, so it is in no lock; it may move nothing that is.
$(LOCUST): pyproject.toml $(BASE)
	@echo "Installing the extra 'load' (once)"
	@$(PIP) --constraint requirements.lock --constraint requirements-dev.lock $$($(PY) -c 'import \
		pathlib, tomllib; project = tomllib.loads(pathlib.Path("pyproject.toml").read_text()); \
		print(*project["project"]["optional-dependencies"]["load"])')
	@touch $@

# The site needs neither torch nor anything else of ours.
$(DOCS): requirements-docs.lock
	@echo "Making $(DOCS_VENV) (once)"
	@$(PYTHON) -m venv --clear $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
		--requirement requirements-docs.lock
	@touch $@
