# SPDX-License-Identifier: GPL-3.0-or-later
"""From a manifest and an object to a registered policy, and back: what is registered, read from the kernel."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ._capability import LACKING, STRUCTS, Capability
from ._drift import Loaded, expected_rodata
from ._errors import BpfOomError
from ._libbpf import KIND_DATASEC, LINK_TYPE_STRUCT_OPS, MAP_TYPE_STRUCT_OPS, BpfObject, Library, MapInfo
from ._manifest import Manifest
from ._paths import Paths

_SIZES = {"bool": 1, "choice": 4, "u32": 4, "s32": 4, "u64": 8, "s64": 8, "cgroup": 512}
_VALUE_PREFIX = "bpf_struct_ops_"


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


def may_wait(lib: Library, capability: Capability, manifest: Manifest, data: bytes) -> bool:
    """Whether the loaded policy itself will notice when its cgroup appears."""
    if not capability.has(manifest.kind, "handle_cgroup_online"):
        return False
    with _open(lib, manifest, data) as found:
        return found.implements("handle_cgroup_online")


def lacking(lib: Library, capability: Capability, manifest: Manifest, data: bytes) -> list[str]:
    """The callbacks of a policy that this kernel does not have, and that it can do without."""
    missing = [name for name in LACKING if not capability.has(manifest.kind, name)]
    if manifest.kind != "psi" or not missing:
        return []
    with _open(lib, manifest, data) as found:
        return [name for name in missing if found.implements(name)]


def load(lib: Library, capability: Capability, manifest: Manifest, data: bytes, cgroup_ids: Mapping[str, int], pin: str) -> None:
    """Register a policy and pin it; nothing stays behind when this fails."""
    if manifest.params.get("averages", {}).get("value") is True and not capability.features["averages"]:
        raise BpfOomError(
            f"policy '{manifest.name}' wants to use the averages, which this kernel does not let BPF do",
            "set averages: false, or boot a kernel with BPF_PSI_AVERAGES",
        )
    without = lacking(lib, capability, manifest, data)
    with _open(lib, manifest, data) as found:
        fields = found.rodata()
        for name, value in expected_rodata(manifest, cgroup_ids).items():
            field = fields.get(name)
            size = _SIZES[manifest.params[name]["type"]] if name in manifest.params else None
            if field is None or (size is not None and field.size != size):
                have = "lacks it" if field is None else f"has {field.size} bytes for it instead of {size}"
                raise BpfOomError(
                    f"policy '{manifest.name}' has the parameter '{name}' but its object {have}",
                    f"declare `const volatile` {name} as its policy.yml says",
                )
            if isinstance(value, str):
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
        ops = found.struct_ops()
        if "name" in ops.members:
            found.write(ops.map_name, ops.members["name"], manifest.name.encode())
        for callback in without:
            # libbpf leaves out a program that no member points to, and a member that is empty.
            found.write(ops.map_name, ops.members[callback], b"")
        found.load()
        os.makedirs(os.path.dirname(pin), mode=0o700, exist_ok=True)
        found.attach(pin)


def read(lib: Library, paths: Paths, name: str, pin: str) -> Loaded:
    """What is pinned there; `problem` says so when it is not ours or does not act."""
    found = Loaded(name)
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
    for member, field in btf.members(data.type_id).items():
        start = data.offset + field.offset
        if btf.is_callback(field.type_id):
            # The kernel shows the program's id in the place of the function pointer.
            (prog_id,) = struct.unpack("=Q", value[start : start + 8])
            if prog_id:
                callbacks.append(member)
                _read_program(lib, found, prog_id)
        elif member == "name":
            found.ops_name = value[start : start + field.size].split(b"\0", 1)[0].decode("utf-8", "replace")
    found.callbacks = tuple(callbacks)


def _read_program(lib: Library, found: Loaded, prog_id: int) -> None:
    program, map_ids = lib.program(prog_id)
    found.tags[program.name.decode()] = bytes(program.tag).hex()
    for map_id in map_ids:
        info = lib.map_info(map_id)
        section = next((each for each in (".rodata", ".bss") if info.name.endswith(each.encode())), "")
        if section == ".rodata" and not found.rodata:
            found.rodata, found.frozen = _read_section(lib, map_id, info, section)
        elif section == ".bss" and not found.counters:
            values, _frozen = _read_section(lib, map_id, info, section)
            found.counters = {name: value for name, value in values.items() if name.startswith("nr_") and isinstance(value, int)}


def _read_section(lib: Library, map_id: int, info: MapInfo, section: str) -> tuple[dict[str, Any], bool]:
    _info, value, frozen = lib.map_value(map_id)
    with lib.loaded_btf(info.btf_id) as btf:
        section_id = info.btf_value_type_id or btf.find(section, KIND_DATASEC)
        decoded = {name: btf.decode(value, field) for name, field in btf.variables(section_id).items()}
    return {name: each for name, each in decoded.items() if each is not None}, frozen


def read_foreign(lib: Library, paths: Paths, own_maps: set[int]) -> list[dict[str, Any]]:
    """OOM and PSI policies that somebody else registered, with a link or without one."""
    btf = lib.kernel_btf(paths.btf)
    links = {}
    for link_id in lib.ids("link"):
        link = lib.link_info_by_id(link_id)
        if link.type == LINK_TYPE_STRUCT_OPS and link.map_id:
            links[link.map_id] = link.id
    found = []
    for map_id in lib.ids("map"):
        info = lib.map_info(map_id)
        if info.type != MAP_TYPE_STRUCT_OPS or map_id in own_maps:
            continue
        holder = btf.type(info.btf_vmlinux_value_type_id).name[len(_VALUE_PREFIX) :]
        kind = next((kind for kind, name in STRUCTS.items() if name == holder), "")
        if kind:
            found.append({"map_id": map_id, "name": info.name.decode(), "kind": kind, "link_id": links.get(map_id)})
    return found


def cgroup_ids(paths: Paths, manifests: Iterable[Manifest]) -> dict[str, int]:
    """The ids of the cgroups that exist now among those that the manifests name."""
    found = {}
    for path in {path for manifest in manifests for path in cgroup_paths(manifest)}:
        full = os.path.join(paths.cgroup, path.lstrip("/"))
        if os.path.isdir(full):
            found[path] = os.stat(full).st_ino
    return found


def refuse_files(paths: Paths, manifests: Iterable[Manifest]) -> None:
    """A path that is a file of the cgroup interface here will never be a cgroup."""
    for manifest in manifests:
        for path in cgroup_paths(manifest):
            full = os.path.join(paths.cgroup, path.lstrip("/"))
            if os.path.exists(full) and not os.path.isdir(full):
                raise BpfOomError(
                    f"policy '{manifest.name}' names {path}, a file of the cgroup interface",
                    "name the cgroup that the file is in",
                )


def cgroup_paths(manifest: Manifest) -> list[str]:
    return [param["value"] for param in manifest.params.values() if param["type"] == "cgroup" and param["value"]]


__all__ = ["cgroup_ids", "lacking", "load", "may_wait", "read", "read_foreign", "refuse_files"]
