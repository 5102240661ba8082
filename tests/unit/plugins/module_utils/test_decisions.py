# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions: from what the kernel holds to data and to lines, whatever processes call themselves."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._decisions import lines, readable

NOBODY = {"who": {"cgroup_id": 0, "score": 0, "usage": 0, "start_time": 0, "pid": 0, "tier": 0, "adj": 0, "verdict": 0}}


def candidate(verdict: int, path: str, pid: int = 0, comm: str = "") -> dict[str, Any]:
    who = {**NOBODY["who"], "cgroup_id": 7, "usage": 3 << 20, "score": 9, "pid": pid, "verdict": verdict, "adj": -5}
    return {"who": who, "comm": comm, "path": path}


def raw(**changes: Any) -> dict[str, Any]:
    numbers = ("free_swap", "error", "nr_considered", "nr_protected", "nr_unkillable", "nr_small", "nr_killed")
    empty = {"comm": "", "path": ""}
    decision = {
        **dict.fromkeys(numbers, 0),
        "seq": 4,
        "time_ns": 10**9,
        "spent_ns": 1500000,
        "scope": "/system.slice",
        "scope_id": 3,
        "trigger": 1,
        "mode": 1,
        "outcome": 2,
        "nr_died": 1,
        "ranked": [candidate(2, "/system.slice/db", 5, "db"), candidate(1, "/b"), {**NOBODY, **empty}, {**NOBODY, **empty}],
        "skipped": [candidate(3, "/c"), {**NOBODY, **empty}],
        "died": [{"cgroup_id": 8, "pid": 6, "adj": 1000, "comm": "bait", "path": "/bait"}, {"pid": 0}],
    }
    return {**decision, **changes}


def test_our_choice_stands_beside_who_died() -> None:
    decision = readable(raw())
    assert (decision["trigger"], decision["mode"], decision["outcome"]) == ("memcg", "observe", "observed")
    assert [(each["verdict"], each["cgroup"]) for each in decision["ranked"]] == [
        ("chosen", "/system.slice/db"),
        ("ranked", "/b"),
    ]
    assert decision["ranked"][0]["pid"] == 5 and decision["ranked"][1]["pid"] is None
    assert [(each["verdict"], each["cgroup"]) for each in decision["skipped"]] == [("protected", "/c")]
    assert decision["died"] == [{"pid": 6, "comm": "bait", "cgroup": "/bait", "cgroup_id": 8, "oom_score_adj": 1000}]


def test_lines_for_people() -> None:
    found = "\n".join(lines("leaf", readable(raw(nr_considered=3, nr_died=9)), 61.4))
    assert "leaf #4, 61 s ago, memcg /system.slice: would have acted (mode: observe)" in found
    assert "chosen: db[5] in /system.slice/db, 3.0 MiB, score 9, oom_score_adj -5" in found
    assert "protected: /c, 3.0 MiB" in found
    assert "died: bait[6] in /bait" in found and "and 8 more died" in found


@pytest.mark.parametrize("comm", ["\x1b[2J", "a\nb", "\u202eevil", "\ufffd"])
def test_names_cannot_write_to_the_terminal(comm: str) -> None:
    died = [{"cgroup_id": 8, "pid": 6, "adj": 0, "comm": comm, "path": f"/{comm}"}]
    found = lines("leaf", readable(raw(died=died)), 0)
    assert all(line.isprintable() for line in found)


@pytest.mark.parametrize("number", [-1, 99])
def test_a_number_of_a_later_version_is_told_as_such(number: int) -> None:
    assert readable(raw(outcome=number))["outcome"] == f"unknown {number}"
    assert lines("leaf", readable(raw(outcome=number)), 0)
