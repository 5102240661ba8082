# SPDX-License-Identifier: GPL-3.0-or-later
"""Parameters of a policy: what they may be, as policies read them, and in words."""

from __future__ import annotations

import functools
import re
import struct
from typing import Any, Dict, List, Sequence, Tuple

from ._errors import BpfOomError

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
_SELECTOR = struct.Struct("=IIIi256s")
SELECTORS_SIZE = _SELECTOR.size * SELECTORS_MAX
_KINDS = ("", "cgroup", "name", "uid")
FORMS = {
    "cgroup": "a glob of cgroup paths such as /system.slice/db@*.service",
    "name": "name:GLOB for process names",
    "uid": "uid:NUMBER or uid:FIRST-LAST",
}
_UID_MAX = 2**32 - 2
_COMM_MAX = 15
_UIDS = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?\Z")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,47}\Z")
# Files that the kernel puts into every cgroup; systemd's unit suffixes are never among them.
_INTERFACE_FILE = re.compile(
    r"(cgroup|cpu|cpuset|dmem|hugetlb|io|irq|memory|misc|pids|rdma)\.(?!(slice|service|scope|mount|socket|swap)\Z)[a-zA-Z0-9_.]+\Z"
)


def _length(text: str) -> int:
    """In bytes; a text that is none is too long for everything."""
    try:
        return len(text.encode())
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
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise BpfOomError(f"{what} holds a control character", "remove it, no cgroup's name can have it")
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


def glob_pattern(glob: str) -> re.Pattern[str]:
    """One component of a glob as the policies read it: '*' and '?' stand for anything but '/'."""
    return re.compile("".join({"*": "[^/]*", "?": "[^/]"}.get(letter) or re.escape(letter) for letter in glob) + r"\Z")


def covers(glob: str, path: str, below: bool) -> bool:
    """Whether a glob stands for a cgroup, with `below` also for all below it; the policies' own rule, see select.h."""
    # They compare bytes, so '?' is one byte.
    pattern, subject = (text.encode().decode("latin-1") for text in ("" if glob == "/" else glob, path if path != "/" else ""))
    rest = "(?:/.*)?" if below else ""
    return re.match(glob_pattern(pattern).pattern[: -len(r"\Z")] + rest + r"\Z", subject, re.DOTALL) is not None


def check_selector(text: Any, kinds: Sequence[str] = _KINDS[1:]) -> Tuple[str, int, int, str]:
    """A selector's kind, first and last number, and glob; or a refusal."""
    forms = ", ".join(FORMS[kind] for kind in kinds)
    if not isinstance(text, str):
        raise BpfOomError(f"{text!r} is no selector", f"give {forms}")
    kind, _colon, rest = text.partition(":")
    if text.startswith("/") or kind not in ("name", "uid"):
        kind = "cgroup"
    if kind not in kinds:
        raise BpfOomError(f"{text!r} is a selector of kind {kind}, which has no meaning here", f"give {forms}")
    if kind == "cgroup":
        return kind, 0, 0, check_glob(text)
    if kind == "name":
        if not rest or _length(rest) > _COMM_MAX or "\0" in rest or "\n" in rest:
            raise BpfOomError(
                f"{text!r} can be no process name",
                f"give 1 to {_COMM_MAX} bytes, as the kernel shows them in /proc/PID/comm",
            )
        return kind, 0, 0, rest
    match = _UIDS.match(rest)
    low, high = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (1, 0)
    if low > high or high > _UID_MAX:
        raise BpfOomError(f"{text!r} names no users", f"give uid:NUMBER or uid:FIRST-LAST, up to {_UID_MAX}")
    return kind, low, high, ""


def selectors_bytes(param: Param) -> bytes:
    """Selectors or weights as the policies read them, see record.h."""
    weights = param["value"] if param["type"] == "weights" else dict.fromkeys(param["value"], 0)
    # Of weights the first that matches counts: the longer, the more special.
    texts = sorted(weights, key=lambda text: (-len(text), text)) if param["type"] == "weights" else list(weights)
    packed = b""
    for text in texts:
        kind, low, high, glob = check_selector(text)
        packed += _SELECTOR.pack(_KINDS.index(kind), low, high, weights[text], b"" if glob == "/" else glob.encode())
    return packed.ljust(SELECTORS_SIZE, b"\0")


def show_selectors(raw: bytes) -> str:
    """What a loaded policy has, in the words of the inventory."""
    found = []
    for kind, low, high, weight, glob in _SELECTOR.iter_unpack(raw[: len(raw) - len(raw) % _SELECTOR.size]):
        text = glob.split(b"\0", 1)[0].decode("utf-8", "replace")
        if kind == _KINDS.index("cgroup"):
            found.append(text or "/")
        elif kind == _KINDS.index("name"):
            found.append(f"name:{text}")
        elif kind == _KINDS.index("uid"):
            found.append(f"uid:{low}" if low == high else f"uid:{low}-{high}")
        if kind and weight:
            found[-1] += f"={weight}"
    return ", ".join(found) or "nobody"


def show(params: Params) -> List[str]:
    """The parameters as people read them, sorted by name."""
    return [
        f"{name}: {str(param['value']).lower() if param['type'] == 'bool' else repr_value(param)}"
        for name, param in sorted(params.items())
    ]


def repr_value(param: Param) -> str:
    if param["type"] == "selectors":
        return ", ".join(param["value"]) or "(none)"
    if param["type"] == "weights":
        return ", ".join(f"{text}={weight}" for text, weight in sorted(param["value"].items())) or "(none)"
    return str(param["value"])
