# SPDX-License-Identifier: GPL-3.0-or-later
# Needs nothing but git and make: tests/tools/env installs the rest when first called.

ENV := tests/tools/env
TIERS := $(ENV) tests/tools/tiers

.DEFAULT_GOAL := help
.PHONY: help setup kernel kernel-debug kernel-deb module module-deb module-dkms image demo lint unit test-kernel test-kernel-patched prove test-kernel-debug test-kernel-faults \
	molecule molecule-kernel molecule-operations molecule-drift molecule-faults molecule-rollout molecule-mixed test-crash test-report test-pull test-inputs test test-long bench-kernel bench-fleet clean

# What kernel/build reads may be given to make, too: make kernel SERIES=7.3
export SERIES LINUX_SRC FLAVOUR CONFIG KERNEL

help: ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

setup: ## APT packages and the Python environment
	@tests/tools/setup

kernel: ## the capable kernel; prints where it is; SERIES=7.3, LINUX_SRC=/your/tree
	@$(ENV) kernel/build

kernel-debug: ## the same with KASAN, lockdep and the kernel's other checks
	@FLAVOUR=debug $(ENV) kernel/build

kernel-deb: ## Debian packages of it; CONFIG=/boot/config-... for a real machine
	@$(ENV) kernel/build --deb

module: ## the module for RELEASE=6.12.117+deb13-amd64, one of Debian's kernels; prints where it is
	@$(ENV) kernel/module/build --release '$(RELEASE)'

module-deb: ## a Debian package of the module for RELEASE=6.12.117+deb13-amd64; prints where it is
	@$(ENV) kernel/module/package --release '$(RELEASE)'

module-dkms: ## a Debian package of its source, which DKMS builds on the host; prints where it is
	@$(ENV) kernel/module/package --dkms

image: ## the Debian 13 machine image; prints where it is
	@$(ENV) python molecule/shared/machine.py image

demo: ## from nothing to a kill by a policy, explained; KEEP=1 leaves the machine up
	@$(ENV) python molecule/shared/demo.py

lint: ## every static check; the first run builds the kernel, for its checkpatch
	@$(TIERS) lint

unit: ## ansible-test units
	@$(TIERS) unit

test-kernel: ## policies and interface in a machine without a distribution, on Debian's kernel with the module
	@$(TIERS) kernel

test-kernel-patched: ## the same on the patched 6.12
	@$(TIERS) kernel-6.12

prove: ## the same on KERNEL=linux-image-..., one of Debian's; where all passes the module may be loaded into it
	@$(TIERS) kernel-given

test-kernel-debug: ## the same in the debug kernel, with a storm of 10,000 OOMs
	@$(TIERS) kernel-debug

test-kernel-faults: ## puts back each fault that the series closes: its test must notice
	@$(TIERS) kernel-faults kernel-faults-7.3

bench-fleet: ## what a look at a fleet costs, against a ping of it
	@$(ENV) python tests/bench/fleet.py

bench-kernel: ## what the interface costs, in one machine and one run
	@$(ENV) python tests/bench/kernel.py

molecule: ## the collection on a Debian 13 machine
	@$(TIERS) molecule

molecule-kernel: ## a stock kernel becomes capable; builds that replace one another, crashes, signatures
	@$(TIERS) molecule-kernel

molecule-operations: ## drills and the kill log on a Debian 13 machine
	@$(TIERS) molecule-operations

molecule-drift: ## what is changed behind Ansible's back is found and healed
	@$(TIERS) molecule-drift

molecule-faults: ## full disks, damaged files, unprivileged users, two controllers at once
	@$(TIERS) molecule-faults

molecule-rollout: ## three machines: a good rollout, and each way to go wrong
	@$(TIERS) molecule-rollout

molecule-mixed: ## a kernel that can load policies and one that cannot, in one inventory
	@$(TIERS) molecule-mixed

test-crash: ## changes that are killed at every step, and power cuts, in a machine without services
	@$(TIERS) crash

test-report: ## the page of a fleet in a headless browser
	@$(TIERS) report

test-pull: ## ansible-pull of a repository, in a private view of this machine's files
	@$(TIERS) pull

test-inputs: ## generated variables through plays, on the oldest ansible-core and the newest
	@$(TIERS) inputs

test: ## lint, unit, test-kernel and molecule, and a count; more of the kernel where that changed
	@$(TIERS) lint unit kernel molecule --when-changed

test-long: ## everything: both series, step by step, plain, debug, faults put back, long storms
	@$(TIERS) lint unit inputs report pull crash kernel molecule molecule-patched molecule-kernel molecule-operations molecule-drift molecule-faults molecule-rollout molecule-mixed \
		kernel-6.12 kernel-backports kernel-amd64 kernel-rt kernel-7.3 kernel-plain molecule-plain kernel-debug kernel-storm kernel-trees kernel-faults kernel-faults-7.3 series

clean: ## remove the cache: everything built and downloaded
	rm -rf -- "$${BPF_OOM_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/linuxmm-bpf-oom}"
