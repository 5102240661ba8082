# SPDX-License-Identifier: GPL-3.0-or-later
"""The plays before ran to their end, and each machine is as it must be."""

from __future__ import annotations

from testinfra.host import Host

from machine import Machine, splats


def test_all_rollouts_were_run(host: Host) -> None:
    assert host.file("/root/bpf-oom-rollouts").content_string == "rolled"


def test_nothing_has_drifted(host: Host) -> None:
    assert host.run("bpf-oom verify").stdout == ""


def test_kernels_differ(host: Host) -> None:
    name = host.backend.get_hostname()
    assert host.check_output("uname -r").startswith("7.3" if name.endswith("3") else "6.12")


def test_kernel_log_has_no_splat(host: Host) -> None:
    assert splats(host.check_output("dmesg")) == []
    assert splats(Machine(host.backend.get_hostname()).log()) == []
