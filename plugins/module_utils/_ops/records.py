# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions and counters of policies, read from their pins or from what is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from .._common.errors import BpfOomError
from .._engine.drift import Loaded
from .._engine.reader import read_section
from .._kernel.libbpf import MAP_TYPE_ARRAY, Library, MapInfo
from .._store.paths import Paths


def read_decisions(lib: Library, found: Loaded, most: int) -> list[dict[str, Any]]:
    """The newest decisions of a policy, newest first, as its BTF describes them; reading takes nothing away."""
    map_id = found.map_ids.get("decisions")
    if map_id is None or most <= 0:
        return []
    info = lib.map_info(map_id)
    with lib.loaded_btf(info.btf_id) as btf:
        read_one = btf.reader(info.btf_value_type_id)
        # One that is being written has the number 0.
        whole = [decision for decision in map(read_one, lib.map_values(map_id)) if decision.get("seq")]
    return sorted(whole, key=lambda decision: -int(decision["seq"]))[:most]


@dataclass
class Record:
    """What a policy pins for its readers. `writing`: when the decisions were begun that are not whole yet."""

    decisions: list[dict[str, Any]]
    writing: list[int]
    counters: dict[str, int]
    full: bool  # whether older decisions have been overwritten


def read_records(lib: Library, paths: Paths) -> dict[str, Record]:
    """Decisions and counters of every policy that keeps them, from its pins alone; needs not the kernel's BTF.

    What is pinned may be of another version or of a site's own making: a policy that cannot be read is left out.
    """
    found: dict[str, Record] = {}
    try:
        names = sorted(os.listdir(paths.pins))
    except OSError:
        names = []  # nothing is loaded
    for name in names:
        # A policy acts from its attachment on, and its new pins take their places a moment later.
        for new in (False, True):
            try:
                record = _read_record(lib, paths, name, new)
            except (BpfOomError, OSError, KeyError, TypeError, ValueError):
                continue
            if name in found:
                found[name].decisions += record.decisions
                found[name].writing += record.writing
            else:
                found[name] = record
    return found


def _read_record(lib: Library, paths: Paths, name: str, new: bool) -> Record:
    map_id = _pinned_map(lib, paths.pin(name, "decisions", new))
    info = lib.map_info(map_id)
    if info.type != MAP_TYPE_ARRAY:
        raise BpfOomError(f"the decisions of policy '{name}' are no array", "see who pinned them")
    with lib.loaded_btf(info.btf_id) as btf:
        every = list(map(btf.reader(info.btf_value_type_id), lib.map_values(map_id)))
    counters_id = _pinned_map(lib, paths.pin(name, "counters", new))
    counters, _frozen = read_section(lib, counters_id, lib.map_info(counters_id), ".data.counters")
    used = [decision for decision in every if decision["time_ns"]]
    return Record(
        [decision for decision in used if decision["seq"]],
        [decision["time_ns"] for decision in used if not decision["seq"]],
        {key: value for key, value in counters.items() if isinstance(value, int)},
        len(used) == len(every),
    )


def _pinned_map(lib: Library, pin: str) -> int:
    with lib.fd(f"the pin {pin}", "bpf_obj_get", os.fsencode(pin)) as fd:
        info = MapInfo()
        lib.info(fd, info)
        return int(info.id)
