# The project's commands. Everything that a fresh Debian machine lacks is installed by `setup`.
SHELL := /bin/bash
export PATH := $(CURDIR)/.cache/bin:$(HOME)/.cargo/bin:$(PATH)

.PHONY: help demo test bench chaos build image setup

help:
	@echo "make demo [KEEP=1]   see it work: sandbox, operator, a primary and three replicas (KEEP=1 leaves them running)"
	@echo "make test            every test tier that this machine can run"
	@echo "make bench           measure, print the table of docs/bench.md"
	@echo "make chaos [MINUTES=30] [SEED=N]   faults in random order on real servers, and a checker (MUTANTS=1: broken on purpose)"
	@echo "make image           OCI archive of the operator, for a cluster's image store"

setup:
	@scripts/setup

# All binaries at once: one set of features for all dependencies, which are so built once.
build: setup
	cargo build --workspace --bins

image: setup
	cargo build --workspace --bins && . scripts/lib && "$$(bin)/xtask" image

demo: build
	@scripts/demo

test: setup
	@scripts/test

bench: build
	@scripts/bench

chaos: build
	@MINUTES=$(MINUTES) SEED=$(SEED) WRITERS=$(WRITERS) MUTANTS=$(MUTANTS) KEEP=$(KEEP) scripts/chaos
