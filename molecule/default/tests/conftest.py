# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the machine share."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "shared"))

Scenario = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def status() -> Callable[[Host], dict[str, Any]]:
    def read(host: Host) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(host.check_output("bpf-oom status --json"))
        return report

    return read


@pytest.fixture(scope="module")
def scenario(host: Host) -> Scenario:
    def run(name: str) -> dict[str, Any]:
        output = host.check_output("python3 /usr/local/lib/bpf-oom-scenarios/scenario.py %s", name)
        report: dict[str, Any] = json.loads(output)
        return report

    return run
