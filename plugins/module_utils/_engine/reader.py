# SPDX-License-Identifier: GPL-3.0-or-later
"""What is registered, read from the kernel, and the cgroups that policies are about."""

from __future__ import annotations

import errno
import os
import re
import struct
import sys
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from typing import Any

from .._common.errors import BpfOomError
from .._common.params import as_bytes, check_glob, glob_pattern, path_of
from .._kernel.capability import STRUCTS
from .._kernel.libbpf import KIND_DATASEC, LINK_TYPE_STRUCT_OPS, MAP_TYPE_STRUCT_OPS, Btf, Library, MapInfo
from .._store.manifest import Manifest
from .._store.paths import Paths
from .drift import Loaded, scope_globs

_VALUE_PREFIX = "bpf_struct_ops_"
_STATE_INUSE = 1  # enum bpf_struct_ops_state, in the kernel's bpf.h
#: Programs that write down who really died; a policy acts without them.
RECORDERS = ("decision_victim", "decision_end")
#: Cgroups that a psi policy has room for, see psi.h.
WATCHED_MAX = 256
#: The kernel lets 38 programs look at the end of one function.
CHAIN_MAX = 32


def new_pins(paths: Paths, name: str) -> list[str]:
    """The pins of a policy that a change made and has not switched to."""
    directory = os.path.dirname(paths.pin(name))
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return sorted(os.path.join(directory, each) for each in names if each.endswith("_new"))


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
            found.problem, found.detached = "it is detached", True
        else:
            found.map_id = link.map_id
            _read_ops(lib, paths, found)
            _read_recorders(lib, paths, found, new)
    except BpfOomError as error:
        found.problem = str(error)
    return found


def _read_ops(lib: Library, paths: Paths, found: Loaded) -> None:
    info, value, _frozen = lib.map_value(found.map_id)
    btf = lib.types_of(paths.btf, info)
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
            found.rodata, found.frozen = read_section(lib, map_id, info, ".rodata")
        elif name.endswith((".bss", ".data.counters")):
            values, _frozen = read_section(lib, map_id, info, name[name.index(".") :])
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


def read_section(lib: Library, map_id: int, info: MapInfo, section: str) -> tuple[dict[str, Any], bool]:
    _info, value, frozen = lib.map_value(map_id)
    with lib.loaded_btf(info.btf_id) as btf:
        section_id = info.btf_value_type_id or btf.find(section, KIND_DATASEC)
        return {name: btf.decode(value, field) for name, field in btf.variables(section_id).items()}, frozen


def read_foreign(lib: Library, paths: Paths, own_maps: set[int]) -> list[dict[str, Any]]:
    """OOM and PSI policies that somebody else registered, with a link or without one; what goes meanwhile is not there."""
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
            btf = lib.types_of(paths.btf, info)
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


def matching_cgroups(paths: Paths, manifests: Iterable[Manifest]) -> dict[str, dict[str, int]]:
    """For each glob of a scope the cgroups that it stands for now, by path, with their ids."""
    return {glob: _matching(paths, glob) for glob in {glob for manifest in manifests for glob in scope_globs(manifest)}}


def unmatched(paths: Paths, manifest: Manifest) -> list[str]:
    """Who is named by a parameter of the site's and is nobody now, a sentence each; of the scope see inactive."""
    found = []
    for name, param in sorted(manifest.params.items()):
        if name == "scope" or param["type"] not in ("selectors", "weights") or param.get("default"):
            continue
        for text in param["value"]:
            glob = path_of(text)
            if glob not in ("", "/") and not _matching(paths, glob, memory=False):
                found.append(f"no cgroup matches {text} in its {name} now")
        nobody = [user for user, number in sorted((param.get("users") or {}).items()) if number is None]
        found += [f"this host knew no user {user}, who is in its {name}, when a play last ran here" for user in nobody]
    return found


def without_memory(paths: Paths, globs: Iterable[str]) -> dict[str, str]:
    """The cgroups that globs stand for and that have no memory controller, and which file keeps it from each, '' for none."""
    found = {}
    for glob in globs:
        for path in _matching(paths, glob, memory=False):
            if not os.path.exists(f"{paths.cgroup}{path}/memory.max") and os.path.isdir(paths.cgroup + path):
                found[path] = _lacking_control(paths, path)
    return found


def _lacking_control(paths: Paths, path: str) -> str:
    """The topmost cgroup.subtree_control on the way to a cgroup that does not hand the memory controller down."""
    above = ""
    for component in path.split("/")[1:]:
        control = f"/sys/fs/cgroup{above}/cgroup.subtree_control"
        try:
            if "memory" not in paths.read(control).split():
                return control
        except OSError:
            return ""  # it has gone meanwhile
        above += f"/{component}"
    return ""


def without_pressure(paths: Paths, cgroups: Iterable[str]) -> list[str]:
    """Those of the cgroups in which somebody has switched PSI off; "" is the root."""
    found = []
    for path in cgroups:
        try:
            if paths.read(f"/sys/fs/cgroup{path}/cgroup.pressure").strip() == "0":
                found.append(path)
        except OSError:
            pass  # it has gone meanwhile, or the kernel has no such switch
    return found


def number(paths: Paths, sysctl: str) -> int | None:
    """A sysctl by its path below /proc/sys; None when this kernel does not have it."""
    try:
        return int(paths.read(f"/proc/sys/{sysctl}"))
    except (OSError, ValueError):
        return None


def psi_room(paths: Paths) -> int:
    """How many cgroups one psi policy can watch on this host."""
    return min(WATCHED_MAX, number(paths, "kernel/bpf_psi_max_triggers") or WATCHED_MAX)


def _matching(paths: Paths, glob: str, memory: bool = True) -> dict[str, int]:
    found = [""]
    for component in glob.split("/")[1:]:
        if "*" not in component and "?" not in component:
            found = [f"{path}/{component}" for path in found]
            continue
        pattern = glob_pattern(component)
        found = [f"{path}/{name}" for path in found for name in _children(paths.cgroup + path) if pattern.match(as_bytes(name))]
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
                glob = path_of(text)
                if glob and re.search(r"[*?]", glob) is None and os.path.isfile(paths.cgroup + glob):
                    raise BpfOomError(
                        f"policy '{manifest.name}' names {check_glob(glob)}, a file of the cgroup interface",
                        "name the cgroup that the file is in",
                    )
