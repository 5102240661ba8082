# SPDX-License-Identifier: GPL-3.0-or-later
# Needs nothing but git and make: tests/tools/env installs the rest when first called.

ENV := tests/tools/env
TIERS := $(ENV) tests/tools/tiers

.DEFAULT_GOAL := help
.PHONY: help setup kernel image demo lint unit test-kernel molecule test test-long clean

help: ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: ## APT packages and the Python environment
	@tests/tools/setup

kernel: ## the capable kernel; prints where it is
	@$(ENV) kernel/build

image: ## the Debian 13 machine image; prints where it is
	@$(ENV) python molecule/shared/machine.py image

demo: ## from nothing to a kill by a policy, explained; KEEP=1 leaves the machine up
	@$(ENV) python molecule/shared/demo.py

lint: ## every static check; the first run builds the kernel, for its checkpatch
	@$(TIERS) lint

unit: ## ansible-test units
	@$(TIERS) unit

test-kernel: ## policies and interface in a machine without a distribution
	@$(TIERS) kernel

molecule: ## the collection on a Debian 13 machine
	@$(TIERS) molecule

test: ## all of these four, and a count
	@$(TIERS) lint unit kernel molecule

test-long: test ## the same; longer scenarios join here when there are some

clean: ## remove the cache: everything built and downloaded
	rm -rf -- "$${BPF_OOM_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/linuxmm-bpf-oom}"
