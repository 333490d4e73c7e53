# The two commands: `make demo` and `make test`. `make` alone lists all.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup images build check lint test demo bench clean

GOLIATH_CACHE ?= $(HOME)/.cache/goliath
export GOLIATH_CACHE
# Programs are run from here: `cargo run` of one package would build the dependencies again, for it alone. Asked of cargo
# where it is used, and not before.
TARGET = $(shell scripts/target-directory)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is needed (Debian 12, root); quick when it is there
	@scripts/setup

images: setup ## Build the guest images into $GOLIATH_CACHE/images; quick when nothing changed
	@vm-images/tiny/build
	@vm-images/debian/build

build: setup ## Build the agent, the command line and the lab
	cargo build --locked --workspace --bins

check: ## Format, types and unit tests: seconds, needs no root
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked --workspace --lib --bins

lint: setup ## All static checks
	scripts/lint

test: setup images build ## Unit tests and the lab: real QEMU, Vault, registry and networks; needs root
	cargo test --locked --workspace

demo: setup images build ## Two hosts, two clusters, four guests; KEEP=1 leaves them running, ISSUER=local does without Vault
	@$(TARGET)/debug/goliath-demo $(if $(KEEP),--keep) $(if $(ISSUER),--issuer $(ISSUER))

bench: images ## Measure against bare QEMU, libvirt, bridge and skopeo; writes target/bench.json
	@scripts/setup bench
	cargo build --locked --release --workspace --bins
	GOLIATH_LOG=info $(TARGET)/release/goliath-bench

clean: ## Remove what cargo built; the cache stays
	cargo clean
