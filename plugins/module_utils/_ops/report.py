# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that is on a host, in words and numbers: for policy_info and the CLI."""

from __future__ import annotations

import os
import re
import time
from dataclasses import asdict
from typing import Any

from .._common.errors import BpfOomError
from .._engine.drift import Loaded, observes
from .._engine.engine import Engine, Survey
from .._engine.inactive import Host, Inactive, reasons
from .._engine.loader import lacking
from .._engine.reader import unmatched
from .._kernel.capability import LACKING
from .._kernel.module import Module
from .._store.manifest import Manifest
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
    module = Module(engine.paths)
    problems += module.differences()
    return {
        "capability": survey.capability.report(),
        "policies": describe(engine, survey, decisions),
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


def describe(engine: Engine, survey: Survey, decisions: int = 0) -> dict[str, dict[str, Any]]:
    """Every policy of ours: what its manifest wants, whether it is loaded, and whether it acts so."""
    stored = survey.stored
    host = Host(engine.paths, stored.manifests.values())
    found = {}
    for name in sorted(set(stored.manifests) | set(stored.broken) | set(survey.loaded)):
        manifest, loaded = stored.manifests.get(name), survey.loaded.get(name)
        drift = [stored.broken[name]] if name in stored.broken else []
        inactive: list[Inactive] = []
        if manifest is None:
            drift = drift or ["it is loaded but not persisted"]
            kind = loaded.struct[len("bpf_") : -len("_ops")] if loaded and loaded.struct else None
        else:
            kind = manifest.kind
            drift += engine.reasons(survey, manifest, host.cgroups)
            inactive = reasons(host, manifest, loaded, survey.capability.blocking(manifest.kind))
        bypass = host.bypass(loaded)
        whole = [each for each in inactive if each.whole]
        active = manifest is not None and loaded is not None and not drift and not whole
        # Why a policy is detached is said better by its reason.
        why = [each for each in drift if not (loaded and loaded.detached and each == loaded.problem)]
        why += [each.clause for each in whole]
        told = [{"id": "drift", "whole": True, "sentence": _sentence(each)} for each in drift]
        told += [each.report() for each in inactive]
        unusable = engine.store.object_problem(manifest) if manifest is not None else ""
        if unusable:
            drift.append(f"it will not come back at boot: {unusable}")
            why.append(drift[-1])
        found[name] = {
            "kind": kind,
            "order": manifest.order if manifest else None,
            "program": manifest.program if manifest else None,
            "object": manifest.inputs if manifest else (loaded.rodata.get("object_digest") if loaded else None),
            "params": {key: param["value"] for key, param in manifest.params.items()} if manifest else {},
            "persisted": manifest is not None,
            "loaded": loaded is not None,
            "active": active,
            "observing": bool(manifest and observes(manifest) and loaded and not drift and len(whole) == 1),
            "why": "; ".join(why),
            "limits": [each.sentence for each in inactive if not each.whole],
            "reasons": told,
            "bypassed": asdict(bypass) if bypass else None,
            "drift": drift,
            "counters": loaded.counters if loaded else {},
            "decisions": _decisions(engine, loaded, decisions),
            "link_id": loaded.link_id if loaded else None,
            "tags": loaded.tags if loaded else {},
            "degraded": _degraded(engine, survey, manifest),
            "unmatched": unmatched(engine.paths, manifest) if manifest else [],
        }
    return found


def _sentence(clause: str) -> str:
    return f"{clause[:1].upper()}{clause[1:]}."


def _decisions(engine: Engine, loaded: Loaded | None, most: int) -> list[dict[str, Any]]:
    if engine.lib is None or loaded is None or loaded.problem or not most:
        return []
    return [readable(decision) for decision in read_decisions(engine.lib, loaded, most)]


def _degraded(engine: Engine, survey: Survey, manifest: Manifest | None) -> list[str]:
    """What a policy cannot do on this kernel although it acts."""
    if manifest is None or engine.lib is None or not survey.capability.structs:
        return []
    try:
        missing = lacking(engine.lib, survey.capability, manifest, engine.store.object_bytes(manifest))
    except BpfOomError:
        # An object that cannot be used is told of as such.
        return []
    return [LACKING[name][1] for name in missing]


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
