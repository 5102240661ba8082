# SPDX-License-Identifier: GPL-3.0-or-later
"""From a manifest and an object to a registered policy."""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import sys
from collections.abc import Mapping
from typing import Any

from .._common.errors import BpfOomError
from .._common.params import SELECTORS_SIZE
from .._kernel.capability import LACKING, STRUCTS, Capability
from .._kernel.libbpf import Library, MapInfo
from .._kernel.object import BpfObject
from .._store.manifest import Manifest
from .._store.paths import Paths
from .drift import expected_rodata, scope_globs
from .reader import RECORDERS, new_pins

_SIZES = {"bool": 1, "choice": 4, "u32": 4, "s32": 4, "u64": 8, "s64": 8, "selectors": SELECTORS_SIZE, "weights": SELECTORS_SIZE}
#: Maps that outlive the object that made them: their names in an object, in the kernel (which cuts them), and as pins.
KEPT = {"decisions": "decisions", ".data.counters": "counters"}


#: Numbers of the kernel that policies read by their addresses, in the order of memory.h.
KERNEL_NUMBERS = (
    "_totalram_pages",
    "total_swap_pages",
    "nr_swap_pages",
    "__per_cpu_offset",
    "nr_cpu_ids",
    "percpu_counter_batch",
    "sysctl_bpf_oom_budget_ms",
    "vm_zone_stat",
    "vm_node_stat",
    "totalreserve_pages",
    "node_data",
    "nr_node_ids",
    "contig_page_data",
)


def _of_this_host() -> dict[str, bytes | int]:
    """What the loader knows of the host, by the names of variables that policies may have for it."""
    return {"page_size": os.sysconf("SC_PAGE_SIZE"), "kernel_numbers": _kernel_numbers("/proc/kallsyms")}


@functools.lru_cache(maxsize=1)
def _kernel_numbers(kallsyms: str) -> bytes:
    """Addresses, 0 for what is not known: the kernel hides all with kernel.kptr_restrict 2, and a policy does without them."""
    addresses = dict.fromkeys(KERNEL_NUMBERS, 0)
    with contextlib.suppress(OSError), open(kallsyms, "rb") as symbols:
        for symbol in symbols:
            name = symbol.split(None, 3)[2].decode("ascii", "replace")
            if name in addresses:
                addresses[name] = int(symbol[:16], 16)
    return struct.pack(f"={len(addresses)}Q", *addresses.values())


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


def load(lib: Library, capability: Capability, manifest: Manifest, data: bytes, paths: Paths) -> list[str]:
    """Register a policy and pin it beside the one that is loaded; who fails here calls drop_new().

    What of the loaded one's record could not be kept, and which condition has no meaning on this host, a sentence each.
    """
    if manifest.params.get("averages", {}).get("value") is True and not capability.features["averages"]:
        raise BpfOomError(
            f"policy '{manifest.name}' wants to use the averages, which this kernel does not let BPF do",
            "set averages: false, or boot a kernel with BPF_PSI_AVERAGES",
        )
    told = refuse_unknown_memory(capability, manifest)
    without = lacking(lib, capability, manifest, data)
    with _open(lib, manifest, data) as found:
        _set_parameters(found, manifest)
        ops = found.struct_ops()
        if "name" in ops.members:
            found.write(ops.map_name, ops.members["name"], manifest.name.encode())
        for callback in without:
            # libbpf leaves out a program that no member points to, and a member that is empty.
            found.write(ops.map_name, ops.members[callback], b"")
        fresh, anew = [], told
        for name in KEPT:
            if not found.has_map(name):
                continue
            goes_on, why = _go_on(lib, found, name, paths.pin(manifest.name, KEPT[name]))
            fresh += [] if goes_on else [name]
            anew += [f"Policy '{manifest.name}': its {KEPT[name]} begin anew, as the map cannot be kept: {why}."] if why else []
        found.load()
        os.makedirs(os.path.dirname(paths.pin(manifest.name)), mode=0o700, exist_ok=True)
        for name in fresh:
            found.pin_map(name, paths.pin(manifest.name, KEPT[name], new=True))
        for name in RECORDERS:
            if found.has_program(name):
                found.attach_program(name, paths.pin(manifest.name, name, new=True))
        # The last: with it the policy acts.
        found.attach(paths.pin(manifest.name, new=True))
    return anew


#: Conditions about what only addresses tell.
_NEED_ADDRESSES = ("free_memory_below_percent", "free_swap_below_percent", "free_memory_below_bytes", "free_swap_below_bytes")


def refuse_unknown_memory(capability: Capability, manifest: Manifest) -> list[str]:
    """What a policy is where nothing tells how much memory of the system is free; who asks for that is refused."""
    if capability.features["free_memory"] or "free_memory_below_percent" not in manifest.params:
        return []
    percent, *others = (manifest.params[name]["value"] for name in _NEED_ADDRESSES)
    swap_percent, *sizes = others
    if any(sizes) or 0 < percent < 100 or swap_percent < 100:
        raise BpfOomError(
            f"policy '{manifest.name}' asks how much memory or swap is free, and this kernel hides where it keeps that",
            "set kernel.kptr_restrict to 0 or 1, or leave out free_memory_below and free_swap_below",
        )
    if percent or scope_globs(manifest):
        return []
    return [
        f"Policy '{manifest.name}' acts on pressure however much memory is free, as this kernel hides where it keeps that:"
        " set kernel.kptr_restrict to 0 or 1 and apply it anew."
    ]


def _set_parameters(found: BpfObject, manifest: Manifest) -> None:
    fields = found.rodata()
    wanted = expected_rodata(manifest)
    for name, known in _of_this_host().items():
        if name in fields and (isinstance(known, int) or fields[name].size == len(known)):
            wanted[name] = known
    for name, value in wanted.items():
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


def _go_on(lib: Library, found: BpfObject, name: str, pin: str) -> tuple[bool, str]:
    """Let the object go on with the pinned map, so that counters and decisions outlive a replacement.

    Whether it does, and if not, what of the pinned one is in the way; nothing is where none is pinned.
    """
    if not os.path.lexists(pin):
        return False, ""
    try:
        with lib.fd(f"the pin {pin}", "bpf_obj_get", os.fsencode(pin)) as fd:
            info = MapInfo()
            lib.info(fd, info)
            # libbpf would take over whatever the pinned map has, and the program would count on its own.
            for part, wanted in found.shape(name).items():
                if getattr(info, part) != wanted:
                    return False, f"its {part} is {getattr(info, part)}, and {wanted} with this release"
            with lib.loaded_btf(info.btf_id) as btf:
                if btf.layout(info.btf_value_type_id) != found.btf.layout(found.value_type(name)):
                    return False, "it has another layout with this release"
            found.reuse(name, fd)
    except BpfOomError as error:
        return False, error.cause  # it is no map of ours
    return True, ""


def switch_pins(paths: Paths, name: str) -> None:
    """Put the new pins in the place of the old; the link last, since the old policy goes with its old pin."""
    link = paths.pin(name, new=True)
    for pin in [each for each in new_pins(paths, name) if each != link] + [link]:
        os.rename(pin, pin[: -len("_new")])


def remove_foreign(lib: Library, foreign: Mapping[str, Any]) -> None:
    """Unregister what read_foreign() found; what somebody pinned stays pinned and acts no more."""
    try:
        lib.unregister(foreign["map_id"], foreign["link_id"] or 0)
    except BpfOomError as error:
        raise BpfOomError(
            f"the policies are as wanted, but '{foreign['name']}' of somebody else stays registered: {error.cause}",
            "find out whose it is and end it there, or set foreign: leave",
        ) from None
