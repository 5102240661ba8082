# SPDX-License-Identifier: GPL-3.0-or-later
"""Removing the kill log leaves nothing of it, and the policies as they are."""

from __future__ import annotations

import json
import os

from testinfra.host import Host

from machine import Machine, splats


def test_it_ran_to_the_end(host: Host) -> None:
    assert host.file("/var/lib/bpf-oom-removed").content_string == "removed"


def test_nothing_is_left(host: Host) -> None:
    places = "/etc /run /usr/lib /usr/sbin /var/lib /sys/kernel/tracing/instances"
    assert host.check_output(f"find {places} -name '*kill-log*' -o -name 'linuxmm_bpf_oom' -o -name 'bpf_oom.prom'") == ""


def test_the_policies_still_act(host: Host) -> None:
    policies = json.loads(host.check_output("bpf-oom status --json"))["policies"]
    assert policies and all(policy["active"] for policy in policies.values())


def test_kernel_log_has_no_splat(host: Host) -> None:
    assert splats(host.check_output("dmesg")) == []
    assert splats(Machine(os.environ["BPF_OOM_MACHINE"]).log()) == []
