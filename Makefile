# `make demo` shows the system work, `make test` tests it; `make` alone lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where rustup and Go's own archive put their programs, for shells that have not been told.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/go/bin

CLUSTER := cargo run --quiet --locked --package monok8s-cluster --bin cluster --
SANDBOX := cargo run --quiet --locked --package monok8s-sandbox --bin sandbox --

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what the demo needs (as root), or print the line to type
	@tests/sandbox/setup.sh

.PHONY: setup-test
setup-test: ## the same for the tests
	@tests/sandbox/setup.sh test

# The end-to-end tests and the demo run the programs that stand beside them.
.PHONY: build
build: setup ## build every program
	cargo build --workspace --bins --locked

# The release build takes several minutes and a folder of its own below cargo's.
.PHONY: container
container: setup ## the container image as an OCI archive, for this machine; PLATFORMS="linux/amd64 linux/arm64" for others
	cargo run --quiet --locked --package monok8s-packaging --bin container -- $(addprefix --platform ,$(PLATFORMS))

.PHONY: setup-cluster
setup-cluster: ## the same for real nodes
	@tests/sandbox/setup.sh cluster

.PHONY: demo
demo: $(if $(filter real,$(NODES)),setup-cluster) build ## upgrade three virtual nodes, see one fail and be cured; NODES=real on real ones, KEEP=1 leaves everything up
	@$(if $(filter real,$(NODES)),$(CLUSTER),$(SANDBOX)) demo $(if $(filter-out 0,$(KEEP)),--keep)

.PHONY: cluster
cluster: setup-cluster build ## leave a control plane and three real nodes running (root), and print their kubeconfig
	@$(CLUSTER) up

.PHONY: cluster-down
cluster-down: ## end what `make cluster` or `make demo NODES=real KEEP=1` left up
	@$(CLUSTER) down

.PHONY: down
down: ## end what `make demo KEEP=1` or `make control-plane` left up
	@$(SANDBOX) down

.PHONY: control-plane
control-plane: build ## leave a real control plane running and print its kubeconfig
	@$(SANDBOX) control-plane

# The control plane's programs are found or built first: a test would hide the lines that say so.
.PHONY: test
test: setup-test build ## run every test
	@$(SANDBOX) assets
	@$(CLUSTER) assets
	cargo test --workspace --locked --no-fail-fast

.PHONY: lint
lint: setup ## formatting, clippy without warnings, and cargo-deny where it is installed
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; else echo "cargo-deny is not installed: skipped"; fi

.PHONY: manifests
manifests: ## write the CRDs and the reference pages from api/
	cargo run --quiet --locked --package monok8s-api --example crds -- manifests/crds
	cargo run --quiet --locked --package monok8s-api --example reference -- docs/reference

.PHONY: bench
bench: build ## what planning costs, what an image costs beside shell pipelines, what watches cost the API server
	cargo bench --locked --package monok8s-controller --bench planner
	cargo bench --locked --package monok8s-ctl --bench image
	@$(SANDBOX) bench-watches
