# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that is on a host, in words and numbers: for policy_info and the CLI."""

from __future__ import annotations

import os
import re
import time
from typing import Any

from .._engine.describe import describe
from .._engine.drift import Loaded
from .._engine.engine import Engine
from .._kernel.module import Module
from .._store.paths import UNIT, Paths
from .decisions import readable
from .records import read_decisions

#: Daemons that kill for want of memory, as /proc/PID/comm calls them.
OTHER_KILLERS = ("systemd-oomd", "earlyoom", "oomd", "nohang")


def report(engine: Engine, decisions: int = 0, wait: bool = True) -> dict[str, Any]:
    """Everything that is, with so many decisions of each policy: for policy_info and the CLI.

    Without `wait` a change that is being made may be told as one that was interrupted.
    """
    survey = engine.survey()
    if wait and (survey.unfinished or survey.stray or survey.leftovers):
        # It may be a change that is being made: what stays when nobody makes one was left.
        with engine.locked(check=True):
            survey = engine.survey()
    problems = [survey.stored.problem] if survey.stored.problem else []
    problems += [f"an interrupted change of policy '{name}' left a second pin" for name in survey.unfinished]
    problems += [f"an interrupted change left {engine.paths.state}/{name}" for name in survey.leftovers]
    # Those of a persisted policy wait for it: its counters go on.
    gone = [name for name in survey.stray if name not in survey.stored.manifests and name not in survey.unfinished]
    problems += [f"pins of policy '{name}' are left, which is neither loaded nor persisted" for name in gone]
    policies = describe(engine, survey)
    for name, policy in policies.items():
        policy["decisions"] = _decisions(engine, survey.loaded.get(name), decisions)
    module = Module(engine.paths)
    problems += module.differences()
    return {
        "capability": survey.capability.report(),
        "policies": policies,
        "foreign": engine.foreign(survey),
        "neighbours": neighbours(engine.paths),
        "room": room(engine.paths),
        "pressure": pressure(engine.paths),
        "booted": time.time() - time.clock_gettime(time.CLOCK_BOOTTIME),
        "problems": problems,
        "module": module.report(),
        "boot_unit": boot_unit(engine.paths),
        "libbpf": survey.capability.libbpf,
    }


def _decisions(engine: Engine, loaded: Loaded | None, most: int) -> list[dict[str, Any]]:
    if engine.lib is None or loaded is None or loaded.problem or not most:
        return []
    return [readable(decision) for decision in read_decisions(engine.lib, loaded, most)]


def neighbours(paths: Paths) -> list[str]:
    """The other OOM daemons that run here: they kill by rules of their own."""
    found = set()
    for name in os.listdir(paths.at("/proc")) if os.path.isdir(paths.at("/proc")) else ():
        try:
            comm = paths.read(f"/proc/{name}/comm").strip() if name.isdigit() else ""
        except OSError:
            continue  # it has ended meanwhile
        if comm in OTHER_KILLERS:
            found.add(comm)
    return sorted(found)


def room(paths: Paths) -> dict[str, int | None]:
    """Bytes that are free for the store and available as memory; None: it cannot be told."""
    found: dict[str, int | None] = {"store": None, "memory": None}
    try:
        disk = os.statvfs(os.path.dirname(paths.state))
        found["store"] = disk.f_bavail * disk.f_frsize
        match = re.search(r"^MemAvailable:\s+(\d+) kB$", paths.read("/proc/meminfo"), re.MULTILINE)
        found["memory"] = int(match[1]) * 1024 if match else None
    except OSError:
        pass
    return found


def pressure(paths: Paths) -> dict[str, float]:
    """The averages of the system's memory pressure over a minute, in percent, by level; empty without PSI."""
    try:
        text = paths.read("/proc/pressure/memory")
    except OSError:
        return {}
    return {level: float(value) for level, value in re.findall(r"^(some|full) .*avg60=([0-9.]+)", text, re.MULTILINE)}


def boot_unit(paths: Paths) -> dict[str, bool]:
    """Whether systemd will load the persisted set at boot, read from its directories."""
    installed = any(
        os.path.exists(paths.at(f"{directory}/{UNIT}"))
        for directory in ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
    )
    etc = paths.at("/etc/systemd/system")
    wants = [name for name in os.listdir(etc) if name.endswith((".wants", ".requires"))] if os.path.isdir(etc) else []
    return {
        "installed": installed,
        "enabled": installed and any(os.path.lexists(os.path.join(etc, name, UNIT)) for name in wants),
    }
