# SPDX-License-Identifier: GPL-3.0-or-later
"""The plays before ran to their end, and the host is as it must be."""

from __future__ import annotations

import json
import os

from testinfra.host import Host

from machine import Machine, splats


def test_everything_was_tampered_with(host: Host) -> None:
    assert len(host.file("/root/bpf-oom-tampered").content_string.split()) == 13


def test_only_ours_are_registered(host: Host) -> None:
    """Said by bpftool, which knows nothing of us: a map that is no longer registered shows another state."""
    maps = json.loads(host.check_output("bpftool --json struct_ops dump"))
    used = [each["bpf_map_info"]["name"] for each in maps if "INUSE" in json.dumps(each)]
    links = [link for link in json.loads(host.check_output("bpftool --json link list")) if link["type"] == "struct_ops"]
    assert used == []
    assert [bool(link.get("map_id")) for link in links] == [True, True, True]


def test_the_fleet_was_checked(host: Host) -> None:
    assert host.file("/root/bpf-oom-checked").content_string == "checked"


def test_nothing_has_drifted(host: Host) -> None:
    assert host.run("bpf-oom verify").stdout == ""
    assert host.service("bpf-oom.service").is_enabled


def test_kernel_log_has_no_splat(host: Host) -> None:
    assert splats(host.check_output("dmesg")) == []
    assert splats(Machine(os.environ["BPF_OOM_MACHINE"]).log()) == []
