# SPDX-License-Identifier: GPL-3.0-or-later
"""Parameters of a policy: what they may be, as policies read them, and in words."""

from __future__ import annotations

import functools
import re
import struct
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from .errors import BpfOomError

Param = Dict[str, Any]
Params = Dict[str, Param]

# The largest range of each type; a policy's own `range` narrows it.
INTEGERS = {
    "u32": (0, 2**32 - 1),
    "u64": (0, 2**64 - 1),
    "s32": (-(2**31), 2**31 - 1),
    "s64": (-(2**63), 2**63 - 1),
}
TYPES = ("bool", "choice", "selectors", "weights", *INTEGERS)
# What bpf/include/bpf_oom/record.h says of selectors.
SELECTORS_MAX = 32
GLOB_MAX = 255
PARTS_MAX = 32
_SELECTOR = struct.Struct(f"=IIIiI{PARTS_MAX}s256s")
SELECTORS_SIZE = _SELECTOR.size * SELECTORS_MAX
_KINDS = ("", "cgroup", "name", "uid", "own")
FORMS = {
    "cgroup": "a glob of cgroup paths such as /system.slice/db@*.service",
    "own": "own:GLOB for the processes of a cgroup without those of the cgroups below it",
    "name": "name:GLOB for the names of root's processes, or name:GLOB@UID for those of another user",
    "uid": "uid:NUMBER, uid:FIRST-LAST or user:NAME",
}
#: A user by name is looked up on the host when a play runs there; the manifest keeps the number, as a boot asks no directory.
USER = "user"
_UID_MAX = 2**32 - 2
_COMM_MAX = 15
_DIGITS = re.compile(r"-?[0-9]{1,20}\Z")
_UIDS = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?\Z")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.@\\-]{0,254}\$?\Z")
_NAME_OF_USER = re.compile(r"(.+)@([0-9]{1,10}(?:-[0-9]{1,10})?)\Z", re.DOTALL)
_MOUNT = "/sys/fs/cgroup"
_OTHER_GLOB = re.compile(r"\[[^]/]+\]|\{[^}/]*,[^}/]*\}")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,47}\Z")
# Files that the kernel puts into cgroups. Another name that begins like one is a cgroup's own affair.
_INTERFACE_FILE = re.compile(
    r"cgroup\.(controllers|events|freeze|kill|max\.depth|max\.descendants|pressure|procs|stat|subtree_control|threads|type)\Z"
    r"|memory\.(current|events|events\.local|high|low|max|min|numa_stat|oom\.group|peak|pressure|reclaim|stat"
    r"|swap\.(current|events|high|max|peak)|zswap\.(current|max|writeback))\Z"
    r"|cpu\.(idle|max|max\.burst|pressure|stat|stat\.local|uclamp\.max|uclamp\.min|weight|weight\.nice)\Z"
    r"|cpuset\.(cpus|mems|cpus\.effective|mems\.effective|cpus\.exclusive|cpus\.partition)\Z"
    r"|(io|irq)\.pressure\Z|io\.(max|stat|weight|latency)\Z|pids\.(current|events|max|peak)\Z"
)


def whole_number(value: Any) -> Optional[int]:
    """A number, or one as text, which is what a template of the inventory and the command line leave behind; else None."""
    if isinstance(value, str) and _DIGITS.match(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def as_bytes(text: str) -> bytes:
    """A name as the kernel and the policies have it; bytes that are no UTF-8 are surrogates in Python, see os.fsdecode()."""
    return text.encode("utf-8", "surrogateescape")


def _length(text: str) -> int:
    """In bytes; a text that is none is too long for everything."""
    try:
        return len(as_bytes(text))
    except UnicodeEncodeError:
        return 1 << 31


def check_name(name: Any) -> str:
    if not isinstance(name, str) or not _NAME.match(name):
        raise BpfOomError(
            f"'{name}' is no policy name",
            "use at most 48 lower-case letters, digits, '_' and '-', starting with a letter",
        )
    return name


# The same defaults stand in each policy of a set.
@functools.lru_cache(maxsize=1024)
def check_glob(path: str) -> str:
    """Refuse what can never stand for a cgroup's path; whether it does now is the host's business."""
    what = f"the cgroup path {path!r}"
    if not path.startswith("/"):
        raise BpfOomError(f"{what} is not absolute", "write it from the top of the hierarchy, as in /system.slice/db@*.service")
    if _length(path) > GLOB_MAX:
        raise BpfOomError(
            f"{what} is longer than {GLOB_MAX} bytes of UTF-8, or none", "shorten it with '*', or name a cgroup further up"
        )
    if "\0" in path or "\n" in path:
        raise BpfOomError(f"{what} holds a newline or a zero byte", "remove it, no cgroup's name can have it")
    if path.count("/") > PARTS_MAX:
        raise BpfOomError(f"{what} has more than {PARTS_MAX} levels", "name a cgroup further up")
    for component in path.split("/")[1:] if path != "/" else ():
        if component in ("", ".", ".."):
            raise BpfOomError(
                f"{what} has the component {component!r}", "write a plain path without '//', '.', '..' and a trailing '/'"
            )
        if _INTERFACE_FILE.match(component):
            raise BpfOomError(
                f"{what} names '{component}', a file of the cgroup interface", "name the cgroup that the file is in"
            )
    return path


def check_meant(path: str) -> str:
    """Refuse what is a path and can never stand for what its author means; of persisted policies check_glob() will do."""
    what = f"the cgroup path {path!r}"
    if path == _MOUNT or path.startswith(f"{_MOUNT}/"):
        raise BpfOomError(f"{what} begins with {_MOUNT}", f"leave that out, as in {path[len(_MOUNT) :] or '/'}")
    if "**" in path:
        raise BpfOomError(
            f"{what} has '**', which stands for no more than '*'",
            "give a glob for each level",
        )
    if _OTHER_GLOB.search(path):
        raise BpfOomError(
            f"{what} has brackets, which stand for themselves",
            "use '*' and '?', or several globs",
        )
    return path


def glob_pattern(glob: str) -> re.Pattern[bytes]:
    """A glob as the policies read it, for the bytes of a name: '*' and '?' stand for anything but '/', '?' for one byte."""
    wild = {ord("*"): b"[^/]*", ord("?"): b"[^/]"}
    return re.compile(b"".join(wild.get(byte) or re.escape(bytes([byte])) for byte in as_bytes(glob)) + rb"\Z")


def covers(glob: str, path: str, below: bool) -> bool:
    """Whether a glob stands for a cgroup, with `below` also for all below it; the policies' own rule, see select.h."""
    wanted, names = ([] if text == "/" else text.split("/")[1:] for text in (glob, path))
    if len(names) < len(wanted) or (not below and len(names) > len(wanted)):
        return False
    return all(glob_pattern(part).match(as_bytes(name)) for part, name in zip(wanted, names))


def path_of(selector: str) -> str:
    """The glob of paths in a selector, '' when it is of another kind."""
    kind, _colon, rest = selector.partition(":")
    return selector if selector.startswith("/") else rest if kind == "own" else ""


def check_selector(text: Any, kinds: Sequence[str] = _KINDS[1:]) -> Tuple[str, int, int, str]:
    """A selector's kind, first and last number, and glob; or a refusal."""
    forms = ", ".join(FORMS[kind] for kind in kinds)
    if not isinstance(text, str):
        raise BpfOomError(f"{text!r} is no selector", f"give {forms}")
    kind, _colon, rest = text.partition(":")
    if text.startswith("/") or kind not in ("name", "uid", "own", USER):
        kind = "cgroup"
    if ("uid" if kind == USER else kind) not in kinds:
        raise BpfOomError(f"{text!r} is a selector of kind {kind}, which has no meaning here", f"give {forms}")
    if kind == "cgroup":
        return kind, 0, 0, check_glob(text)
    if kind == "own":
        return kind, 0, 0, check_glob(rest)
    if kind == USER:
        if not _USER.match(rest):
            raise BpfOomError(f"{text!r} names no user", f"give {FORMS['uid']}")
        return kind, 0, 0, rest
    users = rest
    if kind == "name":
        # Root's, as anybody can call a process by any name.
        named = _NAME_OF_USER.match(rest)
        rest, users = named.groups() if named else (rest, "0")
        if not rest or _length(rest) > _COMM_MAX or "\0" in rest or "\n" in rest:
            raise BpfOomError(
                f"{text!r} can be no process name",
                f"give 1 to {_COMM_MAX} bytes, as the kernel shows them in /proc/PID/comm",
            )
    match = _UIDS.match(users)
    low, high = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (1, 0)
    if low > high or high > _UID_MAX:
        raise BpfOomError(f"{text!r} names no users", f"give {FORMS[kind]}, with users up to {_UID_MAX}")
    return kind, low, high, rest if kind == "name" else ""


def selectors_bytes(param: Param) -> bytes:
    """Selectors or weights as the policies read them, see record.h."""
    weights = param["value"] if param["type"] == "weights" else dict.fromkeys(param["value"], 0)
    # Of weights the first that matches counts: the longer, the more special.
    texts = sorted(weights, key=lambda text: (-len(text), text)) if param["type"] == "weights" else list(weights)
    users: Mapping[str, Optional[int]] = param.get("users") or {}
    packed = b""
    for text in texts:
        kind, low, high, glob = check_selector(text)
        if kind == USER:
            uid = users.get(glob)
            if uid is None:
                continue  # nobody here is called so
            kind, low, high, glob = "uid", uid, uid, ""
        raw = b"" if glob == "/" else as_bytes(glob)
        parts = bytes(at + 1 for at, byte in enumerate(raw) if byte == ord("/")) if kind in ("cgroup", "own") else b""
        packed += _SELECTOR.pack(_KINDS.index(kind), low, high, weights[text], len(parts), parts, raw)
    return packed.ljust(SELECTORS_SIZE, b"\0")


def show_selectors(raw: bytes) -> str:
    """What a loaded policy has, in the words of the inventory."""
    found = []
    for kind, low, high, weight, _nr_parts, _parts, glob in _SELECTOR.iter_unpack(raw[: len(raw) - len(raw) % _SELECTOR.size]):
        text = glob.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        users = str(low) if low == high else f"{low}-{high}"
        if kind == _KINDS.index("cgroup"):
            found.append(text or "/")
        elif kind == _KINDS.index("own"):
            found.append(f"own:{text or '/'}")
        elif kind == _KINDS.index("name"):
            found.append(f"name:{text}" if users == "0" else f"name:{text}@{users}")
        elif kind == _KINDS.index("uid"):
            found.append(f"uid:{users}")
        if kind and weight:
            found[-1] += f"={weight}"
    return ", ".join(found) or "nobody"
