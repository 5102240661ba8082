# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions of policies: from the bytes of the ring to data for programs, and to lines for people."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

# The enums of bpf/include/bpf_oom/record.h, from 1.
TRIGGERS = ("", "memcg", "global", "declared", "sysrq", "pressure")
OUTCOMES = (
    "", "killed", "observed", "no_victim", "cooldown", "declared", "nobody_died", "recorded", "spared", "failed", "busy",
)  # fmt: skip
VERDICTS = ("", "ranked", "chosen", "protected", "unkillable", "gone", "empty", "shares")
# In the order of their bits.
CONDITIONS = ("free_memory", "free_swap")
# From record.h: places of the second list come after those of the first.
_EXTRA = 32
MODES = ("enforce", "observe")
_SENTENCES = {
    "killed": "killed",
    "observed": "would have acted (mode: observe)",
    "no_victim": "found nobody that may be killed, and passed on",
    "cooldown": "acted here a short time ago, and passed on",
    "declared": "declared an OOM, of which somebody died",
    "nobody_died": "declared an OOM, of which nobody died",
    "recorded": "recorded it",
    "spared": "judged that it need not act",
    "failed": "was refused by the kernel",
    "busy": "declared no OOM, as another one was being handled",
}
_SPARED = {"empty": "no process is in it, so nobody's death gives it back", "shares": "shares its memory with somebody protected"}
# Why a policy did not act, of each condition.
_UNMET = {"free_memory": "{free_memory} of memory are free", "free_swap": "{free_swap} of swap are free"}
Decision = Dict[str, Any]


def _word(words: Any, number: int) -> str:
    return words[number] if 0 <= number < len(words) else f"unknown {number}"


def _candidate(raw: Decision) -> Decision:
    who = raw["who"]
    return {
        "cgroup": raw["path"],
        "cgroup_id": who["cgroup_id"],
        "pid": who["pid"] or None,
        "comm": raw["comm"],
        "usage": who["usage"],
        "score": who["score"],
        "tier": who["tier"],
        "oom_score_adj": who["adj"],
        "verdict": _word(VERDICTS, who["verdict"]),
        "spared_by": _spared_by(who),
        "survivors": who.get("nr_survivors", 0),
    }


def _spared_by(who: Decision) -> Optional[List[Any]]:
    """The parameter and the place in it, from 0, of the selector that spares somebody; None: no selector does."""
    place = who.get("spared_by", -1)
    if _word(VERDICTS, who["verdict"]) != "protected" or place < 0:
        return None
    return ["protect", place] if place < _EXTRA else ["protect_extra", place - _EXTRA]


def readable(raw: Decision) -> Decision:
    """A decision as the kernel holds it (record.h), with words in the place of numbers and without empty places.

    Times are nanoseconds: C(time_ns) since boot, with the time suspended, and C(spent_ns) in the policy. Sizes are bytes.
    """
    died = [
        {
            "pid": each["pid"],
            "comm": each["comm"],
            "cgroup": each["path"],
            "cgroup_id": each["cgroup_id"],
            "oom_score_adj": each["adj"],
        }
        for each in raw["died"]
        if each["pid"]
    ]
    return {
        "seq": raw["seq"],
        "time_ns": raw["time_ns"],
        "spent_ns": raw["spent_ns"],
        "scope": raw["scope"],
        "scope_id": raw["scope_id"],
        "free_swap": raw["free_swap"],
        "free_memory": raw.get("free_memory", 0),
        "trigger": _word(TRIGGERS, raw["trigger"]),
        "mode": _word(MODES, raw["mode"]),
        "outcome": _word(OUTCOMES, raw["outcome"]),
        "error": raw["error"],
        "considered": raw["nr_considered"],
        "protected": raw["nr_protected"],
        "unkillable": raw["nr_unkillable"],
        "small": raw["nr_small"],
        "killed": raw["nr_killed"],
        "unseen": raw.get("nr_unseen", 0),
        "unmet": [word for bit, word in enumerate(CONDITIONS) if raw.get("unmet", 0) >> bit & 1],
        "ranked": [_candidate(each) for each in raw["ranked"] if each["who"]["verdict"]],
        "skipped": [_candidate(each) for each in raw["skipped"] if each["who"]["verdict"]],
        "died": died,
        "died_in_all": raw["nr_died"],
    }


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _who(candidate: Decision) -> str:
    process = f"{candidate['comm'] or 'process'}[{candidate['pid']}] in " if candidate["pid"] else ""
    return f"{process}{candidate['cgroup'] or candidate['cgroup_id']}"


def lines(policy: str, decision: Decision, ago_s: float) -> List[str]:
    """What a person wants to know of a decision; names in it are whatever a user called their processes."""
    head = f"{policy} #{decision['seq']}, {ago_s:.0f} s ago, {decision['trigger']} {decision['scope'] or '/'}"
    found = [f"{head}: {_SENTENCES.get(decision['outcome'], decision['outcome'])}"]
    if decision["unmet"]:
        sizes = {name: _mib(decision[name]) for name in ("free_memory", "free_swap")}
        found.append("  as " + ", ".join(_UNMET[name].format_map(sizes) for name in decision["unmet"]))
    for each in decision["ranked"]:
        adj = f", oom_score_adj {each['oom_score_adj']}" if each["oom_score_adj"] else ""
        survivors = f", {each['survivors']} of its processes live" if each["survivors"] else ""
        found.append(f"  {each['verdict']}: {_who(each)}, {_mib(each['usage'])}, score {each['score']}{adj}{survivors}")
    for each in decision["skipped"]:
        why = _SPARED.get(each["verdict"], each["verdict"])
        if each["spared_by"]:
            why += f" by selector {each['spared_by'][1] + 1} of {each['spared_by'][0]}"
        found.append(f"  {why}: {_who(each)}, {_mib(each['usage'])}")
    if decision["considered"]:
        found.append(
            f"  of {decision['considered']} candidates; {decision['protected']} protected, {decision['unkillable']} unkillable,"
            f" {decision['small']} too small; {decision['spent_ns'] / 1e6:.2f} ms in the policy"
        )
    if decision["unseen"]:
        found.append(f"  there was no time to look at {decision['unseen']} cgroups; see vm.bpf_oom_budget_ms")
    for each in decision["died"]:
        found.append(f"  died: {each['comm']}[{each['pid']}] in {each['cgroup']}, oom_score_adj {each['oom_score_adj']}")
    if decision["died_in_all"] > len(decision["died"]):
        found.append(f"  and {decision['died_in_all'] - len(decision['died'])} more died")
    return ["".join(letter if letter.isprintable() else "?" for letter in line) for line in found]


__all__ = ["lines", "readable"]
