# SPDX-License-Identifier: GPL-3.0-or-later
"""The boot unit has brought the policies back, before anybody could log in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from testinfra.host import Host


@pytest.fixture(scope="module")
def boot(host: Host) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(host.check_output("python3 /usr/local/lib/bpf-oom-scenarios/boot.py"))
    return report


def test_four_steps_of_every_module_ran_to_the_end(host: Host) -> None:
    assert host.file("/var/lib/bpf-oom-four-steps").content_string == "demo-largest-leaf demo-pressure"


def test_refusals_ran_to_the_end(host: Host) -> None:
    assert host.file("/var/lib/bpf-oom-refusals").content_string == "nothing was left"


def test_boot_unit_loaded_the_policies(boot: dict[str, Any]) -> None:
    assert boot["result"] == "success"
    assert boot["policies_us"] > 0  # zero: it has not run since the kernel started
    assert boot["active"] == ["demo-largest-leaf", "demo-pressure"]


def test_policies_were_active_before_any_login(boot: dict[str, Any]) -> None:
    assert 0 < boot["policies_us"] < boot["sshd_us"] < boot["login_us"]
