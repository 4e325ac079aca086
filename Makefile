# One command set, for people and for CI alike. Each target sets up .venv in the tree when it is missing or stale.
PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
FILE ?= examples/tiny.yaml
MODEL ?= hf://nvidia/Nemotron-Labs-Diffusion-8B

.DEFAULT_GOAL := help
.PHONY: help up test lint clients-test bench bench-router crd chaos-test soak lock sbom cluster-programs cluster-test cluster-test-real cluster-test-paper fault-test gpu-test gpu-bench gpu-first kind-test clean

help: ## show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

up: $(VENV)/.up ## serve the tiny model on this machine (PORT=8000, FILE=examples/tiny.yaml)
	$(BIN)/trimode up --file $(FILE) --port $(PORT)

test: $(VENV)/.dev ## run all tests that this machine can run
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev ## formatting, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.up ## measure static points against adaptive; writes docs/bench.json and docs/bench.png
	$(BIN)/trimode bench --out docs

bench-router: $(VENV)/.up ## measure our router beside those installed (BENCH_BIN=folder); writes docs/bench-router.*
	$(BIN)/python -m trimode_lab.router.rivals --out docs $(addprefix --bin ,$(BENCH_BIN))

crd: $(VENV)/.up ## write what is generated from the models: CRD, reference page, the chart's copies
	$(BIN)/trimode crd > crds/nemotrondeployments.trimode.dev.yaml
	$(BIN)/python -m trimode_api.reference > docs/resource.md
	$(BIN)/python charts/generate.py

lock: $(VENV)/.dev ## write what the image installs, with digests, after a change of dependencies (asks the package index)
	$(BIN)/python charts/lock.py

sbom: $(VENV)/.dev ## print the image's bill of materials (CycloneDX), offline: make -s sbom > trimode.cdx.json
	@$(BIN)/python charts/sbom.py

chaos-test: $(VENV)/.dev ## a load over replicas and routers that die, hang and lie: no request may be lost (5 minutes)
	$(BIN)/python -m pytest -m chaos tests/router

soak: $(VENV)/.up ## ten minutes of kills, hangs, lies, leaving clients and policies: nothing lost, nothing leaks
	$(BIN)/python -m trimode_lab.router.chaos --only soak --seconds 600

cluster-programs: $(VENV)/.dev ## build a cluster's programs from Go modules, once (15 minutes on 2 cores, 4 GB in the user's caches)
	PYTHONPATH=e2e $(BIN)/python -m trimode_e2e prepare

cluster-test: cluster-programs ## tests on real clusters: KubeRay, a node with containerd, helm (root; 25 minutes on 2 cores)
	@$(MAKE) cluster-test-paper
	@$(MAKE) cluster-test-real

# One after the other. Side by side they took 13 minutes where nothing else ran, and 45 where something did: with the
# pods of two nodes on two cores leases ran out and kubelets restarted what answered late.
cluster-test-paper: # API server and controllers without a node
	$(BIN)/python -m pytest -m "cluster and not slow" tests/cluster --ignore=tests/cluster/real

cluster-test-real: # with a node and its pods
	$(BIN)/python -m pytest -m "cluster and not faults" -s tests/cluster/real $(ARGS)

fault-test: cluster-programs ## what takes a cluster's parts away under load: leader, API server, etcd, KubeRay, kubelet, pods (16 minutes)
	$(BIN)/python -m pytest -m faults -s tests/cluster/real

clients-test: $(VENV)/.up ## other people's clients as they are on PyPI today, against the tiny model; writes docs/clients.*
	$(BIN)/python -m trimode_lab.clients $(ARGS)

gpu-test: $(VENV)/.dev ## the engine on an NVIDIA GPU; elsewhere it says what was not tried
	$(BIN)/python -m pytest -m gpu tests/gpu

gpu-bench: $(VENV)/.up ## every operating point of a model on an NVIDIA GPU (MODEL=hf://..., ADAPTER=folder in it)
	@$(BIN)/python -c "import torch, sys; torch.cuda.is_available() or sys.exit('gpu-bench: no NVIDIA GPU here (torch.cuda.is_available() is False): nothing was measured')"
	$(BIN)/trimode bench --engine-only --model $(MODEL) $(if $(ADAPTER),--draft-adapter $(ADAPTER)) --out .

gpu-first: $(VENV)/.dev ## what a GPU shows in a quarter of an hour, without a checkpoint; writes gpu-first.json
	$(BIN)/python -m trimode_lab.gpu.first --out gpu-first.json

kind-test: $(VENV)/.dev ## image and KubeRay on a throw-away kind cluster, and the real half of cluster-test on it (docker, kind)
	charts/kind/test.sh

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The stamps are older than pyproject.toml or the constraints whenever those change: then pip brings .venv up to date.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.up: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up .venv (a few minutes the first time: torch and Ray are large) ..."
	$(PIP) --editable '.[tools]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up .venv with what the tests need ..."
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.up
