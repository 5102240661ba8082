# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that loads libbpf (libbpf.so.1, by ctypes) and declares what is called of it.

Small on purpose: BTF look-ups, and the introspection calls that read back what is loaded; objects are
in object. Nothing here knows what a policy is.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from contextlib import contextmanager
from ctypes import POINTER, c_char, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

from .._common.errors import BpfOomError, from_errno
from .._common.text import as_text
from .interface import Plain

SONAME = "libbpf.so.1"
# 1.4 cannot set members of a .struct_ops.link map before load reliably; 1.5 is Debian 13's.
MINIMUM = (1, 5)

KIND_INT, KIND_PTR, KIND_ARRAY, KIND_STRUCT, KIND_ENUM = 1, 2, 3, 4, 6
KIND_TYPEDEF, KIND_VOLATILE, KIND_CONST, KIND_RESTRICT = 8, 9, 10, 11
KIND_FUNC, KIND_FUNC_PROTO, KIND_DATASEC, KIND_TYPE_TAG = 12, 13, 15, 18
_MODIFIERS = (KIND_TYPEDEF, KIND_VOLATILE, KIND_CONST, KIND_RESTRICT, KIND_TYPE_TAG)
_INT_SIGNED = 1

LINK_TYPE_STRUCT_OPS = 9
MAP_TYPE_ARRAY = 2
MAP_TYPE_STRUCT_OPS = 26
_MAX_PROGRAM_MAPS = 64
_KERNEL = "vmlinux"
_NAME_SIZE = 64
# libbpf never asks the verifier for more; the pages are only touched when used.
_LOG_SIZE = 16 << 20


# The leading parts of the kernel's structs; it fills in no more than the given length.
class LinkInfo(ctypes.Structure):
    _fields_ = [("type", c_uint32), ("id", c_uint32), ("prog_id", c_uint32), ("_pad", c_uint32), ("map_id", c_uint32)]


class MapInfo(ctypes.Structure):
    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", c_char * 16),
        ("ifindex", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("netns_dev", c_uint64),
        ("netns_ino", c_uint64),
        ("btf_id", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        # Since Linux 6.9: whose btf_vmlinux_value_type_id is, the kernel's or a module's. 0 before.
        ("btf_vmlinux_id", c_uint32),
    ]


class BtfInfo(ctypes.Structure):
    _fields_ = [
        ("btf", c_uint64),
        ("btf_size", c_uint32),
        ("id", c_uint32),
        ("name", c_uint64),
        ("name_len", c_uint32),
        ("kernel_btf", c_uint32),
    ]


class ProgInfo(ctypes.Structure):
    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", c_uint8 * 8),
        ("jited_prog_len", c_uint32),
        ("xlated_prog_len", c_uint32),
        ("jited_prog_insns", c_uint64),
        ("xlated_prog_insns", c_uint64),
        ("load_time", c_uint64),
        ("created_by_uid", c_uint32),
        ("nr_map_ids", c_uint32),
        ("map_ids", c_uint64),
        ("name", c_char * 16),
    ]


_Info = Union[LinkInfo, MapInfo, ProgInfo, BtfInfo]
_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_U32P = POINTER(c_uint32)
# name: (result, arguments), as libbpf 1.5 declares them.
_PROTOTYPES: Dict[str, Tuple[Any, List[Any]]] = {
    "libbpf_major_version": (c_uint32, []),
    "libbpf_minor_version": (c_uint32, []),
    "libbpf_set_print": (c_void_p, [_PRINT]),
    "btf__parse": (c_void_p, [c_char_p, c_void_p]),
    "btf__parse_split": (c_void_p, [c_char_p, c_void_p]),
    "btf__load_from_kernel_by_id": (c_void_p, [c_uint32]),
    "btf__free": (None, [c_void_p]),
    "btf__type_by_id": (c_void_p, [c_void_p, c_uint32]),
    "btf__name_by_offset": (c_char_p, [c_void_p, c_uint32]),
    "btf__find_by_name_kind": (c_int32, [c_void_p, c_char_p, c_uint32]),
    "btf__resolve_size": (c_int64, [c_void_p, c_uint32]),
    "bpf_object__open_mem": (c_void_p, [c_void_p, c_size_t, c_void_p]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__close": (None, [c_void_p]),
    "bpf_object__btf": (c_void_p, [c_void_p]),
    "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_map__initial_value": (c_void_p, [c_void_p, POINTER(c_size_t)]),
    "bpf_map__attach_struct_ops": (c_void_p, [c_void_p]),
    "bpf_map__fd": (c_int, [c_void_p]),
    "bpf_map__pin": (c_int, [c_void_p, c_char_p]),
    "bpf_map__reuse_fd": (c_int, [c_void_p, c_int]),
    "bpf_map__type": (c_int, [c_void_p]),
    "bpf_map__key_size": (c_uint32, [c_void_p]),
    "bpf_map__value_size": (c_uint32, [c_void_p]),
    "bpf_map__max_entries": (c_uint32, [c_void_p]),
    "bpf_object__find_program_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_program__attach": (c_void_p, [c_void_p]),
    "bpf_link__pin": (c_int, [c_void_p, c_char_p]),
    "bpf_link__destroy": (c_int, [c_void_p]),
    "bpf_map_create": (c_int, [c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p]),
    "bpf_prog_load": (c_int, [c_int, c_char_p, c_char_p, c_char_p, c_size_t, c_void_p]),
    "bpf_obj_get": (c_int, [c_char_p]),
    "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, _U32P]),
    "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_delete_elem": (c_int, [c_int, c_void_p]),
    "bpf_link_detach": (c_int, [c_int]),
    "bpf_map_get_next_key": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_get_next_id": (c_int, [c_uint32, _U32P]),
    "bpf_link_get_next_id": (c_int, [c_uint32, _U32P]),
    "bpf_prog_get_next_id": (c_int, [c_uint32, _U32P]),
    "bpf_map_get_fd_by_id": (c_int, [c_uint32]),
    "bpf_link_get_fd_by_id": (c_int, [c_uint32]),
    "bpf_prog_get_fd_by_id": (c_int, [c_uint32]),
    "bpf_btf_get_fd_by_id": (c_int, [c_uint32]),
}


class BtfType(NamedTuple):
    name: str
    kind: int
    vlen: int
    target: int  # size or type id, by kind
    bitfields: bool
    address: int  # of what follows the common part


class Field(NamedTuple):
    """A struct's member or a section's variable."""

    offset: int
    size: int
    type_id: int


Value = Union[int, str, bytes]
Record = Dict[str, Any]


class Btf:
    """One set of type information; libbpf parses it, this only walks it."""

    def __init__(self, lib: Library, handle: int) -> None:
        self._lib = lib
        self.handle = handle
        # The same few types are asked for again and again, and each answer takes three calls.
        self._types: Dict[int, BtfType] = {}
        self._members: Dict[int, Dict[str, Field]] = {}

    def find(self, name: str, kind: int) -> int:
        """The id of a named type, 0 when there is none."""
        return max(0, int(self._lib.call("btf__find_by_name_kind", self.handle, name.encode(), kind)))

    def type(self, type_id: int) -> BtfType:
        if type_id in self._types:
            return self._types[type_id]
        address = self._lib.call("btf__type_by_id", self.handle, type_id)
        if not address:
            raise BpfOomError(f"BTF has no type {type_id}", "compile the policy anew")
        name_off, info, target = struct.unpack("=III", ctypes.string_at(address, 12))
        name = self._lib.call("btf__name_by_offset", self.handle, name_off) or b""
        found = BtfType(name.decode(), (info >> 24) & 0x1F, info & 0xFFFF, target, bool(info >> 31), address + 12)
        self._types[type_id] = found
        return found

    def resolve(self, type_id: int) -> BtfType:
        """The type behind typedefs and qualifiers."""
        found = self.type(type_id)
        while found.kind in _MODIFIERS:
            found = self.type(found.target)
        return found

    def size(self, type_id: int) -> int:
        return int(self._lib.call("btf__resolve_size", self.handle, type_id))

    def members(self, type_id: int) -> Dict[str, Field]:
        """The named members of a struct, offsets in bytes."""
        if type_id not in self._members:
            self._members[type_id] = self.struct_members(self.type(type_id))
        return self._members[type_id]

    def struct_members(self, parent: BtfType) -> Dict[str, Field]:
        found = {}
        for index in range(parent.vlen):
            name_off, member, bits = struct.unpack("=III", ctypes.string_at(parent.address + 12 * index, 12))
            name = (self._lib.call("btf__name_by_offset", self.handle, name_off) or b"").decode()
            offset = (bits & 0xFFFFFF if parent.bitfields else bits) // 8
            found[name] = Field(offset, self.size(member), member)
        return found

    def variables(self, section_id: int) -> Dict[str, Field]:
        """The variables of a data section."""
        parent = self.type(section_id)
        found = {}
        for index in range(parent.vlen):
            variable, offset, size = struct.unpack("=III", ctypes.string_at(parent.address + 12 * index, 12))
            held = self.type(variable)
            found[held.name] = Field(offset, size, held.target)
        return found

    def is_callback(self, type_id: int) -> bool:
        found = self.resolve(type_id)
        return found.kind == KIND_PTR and self.resolve(found.target).kind == KIND_FUNC_PROTO

    def behind(self, type_id: int) -> Plain:
        found = self.resolve(type_id)
        return Plain(found.name, found.kind, found.target, self._encoding(found) if found.kind == KIND_INT else 0)

    def parameters(self, proto_id: int) -> List[int]:
        found = self.type(proto_id)
        raw = ctypes.string_at(found.address, 8 * found.vlen) if found.kind == KIND_FUNC_PROTO else b""
        return [type_id for _name, type_id in struct.iter_unpack("=II", raw)]

    def callback(self, type_id: int) -> int:
        """The FUNC_PROTO that a member points to, 0 when it is no callback."""
        if not self.is_callback(type_id):
            return 0
        proto = self.resolve(type_id).target
        while self.type(proto).kind in _MODIFIERS:
            proto = self.type(proto).target
        return proto

    def is_integer(self, type_id: int) -> bool:
        return self.resolve(type_id).kind == KIND_INT

    def _encoding(self, found: BtfType) -> int:
        return int(struct.unpack("=I", ctypes.string_at(found.address, 4))[0] >> 24)

    def _is_signed(self, found: BtfType) -> bool:
        return bool(self._encoding(found) & _INT_SIGNED)

    def _element(self, found: BtfType) -> Tuple[int, int]:
        """An array's element type and their number."""
        element, _index, number = struct.unpack("=III", ctypes.string_at(found.address, 12))
        return element, number

    def decode(self, data: bytes, field: Field) -> Value:
        """An integer or a text; anything else as it is."""
        raw = data[field.offset : field.offset + field.size]
        found = self.resolve(field.type_id)
        if found.kind == KIND_INT:
            return int.from_bytes(raw, sys.byteorder, signed=self._is_signed(found))
        if found.kind == KIND_ARRAY and self.size(self._element(found)[0]) == 1:
            return as_text(raw.split(b"\0", 1)[0])
        return raw

    def reader(self, type_id: int) -> Callable[[bytes], Any]:
        """Makes integers, texts, lists and dictionaries of a type's bytes; looks at BTF only once."""
        found = self.resolve(type_id)
        if found.kind == KIND_INT:
            signed = self._is_signed(found)
            return lambda raw: int.from_bytes(raw, sys.byteorder, signed=signed)
        if found.kind == KIND_ARRAY:
            element, number = self._element(found)
            size = self.size(element)
            if size == 1:
                return lambda raw: as_text(raw.split(b"\0", 1)[0])
            each = self.reader(element)
            return lambda raw: [each(raw[size * index : size * (index + 1)]) for index in range(number)]
        if found.kind == KIND_STRUCT:
            parts = [
                (name, field.offset, field.offset + field.size, self.reader(field.type_id))
                for name, field in self.struct_members(found).items()
            ]
            return lambda raw: {name: read(raw[start:end]) for name, start, end, read in parts}
        return lambda raw: raw

    def layout(self, type_id: int) -> Any:
        """What makes two types the same to a reader, whoever compiled them."""
        found = self.resolve(type_id)
        if found.kind == KIND_ARRAY:
            element, number = self._element(found)
            return [number, self.layout(element)]
        if found.kind == KIND_STRUCT:
            members = self.struct_members(found)
            return {name: [field.offset, self.layout(field.type_id)] for name, field in members.items()}
        if found.kind == KIND_DATASEC:
            return {name: [field.offset, self.layout(field.type_id)] for name, field in self.variables(type_id).items()}
        return [found.kind, self.size(type_id)]


class Library:
    """libbpf, loaded and checked."""

    def __init__(self, minimum: Tuple[int, int] = MINIMUM, soname: str = SONAME) -> None:
        wanted = ".".join(str(part) for part in minimum)
        try:
            self._library = ctypes.CDLL(soname, use_errno=True)
        except OSError:
            raise BpfOomError(
                f"{soname} is not installed", f"install libbpf {wanted} or later (package libbpf1 on Debian 13)"
            ) from None
        self._functions: Dict[str, Any] = {}
        self.messages: List[str] = []
        found = (self.call("libbpf_major_version"), self.call("libbpf_minor_version"))
        self.version = f"{found[0]}.{found[1]}"
        if found < minimum:
            raise BpfOomError(
                f"libbpf {self.version} is too old",
                f"install libbpf {wanted} or later (Debian 13 has 1.5), it is the oldest that works",
            )
        libc = ctypes.CDLL(None)
        self._vsnprintf = libc.vsnprintf
        self._vsnprintf.argtypes = [c_void_p, c_size_t, c_char_p, c_void_p]
        # libbpf keeps the pointer: so must we.
        self._callback = _PRINT(self._print)
        self.call("libbpf_set_print", self._callback)
        self._kernel_btf: Dict[str, Btf] = {}
        self._btf_names: Dict[int, str] = {}
        self._loaded_btf: Dict[int, Btf] = {}

    def _print(self, level: int, template: bytes, arguments: int) -> int:
        # `arguments` is a va_list: passed by reference on every 64-bit ABI of Linux, so a pointer will do.
        if level <= 1:
            buffer = ctypes.create_string_buffer(_LOG_SIZE)
            self._vsnprintf(buffer, _LOG_SIZE, template, arguments)
            self.messages.append(buffer.value.decode("utf-8", "replace"))
        return 0

    def call(self, name: str, *arguments: Any) -> Any:
        function = self._functions.get(name)
        if function is None:
            function = getattr(self._library, name)
            function.restype, function.argtypes = _PROTOTYPES[name]
            self._functions[name] = function
        ctypes.set_errno(0)
        return function(*arguments)

    def log(self) -> str:
        """What libbpf and the verifier said since the last call of this."""
        text, self.messages = "".join(self.messages), []
        return text

    def kernel_btf(self, path: str, base: Optional[Btf] = None) -> Btf:
        """The types in a file of the kernel's; those of a module stand on the kernel's own, its base."""
        if path not in self._kernel_btf:
            if base is None:
                handle = self.call("btf__parse", os.fsencode(path), None)
            else:
                handle = self.call("btf__parse_split", os.fsencode(path), base.handle)
            if not handle:
                raise from_errno(
                    f"the kernel's type information {path} cannot be read", ctypes.get_errno() or errno.EINVAL, self.log()
                )
            self._kernel_btf[path] = Btf(self, handle)
        return self._kernel_btf[path]

    def types_of(self, path: str, info: MapInfo) -> Btf:
        """The types that a struct_ops map's value is of: the kernel's, in the file `path`, or those of a module beside it."""
        kernel = self.kernel_btf(path)
        name = self._btf_name(info.btf_vmlinux_id) if info.btf_vmlinux_id else _KERNEL
        if name == _KERNEL:
            return kernel
        return self.kernel_btf(os.path.join(os.path.dirname(path), name), kernel)

    def _btf_name(self, btf_id: int) -> str:
        if btf_id not in self._btf_names:
            name = ctypes.create_string_buffer(_NAME_SIZE)
            found = BtfInfo(name=ctypes.addressof(name), name_len=_NAME_SIZE)
            with self.fd(f"the type information {btf_id}", "bpf_btf_get_fd_by_id", btf_id) as fd:
                self.info(fd, found)
            self._btf_names[btf_id] = name.value.decode("utf-8", "replace")
        return self._btf_names[btf_id]

    @contextmanager
    def loaded_btf(self, btf_id: int) -> Iterator[Btf]:
        """What describes an object that is loaded; whoever asks for it within gets the same."""
        if btf_id in self._loaded_btf:
            yield self._loaded_btf[btf_id]
            return
        handle = self.call("btf__load_from_kernel_by_id", btf_id)
        if not handle:
            raise from_errno(f"the type information {btf_id} of a loaded program cannot be read", ctypes.get_errno())
        self._loaded_btf[btf_id] = Btf(self, handle)
        try:
            yield self._loaded_btf[btf_id]
        finally:
            del self._loaded_btf[btf_id]
            self.call("btf__free", handle)

    @contextmanager
    def fd(self, what: str, name: str, argument: Union[bytes, int]) -> Iterator[int]:
        number = int(self.call(name, argument))
        if number < 0:
            raise from_errno(f"{what} cannot be opened", -number)
        try:
            yield number
        finally:
            os.close(number)

    def info(self, fd: int, into: _Info) -> None:
        length = c_uint32(ctypes.sizeof(into))
        result = int(self.call("bpf_obj_get_info_by_fd", fd, ctypes.byref(into), ctypes.byref(length)))
        if result < 0:
            raise from_errno("the kernel does not describe a BPF object", -result)

    def link_info(self, pin: str) -> LinkInfo:
        found = LinkInfo()
        with self.fd(f"the pin {pin}", "bpf_obj_get", os.fsencode(pin)) as fd:
            self.info(fd, found)
        return found

    def map_value(self, map_id: int) -> Tuple[MapInfo, bytes, bool]:
        """What a map is, its value under key 0, and whether user space may still write to it."""
        found = MapInfo()
        with self.fd(f"the BPF map {map_id}", "bpf_map_get_fd_by_id", map_id) as fd:
            self.info(fd, found)
            value = ctypes.create_string_buffer((int(found.value_size) + 7) & ~7)
            result = int(self.call("bpf_map_lookup_elem", fd, ctypes.byref(c_uint32(0)), value))
            if result < 0:
                raise from_errno(f"the value of BPF map {map_id} cannot be read", -result)
            with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
                frozen = "frozen:\t1\n" in file.read()
        return found, value.raw[: found.value_size], frozen

    def map_values(self, map_id: int) -> Iterator[bytes]:
        """The values of an array, from the first to the last."""
        found = MapInfo()
        with self.fd(f"the BPF map {map_id}", "bpf_map_get_fd_by_id", map_id) as fd:
            self.info(fd, found)
            value = ctypes.create_string_buffer((int(found.value_size) + 7) & ~7)
            for index in range(found.max_entries):
                result = int(self.call("bpf_map_lookup_elem", fd, ctypes.byref(c_uint32(index)), value))
                if result < 0:
                    raise from_errno(f"the value {index} of BPF map {map_id} cannot be read", -result)
                yield value.raw[: found.value_size]

    def map_keys(self, map_id: int) -> Iterator[bytes]:
        """The keys of a hash. Other programs change it meanwhile, so none may be missing that stayed all the time."""
        found = MapInfo()
        with self.fd(f"the BPF map {map_id}", "bpf_map_get_fd_by_id", map_id) as fd:
            self.info(fd, found)
            key = ctypes.create_string_buffer(int(found.key_size))
            result = int(self.call("bpf_map_get_next_key", fd, None, key))
            # A key that goes away makes the kernel begin anew: bounded, lest it never ends.
            for _key in range(2 * int(found.max_entries)):
                if result < 0:
                    return
                yield key.raw
                result = int(self.call("bpf_map_get_next_key", fd, key, key))

    def map_info(self, map_id: int) -> MapInfo:
        found = MapInfo()
        with self.fd(f"the BPF map {map_id}", "bpf_map_get_fd_by_id", map_id) as fd:
            self.info(fd, found)
        return found

    def link_info_by_id(self, link_id: int) -> LinkInfo:
        found = LinkInfo()
        with self.fd(f"the BPF link {link_id}", "bpf_link_get_fd_by_id", link_id) as fd:
            self.info(fd, found)
        return found

    def unregister(self, map_id: int, link_id: int) -> None:
        """Unregister a struct_ops map: detach its link, or, with link_id 0, take away its value, as it was registered by that."""
        if link_id:
            with self.fd(f"the BPF link {link_id}", "bpf_link_get_fd_by_id", link_id) as fd:
                result = int(self.call("bpf_link_detach", fd))
        else:
            with self.fd(f"the BPF map {map_id}", "bpf_map_get_fd_by_id", map_id) as fd:
                result = int(self.call("bpf_map_delete_elem", fd, ctypes.byref(c_uint32(0))))
        if result < 0:
            raise from_errno(f"the BPF map {map_id} cannot be unregistered", -result)

    def program(self, prog_id: int) -> Tuple[ProgInfo, List[int]]:
        """A program and the ids of the maps it uses."""
        found = ProgInfo()
        ids = (c_uint32 * _MAX_PROGRAM_MAPS)()
        found.nr_map_ids = _MAX_PROGRAM_MAPS
        found.map_ids = ctypes.addressof(ids)
        with self.fd(f"the BPF program {prog_id}", "bpf_prog_get_fd_by_id", prog_id) as fd:
            self.info(fd, found)
        return found, list(ids[: found.nr_map_ids])

    def ids(self, what: str) -> Iterator[int]:
        """The ids of all loaded objects, `what` being prog, map or link."""
        following = c_uint32(0)
        while True:
            result = int(self.call(f"bpf_{what}_get_next_id", following.value, ctypes.byref(following)))
            if result == -errno.ENOENT:
                return
            if result < 0:
                raise from_errno(f"the kernel's BPF {what}s cannot be listed", -result)
            yield following.value


__all__ = ["MINIMUM", "Btf", "Field", "Library", "Value"]
