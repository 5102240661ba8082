# SPDX-License-Identifier: GPL-3.0-or-later
"""States of hosts and reports of a fleet, for the collection's playbooks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._fleet import (
    bad_hosts,
    before_change,
    control_path,
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

FILTERS: list[Callable[..., Any]] = [
    bad_hosts,
    before_change,
    control_path,
    fleet_bad,
    fleet_json,
    fleet_junit,
    fleet_lines,
    fleet_report,
    host_result,
    kills_between,
    observing,
    wanted_policies,
]


def in_words(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, which refuses in one sentence whatever it cannot read."""

    @functools.wraps(function)
    def said(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except BpfOomError as error:
            raise AnsibleFilterError(str(error)) from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            name = function.__name__
            raise AnsibleFilterError(
                f"What {name} was given has another form than it reads; see `ansible-doc -t filter linuxmm.bpf_oom.{name}`."
            ) from None

    return said


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {function.__name__: in_words(function) for function in FILTERS}
