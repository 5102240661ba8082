# SPDX-License-Identifier: GPL-3.0-or-later
"""The comparison of wanted, persisted and loaded; on plain data, so that it can be read and tested."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Dict, Union

from .._common.params import Param, selectors_bytes
from .._common.text import shown
from .._common.words import loaded_line, param_line
from .._store.manifest import Manifest

Value = Union[int, str, bytes]


class Reason(str):
    """One difference in a sentence; `aspect` says what differs, one of ASPECTS."""

    aspect: str

    def __new__(cls, aspect: str, sentence: str) -> Reason:
        found = super().__new__(cls, sentence)
        found.aspect = aspect
        return found


#: What can differ.
#: source: what was compiled; object: what it was compiled to; manifest: whether and as what a policy is persisted;
#: parameter and mode: persisted or loaded; loaded: what the kernel runs; tags: of its programs; link: whether it is registered;
#: pin: what is pinned beside the link; order: that of the chain; scope: cgroups that it does not watch;
#: set: the persisted set as a whole; foreign: policies that are not ours; capability: what the host cannot do;
#: module: the kernel module that brings the interface to a stock kernel, as a file or as it runs.
ASPECTS = (
    "source",
    "object",
    "manifest",
    "parameter",
    "mode",
    "loaded",
    "tags",
    "link",
    "pin",
    "order",
    "scope",
    "set",
    "foreign",
    "capability",
    "module",
)


def _parameter(name: str) -> str:
    return "mode" if name == "mode" else "parameter"


@dataclass
class Loaded:
    """What the kernel holds under one of our pins."""

    name: str
    link_id: int = 0
    map_id: int = 0
    struct: str = ""
    ops_name: str | None = None  # what the kernel log will call it; psi ops have none
    rodata: dict[str, Value] = field(default_factory=dict)
    frozen: bool = True
    tags: dict[str, str] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    callbacks: Sequence[str] = ()
    map_ids: dict[str, int] = field(default_factory=dict)  # of the maps that policies keep, by name
    watched: set[int] | None = None  # ids of the cgroups that a psi policy watches, None: it does not say
    detached: bool = False  # the kernel holds what is pinned and no longer asks it
    recorders: dict[str, str] = field(default_factory=dict)  # programs of the record, and why one is not attached
    problem: str = ""  # why it could not be read, or does not act


def raw_value(param: Param) -> Value:
    """A parameter as read-only data holds it."""
    if param["type"] in ("selectors", "weights"):
        return selectors_bytes(param)
    value = param["number"] if param["type"] == "choice" else param["value"]
    return int(value) if isinstance(value, bool) else value


def expected_rodata(manifest: Manifest) -> Dict[str, Value]:
    """Everything that the loader writes into read-only data for this manifest."""
    wanted: Dict[str, Value] = {"object_digest": manifest.inputs, "policy_name": manifest.name}
    wanted.update({name: raw_value(param) for name, param in manifest.params.items()})
    return wanted


def _told(param: Param | None) -> Param | None:
    """What a parameter is; its unit is for who reads of it."""
    return {key: value for key, value in param.items() if key != "unit"} if param else None


def persist_reasons(wanted: Manifest, persisted: Manifest | None, broken: str, object_problem: str) -> list[Reason]:
    """Why the persisted policy is not the wanted one."""
    if broken:
        return [Reason("manifest", broken)]
    if persisted is None:
        return [Reason("manifest", "it is not persisted")]
    reasons = []
    for part, aspect in (("kind", "manifest"), ("order", "order"), ("program", "source"), ("source", "source")):
        before, after = getattr(persisted, part), getattr(wanted, part)
        if before != after:
            reasons.append(Reason(aspect, f"the persisted {part} is {before}, wanted {after}"))
    if persisted.inputs != wanted.inputs:
        aspect = "source" if persisted.bundle != wanted.bundle else "object"
        reasons.append(Reason(aspect, f"the persisted object is {persisted.inputs[:12]}, wanted {wanted.inputs[:12]}"))
    elif persisted != wanted and (persisted.object, persisted.bundle, persisted.compiler) != (
        wanted.object,
        wanted.bundle,
        wanted.compiler,
    ):
        reasons.append(Reason("object", "the persisted object has other contents"))
    for name in sorted(set(persisted.params) | set(wanted.params)):
        if _told(persisted.params.get(name)) != _told(wanted.params.get(name)):
            old, new = (
                param_line(name, params[name]) if name in params else "unset" for params in (persisted.params, wanted.params)
            )
            reasons.append(Reason(_parameter(name), f"the persisted parameter {name} is {old}, wanted {new}"))
    if object_problem and not reasons:
        reasons.append(Reason("object", object_problem))
    return reasons


def load_reasons(
    wanted: Manifest,
    loaded: Loaded | None,
    cgroups: Mapping[str, Mapping[str, int]],
    tags_at_load: Mapping[str, str] | None = None,
    unwatchable: Collection[str] = (),
) -> list[Reason]:
    """Why what is loaded is not what is wanted.

    `cgroups`: path and id of those that each glob stands for now. `unwatchable`: those that it could not watch anew, either.
    """
    if loaded is None:
        return [Reason("link", "it is not loaded")]
    if loaded.problem:
        return [Reason("link", loaded.problem)]
    reasons = []
    if loaded.struct != f"bpf_{wanted.kind}_ops":
        reasons.append(Reason("loaded", f"the loaded policy is a {loaded.struct}, wanted bpf_{wanted.kind}_ops"))
    if loaded.ops_name is not None and loaded.ops_name != wanted.name:
        reasons.append(Reason("loaded", f"the kernel log calls it {loaded.ops_name!r}"))
    if not loaded.frozen:
        reasons.append(Reason("loaded", "its read-only data is not frozen"))
    for name, value in expected_rodata(wanted).items():
        found = loaded.rodata.get(name)
        if found == value:
            continue
        if name == "object_digest":
            sentence = f"the loaded object is {str(found)[:12]}, wanted {wanted.inputs[:12]}"
        elif isinstance(found, bytes) and name in wanted.params:
            value = param_line(name, wanted.params[name])
            sentence = f"the loaded parameter {name} is {loaded_line(name, found)}, wanted {value}"
        elif isinstance(found, int) and wanted.params.get(name, {}).get("unit"):
            told = (param_line(name, wanted.params[name], each) for each in (found, value))
            sentence = f"the loaded parameter {name} is {next(told)}, wanted {next(told)}"
        else:
            sentence = f"the loaded parameter {name} is {found!r}, wanted {value!r}"
        reasons.append(Reason("loaded" if name in ("object_digest", "policy_name") else _parameter(name), sentence))
    lost = [(name, why) for name, why in sorted(loaded.recorders.items()) if why]
    reasons += [Reason("pin", f"its record of victims, {name}, is not attached ({why})") for name, why in lost]
    if tags_at_load is not None and tags_at_load != loaded.tags:
        reasons.append(Reason("tags", "its programs are not those that were loaded"))
    if loaded.watched is not None:
        for path, number in sorted(scope_now(wanted, cgroups).items()):
            if number not in loaded.watched and path not in unwatchable:
                reasons.append(Reason("scope", f"it does not watch the cgroup {shown(path)}, which was made after it was loaded"))
    return reasons


def scope_globs(manifest: Manifest) -> list[str]:
    """The cgroups that a policy is about, [] for all."""
    param = manifest.params.get("scope", {})
    return list(param["value"]) if param.get("type") == "selectors" and "/" not in param["value"] else []


def scope_now(manifest: Manifest, cgroups: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Path and id of the cgroups that its scope stands for now."""
    found: dict[str, int] = {}
    for glob in scope_globs(manifest):
        found.update(cgroups.get(glob, {}))
    return found


def observes(manifest: Manifest) -> bool:
    return bool(manifest.params.get("mode", {}).get("value") == "observe")


def renewals(
    chain: Sequence[str], loaded: Mapping[str, Loaded], reasons: Mapping[str, list[Reason]], ordered: bool
) -> dict[str, list[Reason]]:
    """Which policies of a chain to load anew, in order, and why.

    The kernel asks in the order of loading, that is of link ids. So from the first that must be
    loaded anew, or that comes after one with a greater id, everything is loaded anew.
    """
    anew: dict[str, list[Reason]] = {}
    last, last_name = 0, ""
    for name in chain:
        why = list(reasons.get(name, []))
        if not why and ordered:
            if anew:
                why = [Reason("order", f"it comes after {next(reversed(anew))}, which is loaded anew")]
            elif loaded[name].link_id < last:
                why = [Reason("order", f"it was loaded before {last_name}, but comes after it")]
        if why:
            anew[name] = why
        else:
            last, last_name = max(last, loaded[name].link_id), name
    return anew
