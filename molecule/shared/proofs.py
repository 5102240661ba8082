# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge a report of the guest's scenario.py: did those die that the policy had to choose, and is there proof of each kill?

No kill counts on one signal alone. Molecule's verifier and the demo share this file, and both show that it says no when the
policy is not loaded.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import machine


@dataclasses.dataclass(frozen=True)
class Expectation:
    """Who must die, in this order, and what the kernel log must say of it. Everybody else must live."""

    victims: tuple[str, ...]
    policy: str = ""
    constraint: str = ""


@dataclasses.dataclass(frozen=True)
class Proof:
    claim: str
    holds: bool
    evidence: str


def dead(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The processes that died, first one first."""
    gone = [process for process in report["processes"] if process["death"]]
    return sorted(gone, key=lambda process: int(process["death"]["order"]))


def judge(report: dict[str, Any], expected: Expectation) -> list[Proof]:
    """Every claim that must hold, with what was seen."""
    victims = dead(report)
    others = [process for process in report["processes"] if process["name"] not in expected.victims]
    names = [process["name"] for process in victims]
    proofs = [Proof(f"{' then '.join(expected.victims)} died, nobody else", names == list(expected.victims), f"died: {names}")]
    kills = {kill["pid"]: kill for kill in report["kills"]}
    witnessed = [(record["pid"], record["cgroup_id"]) for record in report["witness"]]
    for name in expected.victims:
        process = next(process for process in report["processes"] if process["name"] == name)
        death, kill = process["death"] or {}, kills.get(process["pid"], {})
        proofs += [
            Proof(f"{name}: wait status is SIGKILL", death.get("exit") == -9, f"exit {death.get('exit')}"),
            Proof(
                f"{name}: the witness saw oom:mark_victim for it, once, in its cgroup",
                witnessed.count((process["pid"], process["cgroup_id"])) == 1,
                f"pid {process['pid']}, witnessed {witnessed}",
            ),
            Proof(
                f"{name}: memory.events.local says oom_kill 1",
                process["events"].get("oom_kill") == 1,
                f"oom_kill {process['events'].get('oom_kill')}",
            ),
            Proof(
                f"{name}: the kernel log names policy {expected.policy}",
                kill.get("policy") == expected.policy,
                f"oom_policy={kill.get('policy')}",
            ),
        ]
        if expected.constraint:
            seen = kill.get("constraint")
            proofs.append(Proof(f"{name}: constraint {expected.constraint}", seen == expected.constraint, f"constraint={seen}"))
    proofs += [
        Proof(f"{process['name']}: alive, no kill counted in its cgroup", _untouched(process), f"exit {process['death']}")
        for process in others
    ]
    splats = machine.splats("\n".join(report["log"]))
    proofs += [
        Proof(
            "the log and the witness tell of no other kill",
            len(report["kills"]) == len(report["witness"]) == len(expected.victims),
            f"log {len(report['kills'])}, witness {len(report['witness'])}",
        ),
        Proof("no WARNING, BUG or splat, no lost line in the kernel log", not splats and not report["log_lost"], f"{splats}"),
    ]
    return proofs


def _untouched(process: dict[str, Any]) -> bool:
    return bool(process["alive"]) and process["death"] is None and process["events"].get("oom_kill") == 0


def failures(proofs: list[Proof]) -> list[str]:
    return [f"{proof.claim}: {proof.evidence}" for proof in proofs if not proof.holds]
