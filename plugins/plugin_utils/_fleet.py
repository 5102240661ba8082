# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fleet looks like: from the results of modules on each host to one state a host, for people and for machines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from xml.etree import ElementTree

from ..module_utils._common.errors import BpfOomError

#: Every host has one of these: as it must be; otherwise; not able to load policies; not to be asked; asked in vain.
STATES = ("as_wanted", "drifted", "incapable", "unreachable", "failed")
WORDS = {
    "as_wanted": "as wanted",
    "drifted": "drifted",
    "incapable": "no capable kernel",
    "unreachable": "unreachable",
    "failed": "failed",
}
# What XML 1.0 cannot hold, not even escaped.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _hosts(given: Any) -> Mapping[str, Mapping[str, Any]]:
    """What host_result() said of each host."""
    for name, host in given.items() if isinstance(given, Mapping) else [("", None)]:
        if not isinstance(host, Mapping) or host.get("state") not in STATES or not isinstance(host.get("drift"), list):
            raise BpfOomError(
                f"of the host {str(name)!r} there is no result", "give results of linuxmm.bpf_oom.host_result by host"
            )
    return given  # type: ignore[no-any-return]


def control_path(path: Any) -> str:
    """A path on the control node as a shell would take it from whoever started Ansible, absolute; '' for none.

    Tasks that are delegated to the control node have another directory, that of the playbook.
    """
    if not isinstance(path, str) or "\0" in path:
        raise BpfOomError(f"{path!r} is no path", "give a text")
    return os.path.abspath(os.path.expanduser(path)) if path else ""


def _accepted(given: Any) -> set[str]:
    """States that are no failure, as a list or as a text with commas, which is what `-e` makes of them."""
    states = [text.strip() for text in given.split(",") if text.strip()] if isinstance(given, str) else list(given or ())
    for state in states:
        if state not in STATES:
            raise BpfOomError(f"there is no state {state!r} of a host to accept", f"give some of {', '.join(STATES[1:])}")
    return set(states)


def _changed(result: Mapping[str, Any] | None) -> bool:
    return bool(result and result.get("changed"))


def _drift(results: Mapping[str, Any]) -> list[dict[str, str]]:
    found = [dict(each) for each in results["set"].get("drift") or []]
    if _changed(results.get("command")):
        found.append({"policy": "", "aspect": "command", "what": "the command bpf-oom is missing or another one"})
    if _changed(results.get("unit")):
        found.append({"policy": "", "aspect": "unit", "what": "the boot unit is missing or has other contents"})
    unit = (results.get("info") or {}).get("boot_unit") or {"enabled": True}
    if not unit["enabled"] and not _changed(results.get("unit")):
        found.append({"policy": "", "aspect": "unit", "what": "the boot unit is not enabled"})
    return found


def host_result(results: Mapping[str, Any]) -> dict[str, Any]:
    """One host, from what policy_set and others returned in check mode: `set`, `command`, `unit` and `info`.

    Missing results are None. `skips` says that the role leaves a host alone that cannot load policies, so that nothing else of
    it can differ. A host of which nothing is known has failed: it is never silently missing.
    """
    known = {name: value for name, value in results.items() if value and name != "skips"}
    if not all(isinstance(value, Mapping) for value in known.values()):
        raise BpfOomError("what is to be joined are no results of modules", "give them by the names set, command, unit and info")
    made: dict[str, Any] = {"state": "failed", "why": "", "drift": [], "policies": {}, "kernel": None, "booted": None}
    if any(value.get("unreachable") for value in known.values()):
        why = next(value.get("msg") for value in known.values() if value.get("unreachable"))
        return {**made, "state": "unreachable", "why": _line(why)}
    for value in known.values():
        if value.get("failed"):
            return {**made, "why": _line(value.get("msg"))}
    if "set" not in known:
        return {**made, "why": "it gave no result"}
    info = known.get("info", {})
    capability = known["set"].get("capability") or info.get("capability") or {}
    made["kernel"] = capability.get("kernel")
    made["booted"] = info.get("booted")
    made["policies"] = info.get("policies") or known["set"].get("policies") or {}
    # A host without PSI can do all that is wanted of one with OOM policies only.
    kinds = {str(policy.get("kind")) for policy in (known["set"].get("policies") or {}).values()}
    lacking = [kind for kind in sorted(kinds) if not capability.get(kind)]
    problems = [each["sentence"] for each in capability.get("problems") or [] if each.get("kind", "any") in ("any", *lacking)]
    drift = _drift({**known, "set": known["set"]})
    blocked = [each["what"] for each in drift if each["aspect"] == "capability"]
    if not (blocked and results.get("skips")):
        made["drift"] = [each for each in drift if each["aspect"] != "capability"]
    number = len(made["drift"])
    if number:
        return {**made, "state": "drifted", "why": f"{number} difference{'s' if number > 1 else ''}"}
    if blocked or lacking:
        why = dict.fromkeys(blocked or problems)  # one reason may hold for several policies
        return {**made, "state": "incapable", "why": _line(" ".join(why) or "it cannot load policies")}
    return {**made, "state": "as_wanted"}


def _line(text: Any) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(text or "")).split())


def fleet_lines(hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """For people: the worst first, each difference with its policy and aspect, and how many hosts are how."""
    hosts = _hosts(hosts)
    lines = []
    for state in reversed(STATES[1:]):
        for name, host in sorted(hosts.items()):
            if host["state"] != state:
                continue
            lines.append(f"{name}: {WORDS[state]}" + (f": {host['why']}" if host["why"] else ""))
            for each in host["drift"]:
                whose = f"{_line(each['policy'])}, " if each["policy"] else ""
                lines.append(f"  {whose}{each['aspect']}: {_line(each['what'])}")
    counts = {state: sum(host["state"] == state for host in hosts.values()) for state in STATES}
    lines.append(", ".join(f"{number} {WORDS[state]}" for state, number in counts.items() if number) or "no hosts")
    return lines


def fleet_junit(hosts: Mapping[str, Mapping[str, Any]], accept: Iterable[str] | str = ()) -> str:
    """One test case a host. States in `accept` are skipped instead of failed."""
    hosts, accepted = _hosts(hosts), _accepted(accept)
    bad = [name for name, host in hosts.items() if host["state"] not in {"as_wanted", *accepted}]
    errors = [name for name in bad if hosts[name]["state"] in ("unreachable", "failed")]
    suite = ElementTree.Element(
        "testsuite",
        name="linuxmm.bpf_oom.drift",
        tests=str(len(hosts)),
        failures=str(len(bad) - len(errors)),
        errors=str(len(errors)),
        skipped=str(sum(host["state"] in accepted and host["state"] != "as_wanted" for host in hosts.values())),
    )
    for name, host in sorted(hosts.items()):
        case = ElementTree.SubElement(suite, "testcase", classname="linuxmm.bpf_oom.drift", name=_xml(name))
        if host["state"] == "as_wanted":
            continue
        kind = "skipped" if host["state"] in accepted else "error" if name in errors else "failure"
        found = ElementTree.SubElement(case, kind, message=_xml(f"{WORDS[host['state']]}: {host['why']}"))
        found.text = _xml("\n".join(f"{each['policy']} {each['aspect']}: {each['what']}".strip() for each in host["drift"]))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    return _NO_XML.sub("?", text)


def fleet_json(hosts: Mapping[str, Mapping[str, Any]]) -> str:
    """For machines: the hosts by name, and how many are how."""
    hosts = _hosts(hosts)
    counts = {state: sum(host["state"] == state for host in hosts.values()) for state in STATES}
    return json.dumps({"version": 1, "counts": counts, "hosts": hosts}, indent=1, sort_keys=True) + "\n"


def fleet_bad(hosts: Mapping[str, Mapping[str, Any]], accept: Iterable[str] | str = ()) -> list[str]:
    """The hosts on whose account a check of the fleet has to fail."""
    accepted = {"as_wanted", *_accepted(accept)}
    return sorted(name for name, host in _hosts(hosts).items() if host["state"] not in accepted)


def observing(policies: Mapping[str, Any]) -> dict[str, Any]:
    """The same policies, but all of them in observe mode."""
    if not isinstance(policies, Mapping):
        raise BpfOomError("there are no policies to observe", "give a dictionary of policies by their names")
    return {
        name: {**policy, "params": {**(policy.get("params") or {}), "mode": "observe"}} if isinstance(policy, Mapping) else policy
        for name, policy in policies.items()
    }


def before_change(info: Mapping[str, Any], store_mib: int, memory_mib: int) -> list[str]:
    """Why a host is in no state for a change, from policy_info; its capability is policy_set's business."""
    found = []
    room = info.get("room") or {}
    for what, wanted in (("store", store_mib), ("memory", memory_mib)):
        if room.get(what) is not None and room[what] < wanted << 20:
            found.append(f"{room[what] >> 20} MiB are free for the {what}, {wanted} MiB are wanted")
    found += [f"{name} runs there, too, and kills by rules of its own" for name in info.get("neighbours") or []]
    found += list(info.get("problems") or [])
    found += [f"policy '{name}' has drifted: {_line(policy['why'])}" for name, policy in _drifted(info)]
    return found


def bad_hosts(reasons: Mapping[str, Any]) -> list[str]:
    """A line for each host with reasons against it, and for each of which nothing is known (no list)."""
    known = {name: why if isinstance(why, list) else ["it gave no result"] for name, why in reasons.items()}
    return [f"{name}: {_line(', '.join(map(str, why)))}" for name, why in sorted(known.items()) if why]


def _drifted(info: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, policy) for name, policy in sorted((info.get("policies") or {}).items()) if policy.get("drift")]


def kills_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    """How many processes the policies killed from one policy_info to the next."""

    def count(info: Mapping[str, Any]) -> int:
        return sum(policy["counters"].get("nr_kills", 0) for policy in (info.get("policies") or {}).values())

    return count(after) - count(before)


__all__ = [
    "STATES",
    "WORDS",
    "bad_hosts",
    "before_change",
    "control_path",
    "fleet_bad",
    "fleet_json",
    "fleet_junit",
    "fleet_lines",
    "host_result",
    "kills_between",
    "observing",
]
