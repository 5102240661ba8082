# SPDX-License-Identifier: GPL-3.0-or-later
"""What the page of a fleet shows: tables and plots, worked out so that its template only has to write them down."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ._fleet import STATES, WORDS

BINS = 48
#: So many policies or cgroups have a colour of their own in a plot; the rest shares one.
SERIES = 7
_REST = "others"
_STEPS = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 7 * 86400, 30 * 86400)
# The plot, in units of its viewBox.
WIDTH, HEIGHT, LEFT, BOTTOM = 960, 220, 40, 24


def _kills(hosts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each process that died of a policy's decision: when (Unix time), and of which policy, in which cgroup."""
    found = []
    for host in hosts.values():
        if host.get("booted") is None:
            continue
        for policy, state in host["policies"].items():
            for decision in state.get("decisions") or []:
                if decision["outcome"] not in ("killed", "declared"):
                    continue
                time = host["booted"] + decision["time_ns"] / 1e9
                found += [{"time": time, "policy": policy, "cgroup": each["cgroup"] or "/"} for each in decision["died"]]
    return sorted(found, key=lambda kill: (kill["time"], kill["policy"], kill["cgroup"]))


def _time(unix: float, text: str) -> str:
    return datetime.datetime.fromtimestamp(unix, tz=datetime.timezone.utc).strftime(text)


def _plot(kills: list[dict[str, Any]], by: str, now: float) -> dict[str, Any]:
    """Stacked bars over time: rectangles, lines of the grid and a legend, in units of the plot."""
    counts = Counter(kill[by] for kill in kills)
    names = [name for name, _count in counts.most_common(SERIES)]
    if len(counts) > len(names):
        names.append(_REST)
    span = max(now - kills[0]["time"], 1.0)
    step = next((each for each in _STEPS if span / each < BINS), _STEPS[-1] * int(span / _STEPS[-1] / BINS + 1))
    first = int(kills[0]["time"] // step) * step
    bins = min(int((now - first) // step) + 1, BINS + 1)
    table = [Counter[str]() for _bin in range(bins)]
    for kill in kills:
        # A host whose clock is ahead has killed by now at the latest.
        table[min(int((kill["time"] - first) // step), bins - 1)][kill[by] if kill[by] in names else _REST] += 1
    top = max(sum(each.values()) for each in table)
    wide, high = (WIDTH - LEFT) / bins, HEIGHT - BOTTOM - 8
    bars = []
    for number, each in enumerate(table):
        y = float(HEIGHT - BOTTOM)
        for series, name in enumerate(names):
            if not each[name]:
                continue
            tall = each[name] / top * high
            y -= tall
            bars.append(
                {
                    "x": round(LEFT + number * wide + 1, 2),
                    "y": round(y, 2),
                    "width": round(max(wide - 2, 1), 2),
                    "height": round(tall, 2),
                    "series": series,
                    "what": f"{_time(first + number * step, '%Y-%m-%d %H:%M')}, {name}: {each[name]}",
                }
            )
    times = "%Y-%m-%d" if step >= 86400 else "%m-%d %H:%M"
    every = -(-bins // 8)
    return {
        "by": by,
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "base": HEIGHT - BOTTOM,
        "top": top,
        "top_y": 8,
        "bars": bars,
        "times": [
            {"x": round(LEFT + number * wide, 2), "text": _time(first + number * step, times)} for number in range(0, bins, every)
        ],
        "legend": [
            {"series": series, "name": name, "kills": sum(each[name] for each in table)} for series, name in enumerate(names)
        ],
        "step": step,
    }


def _policy_rows(hosts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each policy in each of its versions: how many hosts have it, how many of them act by it."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for host in hosts.values():
        for name, state in host["policies"].items():
            key = (name, state.get("program") or "", (state.get("object") or "")[:12])
            row = rows.setdefault(key, {"name": name, "program": key[1], "object": key[2], "hosts": 0, "active": 0, "kills": 0})
            row["hosts"] += 1
            row["active"] += bool(state.get("active"))
            row["kills"] += (state.get("counters") or {}).get("nr_kills", 0)
    return [rows[key] for key in sorted(rows)]


def fleet_report(hosts: Any, now: float) -> dict[str, Any]:
    """From the results of hosts (host_result) to what the page shows. `now` is Unix time in seconds."""
    if not isinstance(hosts, Mapping):
        raise AnsibleFilterError("linuxmm.bpf_oom.fleet_report wants the results of hosts, keyed by their names")
    kills = _kills(hosts)
    return {
        "made": _time(now, "%Y-%m-%d %H:%M UTC"),
        "total": len(hosts),
        "states": [
            {"state": state, "words": WORDS[state], "count": sum(host["state"] == state for host in hosts.values())}
            for state in STATES
        ],
        "hosts": [
            {
                "name": name,
                "state": host["state"],
                "words": WORDS[host["state"]],
                "why": host["why"],
                "kernel": host["kernel"] or "",
                "drift": host["drift"],
                "policies": [
                    {
                        "name": policy,
                        "active": bool(state.get("active")),
                        "why": state.get("why") or "",
                        "limits": state.get("limits") or [],
                    }
                    for policy, state in sorted(host["policies"].items())
                ],
                "kills": sum((state.get("counters") or {}).get("nr_kills", 0) for state in host["policies"].values()),
            }
            for name, host in sorted(hosts.items())
        ],
        "policies": _policy_rows(hosts),
        "plots": [_plot(kills, by, now) for by in ("policy", "cgroup")] if kills else [],
    }


__all__ = ["fleet_report"]
