# SPDX-License-Identifier: GPL-3.0-or-later
"""The plays before ran to their end, and no kernel log has a splat."""

from __future__ import annotations

from testinfra.host import Host

from machine import Machine, splats


def test_all_plays_were_run(host: Host) -> None:
    assert host.file("/root/kernel-scenario").content_string == "nothing was left"


def test_kernel_log_has_no_splat(host: Host) -> None:
    assert splats(host.check_output("dmesg")) == []
    assert splats(Machine(host.backend.get_hostname()).log()) == []
