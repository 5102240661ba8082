# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions: from what the kernel holds to data and to lines, whatever processes call themselves."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.decisions import lines, readable

WORDS = ("cgroup_id", "score", "usage", "start_time", "pid", "tier", "adj", "verdict", "spared_by", "nr_survivors")
NOBODY = {"who": dict.fromkeys(WORDS, 0)}


def candidate(verdict: int, path: str, pid: int = 0, comm: str = "") -> dict[str, Any]:
    who = {**NOBODY["who"], "cgroup_id": 7, "usage": 3 << 20, "score": 9, "pid": pid, "verdict": verdict, "adj": -5}
    return {"who": who, "comm": comm, "path": path}


def raw(**changes: Any) -> dict[str, Any]:
    numbers = ("free_swap", "error", "nr_considered", "nr_protected", "nr_unkillable", "nr_small", "nr_killed", "nr_unseen")
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
    assert "protected by selector 1 of protect: /c, 3.0 MiB" in found
    assert "died: bait[6] in /bait" in found and "and 8 more died" in found


def test_the_record_says_who_was_spared_and_why() -> None:
    skipped = [candidate(3, "/c"), candidate(3, "/d"), candidate(4, "/e"), candidate(6, "/tmpfs"), candidate(7, "/shared")]
    skipped[1]["who"]["spared_by"] = 33
    skipped[2]["who"]["spared_by"] = -1
    decision = readable(raw(skipped=skipped, nr_unseen=5))
    assert [each["spared_by"] for each in decision["skipped"]] == [["protect", 0], ["protect_extra", 1], None, None, None]
    found = "\n".join(lines("leaf", decision, 0))
    assert "protected by selector 2 of protect_extra: /d" in found
    assert "  unkillable: /e" in found
    assert "no process is in it, so nobody's death gives it back: /tmpfs" in found
    assert "shares its memory with somebody protected: /shared" in found
    assert "no time to look at 5 cgroups" in found


def test_the_condition_that_did_not_hold_is_told() -> None:
    decision = readable(raw(outcome=8, unmet=3, free_memory=300 << 20, free_swap=5 << 20))
    assert (decision["unmet"], decision["free_memory"]) == (["free_memory", "free_swap"], 300 << 20)
    assert "  as 300.0 MiB of memory are free, 5.0 MiB of swap are free" in lines("pressure", decision, 0)


def test_survivors_are_told() -> None:
    half = candidate(2, "/db", 5, "db")
    half["who"]["nr_survivors"] = 2
    assert "2 of its processes live" in "\n".join(lines("leaf", readable(raw(ranked=[half])), 0))


def test_a_record_of_an_earlier_release_can_be_read() -> None:
    old = {key: value for key, value in raw().items() if key != "nr_unseen"}
    for each in (*old["ranked"], *old["skipped"]):
        each["who"] = {key: value for key, value in each["who"].items() if key not in ("spared_by", "nr_survivors")}
    assert readable(old)["skipped"][0]["spared_by"] is None


@pytest.mark.parametrize("comm", ["\x1b[2J", "a\nb", "\u202eevil", "\ufffd"])
def test_names_cannot_write_to_the_terminal(comm: str) -> None:
    died = [{"cgroup_id": 8, "pid": 6, "adj": 0, "comm": comm, "path": f"/{comm}"}]
    found = lines("leaf", readable(raw(died=died)), 0)
    assert all(line.isprintable() for line in found)


@pytest.mark.parametrize("number", [-1, 99])
def test_a_number_of_a_later_version_is_told_as_such(number: int) -> None:
    assert readable(raw(outcome=number))["outcome"] == f"unknown {number}"
    assert lines("leaf", readable(raw(outcome=number)), 0)
