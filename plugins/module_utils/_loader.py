# SPDX-License-Identifier: GPL-3.0-or-later
"""From a manifest and an object to a registered policy, and back: what is registered, read from the kernel."""

from __future__ import annotations

import errno
import os
import re
import struct
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from ._capability import LACKING, STRUCTS, Capability
from ._drift import Loaded, expected_rodata, scope_globs, scope_now
from ._errors import BpfOomError
from ._libbpf import KIND_DATASEC, LINK_TYPE_STRUCT_OPS, MAP_TYPE_ARRAY, MAP_TYPE_STRUCT_OPS, BpfObject, Btf, Library, MapInfo
from ._manifest import Manifest
from ._params import SELECTORS_SIZE, check_glob, glob_pattern
from ._paths import Paths

_SIZES = {"bool": 1, "choice": 4, "u32": 4, "s32": 4, "u64": 8, "s64": 8, "selectors": SELECTORS_SIZE, "weights": SELECTORS_SIZE}
_VALUE_PREFIX = "bpf_struct_ops_"
_STATE_INUSE = 1  # enum bpf_struct_ops_state, in the kernel's bpf.h
#: Maps that outlive the object that made them: their names in an object, in the kernel (which cuts them), and as pins.
KEPT = {"decisions": "decisions", ".data.counters": "counters"}
#: Programs that write down who really died; a policy acts without them.
RECORDERS = ("decision_victim", "decision_end")
#: What a psi policy can watch, see psi.h.
WATCHED_MAX = 256
#: The kernel lets 38 programs look at the end of one function.
CHAIN_MAX = 32


def _open(lib: Library, manifest: Manifest, data: bytes) -> BpfObject:
    found = BpfObject(lib, data, manifest.name)
    try:
        ops = found.struct_ops()
        if ops.struct != STRUCTS[manifest.kind]:
            raise BpfOomError(
                f"the object of policy '{manifest.name}' is a {ops.struct}, but the policy's kind is {manifest.kind}",
                f"give a source with a {STRUCTS[manifest.kind]}, or the other kind",
            )
    except BpfOomError:
        found.close()
        raise
    return found


def lacking(lib: Library, capability: Capability, manifest: Manifest, data: bytes) -> list[str]:
    """The callbacks of a policy that this kernel does not have, and that it can do without."""
    missing = [name for name in LACKING if not capability.has(manifest.kind, name)]
    if manifest.kind != "psi" or not missing:
        return []
    with _open(lib, manifest, data) as found:
        return [name for name in missing if found.implements(name)]


def load(lib: Library, capability: Capability, manifest: Manifest, data: bytes, paths: Paths) -> None:
    """Register a policy and pin it beside the one that is loaded; who fails here calls drop_new()."""
    if manifest.params.get("averages", {}).get("value") is True and not capability.features["averages"]:
        raise BpfOomError(
            f"policy '{manifest.name}' wants to use the averages, which this kernel does not let BPF do",
            "set averages: false, or boot a kernel with BPF_PSI_AVERAGES",
        )
    without = lacking(lib, capability, manifest, data)
    with _open(lib, manifest, data) as found:
        _set_parameters(found, manifest)
        ops = found.struct_ops()
        if "name" in ops.members:
            found.write(ops.map_name, ops.members["name"], manifest.name.encode())
        for callback in without:
            # libbpf leaves out a program that no member points to, and a member that is empty.
            found.write(ops.map_name, ops.members[callback], b"")
        fresh = [
            name for name in KEPT if found.has_map(name) and not _go_on(lib, found, name, paths.pin(manifest.name, KEPT[name]))
        ]
        found.load()
        os.makedirs(os.path.dirname(paths.pin(manifest.name)), mode=0o700, exist_ok=True)
        for name in fresh:
            found.pin_map(name, paths.pin(manifest.name, KEPT[name], new=True))
        for name in RECORDERS:
            if found.has_program(name):
                found.attach_program(name, paths.pin(manifest.name, name, new=True))
        # The last: with it the policy acts.
        found.attach(paths.pin(manifest.name, new=True))


def _set_parameters(found: BpfObject, manifest: Manifest) -> None:
    fields = found.rodata()
    for name, value in expected_rodata(manifest).items():
        field = fields.get(name)
        size = _SIZES[manifest.params[name]["type"]] if name in manifest.params else None
        if field is None or (size is not None and field.size != size):
            have = "lacks it" if field is None else f"has {field.size} bytes for it instead of {size}"
            raise BpfOomError(
                f"policy '{manifest.name}' has the parameter '{name}' but its object {have}",
                f"declare `const volatile` {name} as its policy.yml says",
            )
        if isinstance(value, bytes):
            raw = value
        elif isinstance(value, str):
            if found.btf.is_integer(field.type_id) or len(value.encode()) >= field.size:
                raise BpfOomError(
                    f"'{name}' of policy '{manifest.name}' cannot hold {value!r}", "declare it as a longer char array"
                )
            raw = value.encode()
        else:
            if not found.btf.is_integer(field.type_id):
                raise BpfOomError(
                    f"'{name}' of policy '{manifest.name}' is no integer in its object", "declare it as policy.yml says"
                )
            raw = value.to_bytes(field.size, sys.byteorder, signed=value < 0)
        found.write(".rodata", field, raw)


def _go_on(lib: Library, found: BpfObject, name: str, pin: str) -> bool:
    """Let the object go on with the pinned map, so that counters and decisions outlive a replacement; False: it cannot."""
    try:
        with lib.fd(f"the pin {pin}", "bpf_obj_get", os.fsencode(pin)) as fd:
            info = MapInfo()
            lib.info(fd, info)
            with lib.loaded_btf(info.btf_id) as btf:
                if btf.layout(info.btf_value_type_id) != found.btf.layout(found.value_type(name)):
                    return False
            found.reuse(name, fd)
    except BpfOomError:
        return False  # there is none, or it is no map of ours
    return True


def new_pins(paths: Paths, name: str) -> list[str]:
    """The pins of a policy that a change made and has not switched to."""
    directory = os.path.dirname(paths.pin(name))
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return sorted(os.path.join(directory, each) for each in names if each.endswith("_new"))


def switch_pins(paths: Paths, name: str) -> None:
    """Put the new pins in the place of the old; the link last, since the old policy goes with its old pin."""
    link = paths.pin(name, new=True)
    for pin in [each for each in new_pins(paths, name) if each != link] + [link]:
        os.rename(pin, pin[: -len("_new")])


def read(lib: Library, paths: Paths, name: str, new: bool = False) -> Loaded:
    """What is pinned under a name; `problem` says so when it is not ours or does not act."""
    found = Loaded(name)
    pin = paths.pin(name, new=new)
    try:
        link = lib.link_info(pin)
        found.link_id = link.id
        if link.type != LINK_TYPE_STRUCT_OPS:
            found.problem = f"{pin} is no struct_ops link"
        elif not link.map_id:
            found.problem = "the kernel has detached it"
        else:
            found.map_id = link.map_id
            _read_ops(lib, paths, found)
            _read_recorders(lib, paths, found, new)
    except BpfOomError as error:
        found.problem = str(error)
    return found


def _read_ops(lib: Library, paths: Paths, found: Loaded) -> None:
    info, value, _frozen = lib.map_value(found.map_id)
    btf = lib.kernel_btf(paths.btf)
    holder = btf.type(info.btf_vmlinux_value_type_id)
    found.struct = holder.name[len(_VALUE_PREFIX) :]
    data = btf.members(info.btf_vmlinux_value_type_id)["data"]
    callbacks = []
    # All maps of an object have its type information, which is read once.
    with ExitStack() as held:
        for member, field in btf.members(data.type_id).items():
            start = data.offset + field.offset
            if btf.is_callback(field.type_id):
                # The kernel shows the program's id in the place of the function pointer.
                (prog_id,) = struct.unpack("=Q", value[start : start + 8])
                if prog_id:
                    callbacks.append(member)
                    _read_program(lib, found, prog_id, held)
            elif member == "name":
                found.ops_name = value[start : start + field.size].split(b"\0", 1)[0].decode("utf-8", "replace")
    found.callbacks = tuple(callbacks)


def _read_program(lib: Library, found: Loaded, prog_id: int, held: ExitStack) -> None:
    program, map_ids = lib.program(prog_id)
    found.tags[program.name.decode()] = bytes(program.tag).hex()
    for map_id in map_ids:
        if map_id in found.map_ids.values():
            continue
        info = lib.map_info(map_id)
        if info.btf_id:
            held.enter_context(lib.loaded_btf(info.btf_id))
        name = info.name.decode("utf-8", "replace")
        found.map_ids[name if not name.endswith((".rodata", ".bss")) else name[name.index(".") :]] = map_id
        if name.endswith(".rodata") and not found.rodata:
            found.rodata, found.frozen = _read_section(lib, map_id, info, ".rodata")
        elif name.endswith((".bss", ".data.counters")):
            values, _frozen = _read_section(lib, map_id, info, name[name.index(".") :])
            found.counters.update(
                {name: value for name, value in values.items() if name.startswith("nr_") and isinstance(value, int)}
            )
        elif name == "watched":
            found.watched = {int.from_bytes(key, sys.byteorder) for key in lib.map_keys(map_id)}


def _read_recorders(lib: Library, paths: Paths, found: Loaded, new: bool) -> None:
    """The record of victims belongs to policies that keep decisions on OOMs, that is, to those of the skeleton."""
    if "decisions" not in found.map_ids:
        return
    wanted = RECORDERS if found.struct == STRUCTS["oom"] else RECORDERS[:1]
    for name in wanted:
        found.recorders[name] = ""
        try:
            if not lib.link_info(paths.pin(found.name, name, new=new)).prog_id:
                found.recorders[name] = "it is detached"
        except BpfOomError as error:
            found.recorders[name] = error.cause


def _read_section(lib: Library, map_id: int, info: MapInfo, section: str) -> tuple[dict[str, Any], bool]:
    _info, value, frozen = lib.map_value(map_id)
    with lib.loaded_btf(info.btf_id) as btf:
        section_id = info.btf_value_type_id or btf.find(section, KIND_DATASEC)
        return {name: btf.decode(value, field) for name, field in btf.variables(section_id).items()}, frozen


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
    counters, _frozen = _read_section(lib, counters_id, lib.map_info(counters_id), ".data.counters")
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


def read_foreign(lib: Library, paths: Paths, own_maps: set[int]) -> list[dict[str, Any]]:
    """OOM and PSI policies that somebody else registered, with a link or without one; what goes meanwhile is not there."""
    btf = lib.kernel_btf(paths.btf)
    links = {}
    for link_id in lib.ids("link"):
        with suppress(BpfOomError):
            link = lib.link_info_by_id(link_id)
            if link.type == LINK_TYPE_STRUCT_OPS and link.map_id:
                links[link.map_id] = link.id
    found = []
    for map_id in lib.ids("map"):
        with suppress(BpfOomError):
            info = lib.map_info(map_id)
            if info.type != MAP_TYPE_STRUCT_OPS or map_id in own_maps:
                continue
            holder = btf.type(info.btf_vmlinux_value_type_id).name[len(_VALUE_PREFIX) :]
            kind = next((kind for kind, name in STRUCTS.items() if name == holder), "")
            if kind and (map_id in links or _in_use(lib, btf, info, map_id)):
                name = info.name.decode("utf-8", "replace")
                found.append({"map_id": map_id, "name": name, "kind": kind, "link_id": links.get(map_id)})
    return found


def _in_use(lib: Library, btf: Btf, info: MapInfo, map_id: int) -> bool:
    """Whether a map without a link is registered; one that is only loaded, or no longer registered, acts on nothing."""
    common = btf.members(info.btf_vmlinux_value_type_id)["common"]
    state = btf.members(common.type_id)["state"]
    _info, value, _frozen = lib.map_value(map_id)
    start = common.offset + state.offset
    return int.from_bytes(value[start : start + state.size], sys.byteorder) == _STATE_INUSE


def remove_foreign(lib: Library, foreign: Mapping[str, Any]) -> None:
    """Unregister what read_foreign() found; what somebody pinned stays pinned and acts no more."""
    try:
        lib.unregister(foreign["map_id"], foreign["link_id"] or 0)
    except BpfOomError as error:
        raise BpfOomError(
            f"the policies are as wanted, but '{foreign['name']}' of somebody else stays registered: {error.cause}",
            "find out whose it is and end it there, or set foreign: leave",
        ) from None


def matching_cgroups(paths: Paths, manifests: Iterable[Manifest]) -> dict[str, dict[str, int]]:
    """For each glob of a scope the cgroups that it stands for now, by path, with their ids."""
    return {glob: _matching(paths, glob) for glob in {glob for manifest in manifests for glob in scope_globs(manifest)}}


def unmatched(paths: Paths, manifest: Manifest) -> list[str]:
    """Who is named by a parameter of the site's and is nobody now, a sentence each; of the scope see idle()."""
    found = []
    for name, param in sorted(manifest.params.items()):
        if name == "scope" or param["type"] not in ("selectors", "weights") or param.get("default"):
            continue
        for text in param["value"]:
            if text.startswith("/") and text != "/" and not _matching(paths, text, memory=False):
                found.append(f"no cgroup matches {text} in its {name} now")
    return found


def _matching(paths: Paths, glob: str, memory: bool = True) -> dict[str, int]:
    found = [""]
    for component in glob.split("/")[1:]:
        if "*" not in component and "?" not in component:
            found = [f"{path}/{component}" for path in found]
            continue
        pattern = glob_pattern(component)
        found = [f"{path}/{name}" for path in found for name in _children(paths.cgroup + path) if pattern.match(name)]
    ids = {}
    for path in found:
        try:
            status = os.stat(paths.cgroup + path)
        except OSError:
            continue  # there is none, or it has gone meanwhile
        # No policy can do anything in one without the memory controller.
        if not memory or os.path.exists(f"{paths.cgroup}{path}/memory.max"):
            ids[path] = status.st_ino
    return ids


def refuse_many(manifest: Manifest, cgroups: Mapping[str, Mapping[str, int]]) -> None:
    """A psi policy has room for so many cgroups, and the kernel's default is the same."""
    number = len(scope_now(manifest, cgroups)) if manifest.kind == "psi" else 0
    if number > WATCHED_MAX:
        raise BpfOomError(
            f"the scope of policy '{manifest.name}' stands for {number} cgroups",
            f"name {WATCHED_MAX} at most, such as the slice above them",
        )


def _children(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV):
            return []
        raise


def refuse_files(paths: Paths, manifests: Iterable[Manifest]) -> None:
    """A path that is a file of the cgroup interface here will never be a cgroup."""
    for manifest in manifests:
        for param in manifest.params.values():
            for text in param["value"] if param["type"] in ("selectors", "weights") else ():
                full = paths.cgroup + text
                if text.startswith("/") and re.search(r"[*?]", text) is None and os.path.isfile(full):
                    raise BpfOomError(
                        f"policy '{manifest.name}' names {check_glob(text)}, a file of the cgroup interface",
                        "name the cgroup that the file is in",
                    )


__all__ = [
    "lacking",
    "load",
    "matching_cgroups",
    "new_pins",
    "read",
    "read_decisions",
    "read_foreign",
    "read_records",
    "refuse_files",
    "refuse_many",
    "remove_foreign",
    "switch_pins",
    "unmatched",
]
