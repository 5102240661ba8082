# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether objects will load on a kernel that does not run, of which only the BTF is known.

Follows what libbpf does at load: callbacks, kfuncs, tracepoints and CO-RE relocations are looked for in the BTF, by the rules of
libbpf's relo_core.c. What a verifier says of the programs cannot be known without that kernel.
"""

from __future__ import annotations

import ctypes
import lzma
import os
import re
import stat
import struct
import zlib
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from .._common.errors import BpfOomError
from .capability import LACKING, STRUCTS
from .interface import Plain, arguments, clash

_MAGIC = 0xEB9F
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF = 1, 2, 3, 4, 5, 6, 7, 8
_VOLATILE, _CONST, _RESTRICT, _FUNC, _PROTO, _VAR, _DATASEC, _FLOAT = 9, 10, 11, 12, 13, 14, 15, 16
_DECL_TAG, _TYPE_TAG, _ENUM64 = 17, 18, 19
_WRAPPERS = (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG)
# Bytes behind the 12 of each type: so many, and so many for each of its elements.
_TAIL = {
    **dict.fromkeys((_PTR, _FWD, *_WRAPPERS, _FUNC, _FLOAT), (0, 0)),
    **dict.fromkeys((_INT, _VAR, _DECL_TAG), (4, 0)),
    _ARRAY: (12, 0),
    **dict.fromkeys((_STRUCT, _UNION, _DATASEC, _ENUM64), (0, 12)),
    **dict.fromkeys((_ENUM, _PROTO), (0, 8)),
}
# Kinds of relocations, enum bpf_core_relo_kind.
_FIELD_EXISTS, _TYPE_ID_LOCAL, _TYPE_EXISTS, _ENUMVAL_EXISTS, _TYPE_MATCHES = 2, 6, 8, 10, 12
_ASKS = (_FIELD_EXISTS, _TYPE_EXISTS, _ENUMVAL_EXISTS, _TYPE_MATCHES)
# What programs read of the first where it exists, and of the second else, see bpf/include/bpf_oom/abi.h.
_INSTEAD_OF = {"bpf_psi_event": "psi_trigger"}
_OF_FIELD, _OF_ENUM = (0, 1, 2, 3, 4, 5), (10, 11)
#: What reading bytes that are not what they say ends with.
DAMAGED = (ValueError, KeyError, IndexError, OverflowError, RecursionError, struct.error)
#: A BTF of a distribution's kernel has some MiB.
LARGEST = 256 << 20
_NT_GNU_BUILD_ID = 3
_BANNER = re.compile(rb"Linux version ([0-9][0-9A-Za-z.+~_-]*) \(")


class _Type(NamedTuple):
    name: str
    kind: int
    parts: int  # how many members, values or parameters
    of: int  # a size or the id of a type
    tail: int  # where the rest of it is

    @property
    def essential(self) -> str:
        return self.name.split("___")[0] if "___" in self.name[1:] else self.name


class Types:
    """The types of a BTF, by id. Those of a module go on where their base ends, with their ids and with their strings."""

    def __init__(self, data: bytes, base: Optional[Types] = None) -> None:
        magic, _version, _flags, head, type_at, type_size, text_at, text_size = struct.unpack_from("<HBBIIIII", data)
        if magic != _MAGIC:
            raise ValueError("no BTF")
        behind = len(base.data) if base else 0
        self.data: bytes = (base.data if base else b"") + data
        self._text: bytes = (base._text if base else b"") + data[head + text_at : head + text_at + text_size]
        self.types: List[_Type] = list(base.types) if base else [_Type("", 0, 0, 0, 0)]
        at, end = behind + head + type_at, behind + head + type_at + type_size
        while at < end:
            name, info, of = struct.unpack_from("<III", self.data, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            fixed, each = _TAIL[kind]
            self.types.append(_Type(self.text(name), kind, count, of, at + 12))
            at += 12 + fixed + count * each
        self._named: Dict[Tuple[int, str], List[int]] = {}
        for number, found in enumerate(self.types):
            if found.name:
                self._named.setdefault((found.kind, found.essential), []).append(number)

    def text(self, at: int) -> str:
        end = self._text.index(b"\0", at)
        return self._text[at:end].decode("utf-8", "replace")

    def named(self, kind: int, name: str) -> List[int]:
        return self._named.get((kind, name), [])

    def plain(self, number: int) -> int:
        """Through typedefs, const and the like."""
        for _depth in range(64):
            if self.types[number].kind not in _WRAPPERS:
                return number
            number = self.types[number].of
        raise ValueError("a circle of types")

    def behind(self, type_id: int) -> Plain:
        found = self.types[self.plain(type_id)]
        encoding = struct.unpack_from("<I", self.data, found.tail)[0] >> 24 if found.kind == _INT else 0
        return Plain(found.name, found.kind, found.of, encoding)

    def parameters(self, proto_id: int) -> List[int]:
        found = self.types[proto_id]
        count = found.parts if found.kind == _PROTO else 0
        return [struct.unpack_from("<II", self.data, found.tail + 8 * index)[1] for index in range(count)]

    def callback(self, type_id: int) -> int:
        """The FUNC_PROTO that a member points to, 0 when it is no callback."""
        pointer = self.types[self.plain(type_id)]
        proto = self.plain(pointer.of) if pointer.kind == _PTR else 0
        return proto if self.types[proto].kind == _PROTO else 0

    def members(self, number: int) -> Iterator[Tuple[str, int]]:
        found = self.types[number]
        for index in range(found.parts):
            name, of, _offset = struct.unpack_from("<III", self.data, found.tail + 12 * index)
            yield self.text(name), of

    def array(self, number: int) -> Tuple[int, int]:
        of, _index, length = struct.unpack_from("<III", self.data, self.types[number].tail)
        return of, length

    def values(self, number: int) -> List[str]:
        found = self.types[number]
        size = 12 if found.kind == _ENUM64 else 8
        return [self.text(struct.unpack_from("<I", self.data, found.tail + size * index)[0]) for index in range(found.parts)]

    def section(self, name: str) -> List[int]:
        """The types of what a DATASEC holds."""
        return [
            struct.unpack_from("<I", self.data, self.types[number].tail + 12 * index)[0]
            for number in self.named(_DATASEC, name)
            for index in range(self.types[number].parts)
        ]

    def find_member(self, number: int, name: str, depth: int = 0) -> Optional[int]:
        """The type of a member, also of one inside anonymous structs and unions."""
        for found, of in self.members(number):
            inner = self.plain(of)
            if found == name:
                return of
            if not found and self.types[inner].kind in (_STRUCT, _UNION) and depth < 16:
                below = self.find_member(inner, name, depth + 1)
                if below is not None:
                    return below
        return None


def elf_sections(data: bytes) -> Dict[str, bytes]:
    """The sections of a 64-bit little-endian ELF file, by name; the first of each."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + size * index) for index in range(count)]
    text = data[headers[names][4] : headers[names][4] + headers[names][5]]
    found: Dict[str, bytes] = {}
    for header in headers:
        name = text[header[0] : text.index(b"\0", header[0])].decode("utf-8", "replace")
        # SHT_NOBITS has nothing in the file.
        found.setdefault(name, b"" if header[1] == 8 else data[header[4] : header[4] + header[5]])
    return found


def noted_build_id(notes: bytes) -> str:
    """Of a section of ELF notes, '' when it has none."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        start = at + 12 + (name_size + 3 & ~3)
        if kind == _NT_GNU_BUILD_ID and notes[at + 12 : at + 16] == b"GNU\0":
            return notes[start : start + size].hex()
        at = start + (size + 3 & ~3)
    return ""


def _weak(sections: Dict[str, bytes]) -> List[str]:
    text = sections.get(".strtab", b"")
    found = []
    for at in range(0, len(sections.get(".symtab", b"")) // 24 * 24, 24):
        name, info = struct.unpack_from("<IB", sections[".symtab"], at)
        if info >> 4 == 2:
            found.append(text[name : text.index(b"\0", name)].decode("utf-8", "replace"))
    return found


def _unxz(data: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(data, LARGEST)


def _gunzip(data: bytes) -> bytes:
    return zlib.decompressobj(31).decompress(data, LARGEST)


def _zstd() -> ctypes.CDLL:
    """libzstd, which every Debian has; Python has its own only from 3.14 on."""
    library = ctypes.CDLL("libzstd.so.1")
    for name, types in (
        ("ZSTD_findFrameCompressedSize", [ctypes.c_char_p, ctypes.c_size_t]),
        ("ZSTD_getFrameContentSize", [ctypes.c_char_p, ctypes.c_size_t]),
        ("ZSTD_decompress", [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_size_t, types
    return library


def _unzstd(data: bytes, size: Optional[int] = None) -> bytes:
    library = _zstd()
    # An error is a number so great that nothing can be so long.
    length = library.ZSTD_findFrameCompressedSize(data, len(data))
    if size is None:
        # Behind the frame a kernel's image has how long its contents are.
        (size,) = struct.unpack_from("<I", data, length)
    if not 0 < size <= LARGEST:
        raise ValueError("no kernel is so large")
    out = ctypes.create_string_buffer(size)
    if library.ZSTD_decompress(out, size, data, length) != size:
        raise ValueError("no whole frame")
    return out.raw


def _unlz4(data: bytes) -> bytes:
    """By liblz4: the legacy frame of the kernel's build, blocks of their length and 8 MiB of contents, the last of less."""
    unpack = ctypes.CDLL("liblz4.so.1").LZ4_decompress_safe
    unpack.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    block = ctypes.create_string_buffer(8 << 20)
    out, at, got = bytearray(), 4, len(block)
    while got == len(block) and len(out) < LARGEST:
        (length,) = struct.unpack_from("<I", data, at)
        packed = data[at + 4 : at + 4 + length]
        got = unpack(packed, block, len(packed), len(block))
        out += block.raw[: max(0, got)]
        at += 4 + length
    return bytes(out)


def unpack_module(data: bytes) -> bytes:
    """A module as DKMS leaves it, plain or compressed as the kernel's own modules are."""
    try:
        for magic, unpacker in ((b"\xfd7zXZ\0", lzma.LZMADecompressor()), (b"\x1f\x8b\x08", zlib.decompressobj(31))):
            if data.startswith(magic):
                found = unpacker.decompress(data, LARGEST)
                if not unpacker.eof:
                    raise EOFError
                return found
        if data.startswith(b"\x28\xb5\x2f\xfd"):
            return _unzstd(data, _zstd().ZSTD_getFrameContentSize(data, len(data)))
    except (EOFError, OSError, lzma.LZMAError, zlib.error, *DAMAGED):
        raise BpfOomError("this module is compressed and cannot be unpacked", "see that it is whole, and libzstd.so.1") from None
    return data


def _unpacked(image: bytes) -> Iterator[bytes]:
    """What may be an ELF file inside a compressed kernel image."""
    # All know their own end; what follows is other parts of the image.
    for magic, unpack in (
        (b"\xfd7zXZ\0", _unxz),
        (b"\x1f\x8b\x08", _gunzip),
        (b"\x28\xb5\x2f\xfd", _unzstd),
        (b"\x02\x21\x4c\x18", _unlz4),
    ):
        at = image.find(magic)
        while at >= 0:
            try:
                yield unpack(image[at:])
            except (EOFError, lzma.LZMAError, zlib.error, *DAMAGED):
                pass  # only looked like it
            except OSError:
                break  # the library is not here
            at = image.find(magic, at + 1)


class Kernel(NamedTuple):
    """What a file says of a kernel; plain BTF says neither which release nor which build it is of."""

    types: Types
    release: str
    build_id: str


def _kernel(data: bytes) -> Kernel:
    if data[:2] == b"\x9f\xeb":
        return Kernel(Types(data), "", "")
    sections = elf_sections(data)
    banner = _BANNER.search(data)
    return Kernel(Types(sections[".BTF"]), banner[1].decode() if banner else "", noted_build_id(sections.get(".notes", b"")))


def read_kernel(path: str) -> Kernel:
    """A kernel, from a file of plain BTF, from a vmlinux or from a compressed kernel image."""
    remedy = (
        "give the kernel's BTF (as in /sys/kernel/btf/vmlinux), its vmlinux, or its image; one that zstd or lz4 has compressed "
        "takes libzstd.so.1 or liblz4.so.1"
    )
    try:
        # A named pipe that nobody writes to must not be waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BpfOomError(f"{path} is no plain file", remedy)
            data = file.read(LARGEST)
    except OSError as error:
        raise BpfOomError(f"{path}: {error.strerror}", remedy) from error
    for candidate in [data] if data[:2] == b"\x9f\xeb" or data[:4] == b"\x7fELF" else _unpacked(data):
        try:
            return _kernel(candidate)
        except DAMAGED:
            continue
    raise BpfOomError(f"{path} holds no BTF that could be read", remedy)


class _Relocation(NamedTuple):
    type_id: int
    access: str
    kind: int


def _relocations(types: Types, extension: bytes) -> List[_Relocation]:
    """From .BTF.ext, each once."""
    _magic, _version, _flags, head = struct.unpack_from("<HBBI", extension)
    if head < 32:
        return []
    at, size = struct.unpack_from("<II", extension, 24)
    if not size:
        return []
    at += head
    end = at + size
    (record,) = struct.unpack_from("<I", extension, at)
    if record < 16:
        raise ValueError("a relocation of fewer than 16 bytes")
    at += 4
    found: Dict[_Relocation, None] = {}
    while at < end:
        _section, count = struct.unpack_from("<II", extension, at)
        at += 8
        for _index in range(count):
            _instruction, type_id, access, kind = struct.unpack_from("<IIII", extension, at)
            found[_Relocation(type_id, types.text(access), kind)] = None
            at += record
    return list(found)


def _compatible(local: Types, mine: int, target: Types, other: int) -> bool:
    """Whether a field can be read as the object reads it: bpf_core_fields_are_compat()."""
    mine, other = local.plain(mine), target.plain(other)
    one, two = local.types[mine], target.types[other]
    composite = (_STRUCT, _UNION)
    if one.kind in composite and two.kind in composite:
        return True
    enums = (_ENUM, _ENUM64)
    if one.kind != two.kind and not (one.kind in enums and two.kind in enums):
        return False
    if one.kind in (*enums, _FWD):
        return not one.essential or not two.essential or one.essential == two.essential
    if one.kind == _ARRAY:
        return _compatible(local, local.array(mine)[0], target, target.array(other)[0])
    return True


def _has_field(local: Types, relocation: _Relocation, target: Types, candidate: int) -> bool:
    mine, other = local.plain(relocation.type_id), candidate
    # The first index only says which element of an array behind a pointer.
    for index in map(int, relocation.access.split(":")[1:]):
        found = local.types[mine]
        if found.kind in (_STRUCT, _UNION):
            name, of = list(local.members(mine))[index]
            if name:
                if target.types[other].kind not in (_STRUCT, _UNION):
                    return False
                theirs = target.find_member(other, name)
                if theirs is None or not _compatible(local, of, target, theirs):
                    return False
                other = target.plain(theirs)
            mine = local.plain(of)
        elif found.kind == _ARRAY:
            mine = local.plain(local.array(mine)[0])
            of, length = target.array(other)
            if length and index >= length:
                return False
            other = target.plain(of)
        else:
            raise ValueError("an access of something without parts")
    return True


def _root(local: Types, relocation: _Relocation) -> str:
    return local.types[local.plain(relocation.type_id)].essential


def _what(local: Types, relocation: _Relocation) -> str:
    """For people: `struct mm_struct, flags`."""
    number = local.plain(relocation.type_id)
    found = local.types[number]
    word = {_STRUCT: "struct ", _UNION: "union ", _ENUM: "enum ", _ENUM64: "enum "}.get(found.kind, "")
    head = f"{word}{found.essential or '(anonymous)'}"
    if relocation.kind in _OF_ENUM:
        return f"{head}, {local.values(number)[int(relocation.access)]}"
    if relocation.kind not in _OF_FIELD:
        return head
    path = []
    for index in map(int, relocation.access.split(":")[1:]):
        if local.types[number].kind in (_STRUCT, _UNION):
            name, of = list(local.members(number))[index]
            path += [name] if name else []
            number = local.plain(of)
        else:
            path.append(str(index))
            number = local.plain(local.array(number)[0])
    return f"{head}, {'.'.join(path)}" if path else head


def module_types(sections: Dict[str, bytes]) -> Types:
    """Those that a module brings, of its sections: what it has of the kernel's is in it by name only."""
    base = sections.get(".BTF.base")
    return Types(sections[".BTF"], Types(base) if base else None)


def _resolves(local: Types, relocation: _Relocation, target: Types) -> bool:
    number = local.plain(relocation.type_id)
    found = local.types[number]
    kinds = (_ENUM, _ENUM64) if found.kind in (_ENUM, _ENUM64) else (found.kind,)
    candidates = [each for kind in kinds for each in target.named(kind, found.essential)]
    if relocation.kind in _OF_FIELD:
        return any(_has_field(local, relocation, target, each) for each in candidates)
    if relocation.kind in _OF_ENUM:
        value = local.values(number)[int(relocation.access)].split("___")[0]
        return any(value in (name.split("___")[0] for name in target.values(each)) for each in candidates)
    return bool(candidates)


def _missing_kfuncs(local: Types, targets: Tuple[Types, ...], weak: List[str]) -> Iterator[str]:
    for number in local.section(".ksyms"):
        found = local.types[number]
        if found.name in weak or found.kind != _FUNC:
            continue
        theirs = [(target, target.types[each]) for target in targets for each in target.named(_FUNC, found.name)]
        if not theirs:
            yield f"it has no kfunc {found.name}()"
        else:
            mine = arguments(local, found.of)
            have = [arguments(target, each.of) for target, each in theirs]
            if all(clash(found.name, mine, each) for each in have):
                yield f"its kfunc {found.name}() has other arguments ({', '.join(have[0]) or 'none'})"


def problems(data: bytes, *targets: Types) -> List[str]:
    """Why an object will not load on a kernel with these types, its own and a module's, a clause each; empty when it will.

    An object that asks whether something of a type exists has code for both answers, so nothing of that type is missed.
    """
    try:
        sections = elf_sections(data)
        local = Types(sections[".BTF"])
        found = list(_missing_structs(local, targets))
        found += _missing_kfuncs(local, targets, _weak(sections))
        for name in sections:
            kind, _slash, what = name.partition("/")
            if kind == "tp_btf" and not _named(targets, _TYPEDEF, f"btf_trace_{what}"):
                found.append(f"it has no tracepoint {what}")
            if kind in ("fentry", "fexit") and not _named(targets, _FUNC, what):
                found.append(f"it has no function {what}() to trace")
        relocations = _relocations(local, sections.get(".BTF.ext", b"\0" * 8))
        asked = {_root(local, each) for each in relocations if each.kind in _ASKS}
        asked |= {other for name, other in _INSTEAD_OF.items() if name in asked and _named(targets, _STRUCT, name)}
        for each in relocations:
            if each.kind in (*_ASKS, _TYPE_ID_LOCAL) or any(_resolves(local, each, target) for target in targets):
                continue
            if _root(local, each) not in asked:
                found.append(f"it has not, or has otherwise: {_what(local, each)}")
    except DAMAGED as error:
        raise BpfOomError("an object has a BTF that cannot be read", "build it again") from error
    return list(dict.fromkeys(found))


def _named(targets: Tuple[Types, ...], kind: int, name: str) -> bool:
    return any(target.named(kind, name) for target in targets)


def has_interface(*targets: Types) -> bool:
    """Whether there is something for policies to stand on, of one kind at least."""
    return any(_named(targets, _STRUCT, name) for name in STRUCTS.values())


def _members(targets: Tuple[Types, ...], name: str) -> Dict[str, Tuple[Types, int]]:
    """Of a struct, where it is found first: each member's types and the number of its own there."""
    for target in targets:
        for number in target.named(_STRUCT, name)[:1]:
            return {member: (target, of) for member, of in target.members(number)}
    return {}


def _missing_structs(local: Types, targets: Tuple[Types, ...]) -> Iterator[str]:
    for name in STRUCTS.values():
        for number in local.named(_STRUCT, name):
            have = _members(targets, name)
            if not have:
                yield f"it has no struct {name}"
                continue
            for member, of in local.members(number):
                if member not in have:
                    if member not in LACKING:
                        yield f"its struct {name} has no {member}"
                    continue
                proto = local.callback(of)
                target, theirs = have[member]
                given = arguments(target, target.callback(theirs))
                if proto and clash(member, arguments(local, proto), given):
                    yield f"it has another version of the interface: {member}({', '.join(given)})"


def without(data: bytes, *targets: Types) -> List[str]:
    """What a policy that loads there cannot do, a sentence each."""
    local = Types(elf_sections(data)[".BTF"])
    found = []
    for name in STRUCTS.values():
        for number in local.named(_STRUCT, name):
            have = _members(targets, name)
            found += [
                LACKING[member][1] for member, _of in local.members(number) if have and member in LACKING and member not in have
            ]
    return found


__all__ = ["Kernel", "Types", "has_interface", "problems", "read_kernel", "without"]
