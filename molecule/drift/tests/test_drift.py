# SPDX-License-Identifier: GPL-3.0-or-later
"""The plays before ran to their end, and the host is as it must be."""

from __future__ import annotations

import os

from testinfra.host import Host

from machine import Machine, splats


def test_everything_was_tampered_with(host: Host) -> None:
    assert len(host.file("/var/lib/bpf-oom-tampered").content_string.split()) == 11


def test_the_fleet_was_checked(host: Host) -> None:
    assert host.file("/var/lib/bpf-oom-checked").content_string == "checked"


def test_nothing_has_drifted(host: Host) -> None:
    assert host.run("bpf-oom verify").stdout == ""
    assert host.service("bpf-oom.service").is_enabled


def test_kernel_log_has_no_splat(host: Host) -> None:
    assert splats(host.check_output("dmesg")) == []
    assert splats(Machine(os.environ["BPF_OOM_MACHINE"]).log()) == []
