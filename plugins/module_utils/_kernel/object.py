# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects, by libbpf: opened from memory, given parameters, loaded, attached and pinned.

Apart from libbpf since a look at a host does without: a module's sources are compiled at each run.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from ctypes import c_char_p, c_size_t
from dataclasses import dataclass
from typing import Any, Dict, Tuple

from .._common.errors import BpfOomError, from_errno
from .libbpf import KIND_DATASEC, KIND_STRUCT, Btf, Field, Library


class _OpenOpts(ctypes.Structure):
    # The leading part of bpf_object_open_opts; libbpf takes `sz` as the end of what is set.
    _fields_ = [("sz", c_size_t), ("object_name", c_char_p)]


@dataclass(frozen=True)
class StructOps:
    """The one struct_ops map of an object."""

    map_name: str
    struct: str
    members: Dict[str, Field]


class BpfObject:
    """An object opened from bytes in memory, so that what was checked is what is loaded."""

    def __init__(self, lib: Library, data: bytes, name: str) -> None:
        self._lib = lib
        self._what = name
        # libelf works on the caller's memory until load.
        self._data = ctypes.create_string_buffer(data, len(data))
        options = _OpenOpts(ctypes.sizeof(_OpenOpts), name.replace("-", "_").encode())
        lib.log()
        self._handle = lib.call("bpf_object__open_mem", self._data, len(data), ctypes.byref(options))
        if not self._handle:
            raise from_errno(f"the object of policy '{name}' cannot be opened", ctypes.get_errno() or errno.EINVAL, lib.log())
        handle = lib.call("bpf_object__btf", self._handle)
        if not handle:
            self.close()
            raise BpfOomError(f"the object of policy '{name}' has no BTF", "compile it with clang -g and without a full strip")
        self.btf = Btf(lib, handle)

    def close(self) -> None:
        self._lib.call("bpf_object__close", self._handle)

    def __enter__(self) -> BpfObject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def struct_ops(self) -> StructOps:
        section = self.btf.find(".struct_ops.link", KIND_DATASEC)
        found = self.btf.variables(section) if section else {}
        if len(found) != 1:
            raise BpfOomError(
                f"the object of policy '{self._what}' has {len(found)} struct_ops maps with a link",
                'give it exactly one, in SEC(".struct_ops.link")',
            )
        name, field = next(iter(found.items()))
        held = self.btf.resolve(field.type_id)
        type_id = self.btf.find(held.name, KIND_STRUCT)
        return StructOps(name, held.name.split("___")[0], self.btf.members(type_id))

    def _initial(self, map_name: str) -> Tuple[int, int]:
        found = self._lib.call("bpf_object__find_map_by_name", self._handle, map_name.encode())
        size = c_size_t(0)
        address = self._lib.call("bpf_map__initial_value", found, ctypes.byref(size)) if found else None
        if not address:
            raise BpfOomError(
                f"the object of policy '{self._what}' has no {map_name} data",
                "declare it as `const volatile` and compile it anew",
            )
        return address, size.value

    def rodata(self) -> Dict[str, Field]:
        section = self.btf.find(".rodata", KIND_DATASEC)
        return self.btf.variables(section) if section else {}

    def write(self, map_name: str, field: Field, data: bytes) -> None:
        """Set a variable or member before load."""
        address, size = self._initial(map_name)
        if field.offset + field.size > size or len(data) > field.size:
            raise BpfOomError(f"a value for {map_name} of policy '{self._what}' does not fit", "compile the policy anew")
        ctypes.memmove(address + field.offset, data.ljust(field.size, b"\0"), field.size)

    def _map(self, name: str) -> Any:
        return self._lib.call("bpf_object__find_map_by_name", self._handle, name.encode())

    def has_map(self, name: str) -> bool:
        return bool(self._map(name))

    def value_type(self, name: str) -> int:
        """The type id of a map's value: that of a section's variables, or what the map's definition says."""
        if name.startswith("."):
            return self.btf.find(name, KIND_DATASEC)
        section = self.btf.find(".maps", KIND_DATASEC)
        held = self.btf.variables(section).get(name) if section else None
        value = self.btf.struct_members(self.btf.resolve(held.type_id)).get("value") if held else None
        return self.btf.resolve(value.type_id).target if value else 0

    def shape(self, name: str) -> Dict[str, int]:
        """What a map is but for its value's type: what a MapInfo calls type, key_size, value_size and max_entries."""
        found = self._map(name)
        return {
            part: int(self._lib.call(f"bpf_map__{part}", found)) for part in ("type", "key_size", "value_size", "max_entries")
        }

    def reuse(self, name: str, fd: int) -> None:
        """Before load: use that map in the place of the object's own."""
        result = int(self._lib.call("bpf_map__reuse_fd", self._map(name), fd))
        if result < 0:
            raise from_errno(f"policy '{self._what}' cannot go on with its map {name}", -result, self._lib.log())

    def pin_map(self, name: str, pin: str) -> None:
        result = int(self._lib.call("bpf_map__pin", self._map(name), os.fsencode(pin)))
        if result < 0:
            raise from_errno(f"the map {name} of policy '{self._what}' cannot be pinned at {pin}", -result, self._lib.log())

    def has_program(self, name: str) -> bool:
        return bool(self._lib.call("bpf_object__find_program_by_name", self._handle, name.encode()))

    def attach_program(self, name: str, pin: str) -> None:
        """Attach a tracing program where its section says, and pin its link."""
        self._lib.log()
        program = self._lib.call("bpf_object__find_program_by_name", self._handle, name.encode())
        link = self._lib.call("bpf_program__attach", program)
        if not link:
            raise from_errno(
                f"the program {name} of policy '{self._what}' cannot be attached", ctypes.get_errno(), self._lib.log()
            )
        self._pin_link(link, pin)

    def implements(self, callback: str) -> bool:
        """Whether the struct_ops map sets this member (libbpf keeps a program's pointer there)."""
        ops = self.struct_ops()
        field = ops.members.get(callback)
        if field is None:
            return False
        address, _size = self._initial(ops.map_name)
        return any(ctypes.string_at(address + field.offset, field.size))

    def load(self) -> None:
        self._lib.log()
        result = int(self._lib.call("bpf_object__load", self._handle))
        if result < 0:
            log = self._lib.log()
            reason = verifier_reason(log)
            if reason:
                raise BpfOomError(
                    f"the kernel's verifier rejected policy '{self._what}': {reason}",
                    "correct the policy's source (the end of the verifier's log is in the details)",
                    _tail(log),
                )
            raise from_errno(f"policy '{self._what}' cannot be loaded{libbpf_reason(log)}", -result, _tail(log))

    def attach(self, pin: str) -> None:
        """Register the struct_ops map and pin its link."""
        self._lib.log()
        name = self.struct_ops().map_name
        found = self._lib.call("bpf_object__find_map_by_name", self._handle, name.encode())
        link = self._lib.call("bpf_map__attach_struct_ops", found)
        if not link and ctypes.get_errno() == errno.ENOSPC:
            raise BpfOomError(
                f"policy '{self._what}' wants to watch more cgroups than the kernel lets one policy watch",
                "name fewer in its scope, or raise the sysctl kernel.bpf_psi_max_triggers",
            )
        if not link:
            raise from_errno(f"the kernel refused to register policy '{self._what}'", ctypes.get_errno(), self._lib.log())
        self._pin_link(link, pin)

    def _pin_link(self, link: Any, pin: str) -> None:
        try:
            result = int(self._lib.call("bpf_link__pin", link, os.fsencode(pin)))
            if result < 0:
                raise from_errno(f"policy '{self._what}' cannot be pinned at {pin}", -result, self._lib.log())
        finally:
            # Closes our reference; the pin, when there is one, keeps the policy registered.
            self._lib.call("bpf_link__destroy", link)


_LOG_BEGIN = "-- BEGIN PROG LOAD LOG --\n"
_LOG_NOISE = ("processed ", "verification time", "stack depth", "max_states")
# A line of the walk through the program (`12: (79) r1 = ...`, `; source`), which is never the reason.
_LOG_WALK = re.compile(r"(from )?[0-9]+[: ]|;")
_LOG_LINES = 60


def verifier_reason(log: str) -> str:
    """The line of the verifier's log that says why, '' when it does not say."""
    if _LOG_BEGIN not in log:
        return ""
    body = log.split(_LOG_BEGIN, 1)[1]
    # A log that filled the buffer has no end mark; what follows it is libbpf's again.
    body = re.split(r"-- END PROG LOAD LOG --|libbpf: ", body, maxsplit=1)[0]
    lines = [line.strip() for line in body.splitlines() if line.strip() and not line.startswith(_LOG_NOISE)]
    return lines[-1] if lines and not _LOG_WALK.match(lines[-1]) else ""


def _tail(log: str) -> str:
    """A log may have sixteen megabytes; its end says enough."""
    lines = log.splitlines()
    return "\n".join(lines if len(lines) <= _LOG_LINES else ["...", *lines[-_LOG_LINES:]])


def libbpf_reason(log: str) -> str:
    """libbpf's first complaint, ready to be appended to a sentence."""
    lines = [line for line in log.splitlines() if line.startswith("libbpf: ")]
    return f" ({lines[0][len('libbpf: ') :]})" if lines else ""
