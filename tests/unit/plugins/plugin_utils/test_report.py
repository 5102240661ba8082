# SPDX-License-Identifier: GPL-3.0-or-later
"""What the page of a fleet counts; how it looks is tested in a browser, in tests/report."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._fleet import STATES, host_result
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._report import BINS, LEFT, SERIES, WIDTH, fleet_report

NOW = 1_800_000_000.0


def host(*deaths: tuple[float, str], outcome: str = "killed", **changed: Any) -> dict[str, Any]:
    booted = NOW - 400 * 86400
    decisions = [
        {"outcome": outcome, "time_ns": int((NOW - ago - booted) * 1e9), "died": [{"cgroup": cgroup}]} for ago, cgroup in deaths
    ]
    policy = {"program": "p", "object": "d" * 64, "active": True, "counters": {"nr_kills": len(deaths)}, "decisions": decisions}
    return {**host_result({}), "state": "as_wanted", "booted": booted, "policies": {"one": policy}, **changed}


def bars(plot: dict[str, Any]) -> int:
    return sum(int(each["what"].rsplit(": ", 1)[1]) for each in plot["bars"])


@pytest.mark.parametrize("longest", [0.5, 59, 3600, 86400, 30 * 86400, 390 * 86400])
def test_every_kill_is_in_a_plot_that_is_wide_enough(longest: float) -> None:
    report = fleet_report({"a": host((longest, "/x"), (longest / 3, "/y"), (0, "/y"))}, NOW)
    for plot in report["plots"]:
        assert bars(plot) == sum(each["kills"] for each in plot["legend"]) == 3
        assert all(each["x"] >= LEFT and each["x"] + each["width"] <= WIDTH + 1 for each in plot["bars"])
        assert all(each["y"] >= plot["top_y"] - 0.1 and each["y"] + each["height"] <= plot["base"] + 0.1 for each in plot["bars"])
        assert len({each["x"] for each in plot["bars"]}) <= BINS + 1


def test_a_clock_that_is_ahead_loses_no_kill() -> None:
    plots = fleet_report({"a": host((100, "/x"), (-86400, "/y"))}, NOW)["plots"]
    assert [bars(plot) for plot in plots] == [2, 2]


def test_many_cgroups_share_a_colour() -> None:
    plot = fleet_report({"a": host(*((number, f"/{number}") for number in range(20)))}, NOW)["plots"][1]
    assert [each["name"] for each in plot["legend"]][-1] == "others"
    assert len(plot["legend"]) == SERIES + 1
    assert plot["legend"][-1]["kills"] == 20 - SERIES


def test_who_was_only_observed_is_no_kill() -> None:
    assert fleet_report({"a": host((5, "/x"), outcome="observed")}, NOW)["plots"] == []


def test_why_a_policy_does_not_act_or_not_always_is_in_the_page() -> None:
    idle = {"active": False, "why": "the kernel has bypassed it", "limits": []}
    partly = {"active": True, "why": "", "limits": ["vm.panic_on_oom is 1; set it to 0."]}
    policies = {"idle": idle, "older": {"active": True}, "partly": partly}
    found = fleet_report({"a": host(policies=policies)}, NOW)["hosts"][0]["policies"]
    older = {"name": "older", "active": True, "why": "", "limits": []}
    assert found == [{"name": "idle", **idle}, older, {"name": "partly", **partly}]


def test_a_host_of_which_nothing_is_known_is_in_the_page() -> None:
    report = fleet_report({"a": host_result({}), "b": host()}, NOW)
    assert [(each["name"], each["state"]) for each in report["hosts"]] == [("a", "failed"), ("b", "as_wanted")]
    assert {each["state"]: each["count"] for each in report["states"]} == {
        **dict.fromkeys(STATES, 0),
        "failed": 1,
        "as_wanted": 1,
    }


def test_versions_of_a_policy_have_a_row_each() -> None:
    other = host((1, "/x"))
    other["policies"]["one"] = {**other["policies"]["one"], "object": "e" * 64, "active": False}
    rows = fleet_report({"a": host((1, "/x")), "b": host(), "c": other}, NOW)["policies"]
    assert [(row["object"], row["hosts"], row["active"], row["kills"]) for row in rows] == [
        ("d" * 12, 2, 2, 1),
        ("e" * 12, 1, 0, 1),
    ]


def test_something_else_than_hosts_is_refused_in_words() -> None:
    with pytest.raises(AnsibleFilterError, match="wants the results of hosts"):
        fleet_report(["a"], NOW)
