# SPDX-License-Identifier: GPL-3.0-or-later
"""States of hosts and reports of a fleet, for the collection's playbooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._fleet import (
    bad_hosts,
    before_change,
    fleet_bad,
    fleet_json,
    fleet_junit,
    fleet_lines,
    host_result,
    kills_between,
    observing,
)
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._report import fleet_report
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._wanted import wanted_policies


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "bad_hosts": bad_hosts,
            "before_change": before_change,
            "fleet_bad": fleet_bad,
            "fleet_json": fleet_json,
            "fleet_junit": fleet_junit,
            "fleet_lines": fleet_lines,
            "fleet_report": fleet_report,
            "host_result": host_result,
            "kills_between": kills_between,
            "observing": observing,
            "wanted_policies": wanted_policies,
        }
