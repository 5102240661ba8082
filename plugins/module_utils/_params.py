# SPDX-License-Identifier: GPL-3.0-or-later
"""Parameters of a policy: from what the inventory says to typed values, or a refusal in words."""

from __future__ import annotations

import functools
import operator
import re
import struct
from typing import Any, Dict, List, Mapping, Sequence, Tuple

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
_FORMS = {
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
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_OPERATORS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "!=": operator.ne}
_MULTIPLE = "is a multiple of"
_DISJOINT = "shares nothing with"


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
    forms = ", ".join(_FORMS[kind] for kind in kinds)
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


def _refuse(name: str, value: Any, spec: Mapping[str, Any], expected: str) -> BpfOomError:
    unit = f" {spec['unit']}" if spec.get("unit") else ""
    return BpfOomError(f"parameter '{name}' is {value!r}", f"give {expected}{unit}")


def _limited(name: str, length: int) -> None:
    if length > SELECTORS_MAX:
        raise BpfOomError(
            f"parameter '{name}' has {length} selectors", f"give {SELECTORS_MAX} at most; a glob can stand for many cgroups"
        )


def _selectors(name: str, value: Any, spec: Mapping[str, Any]) -> List[str]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _refuse(name, value, spec, "a list of selectors")
    _limited(name, len(value))
    found: List[str] = []
    for text in value:
        try:
            check_selector(text, spec.get("of") or ("cgroup",))
        except BpfOomError as error:
            raise BpfOomError(f"parameter '{name}': {error.cause}", error.remedy) from None
        if str(text) not in found:
            found.append(str(text))
    return found


def _weights(name: str, value: Any, spec: Mapping[str, Any]) -> Dict[str, int]:
    if not isinstance(value, Mapping):
        raise _refuse(name, value, spec, "a dictionary of globs and numbers")
    _limited(name, len(value))
    low, high = spec["range"]
    found: Dict[str, int] = {}
    for text, weight in value.items():
        try:
            check_selector(text, ("cgroup",))
        except BpfOomError as error:
            raise BpfOomError(f"parameter '{name}': {error.cause}", error.remedy) from None
        if isinstance(weight, str) and re.match(r"-?[0-9]{1,10}\Z", weight):
            weight = int(weight)
        if isinstance(weight, bool) or not isinstance(weight, int) or not low <= weight <= high:
            raise _refuse(f"{name}[{text}]", weight, spec, f"a whole number from {low} to {high}")
        found[str(text)] = weight
    return found


def _typed(name: str, value: Any, spec: Mapping[str, Any]) -> Param:
    kind = spec["type"]
    if kind == "bool":
        if not isinstance(value, bool):
            word = _WORDS.get(str(value).lower()) if isinstance(value, (str, int)) else None
            if word is None:
                raise _refuse(name, value, spec, "true or false")
            value = word
        return {"type": kind, "value": value}
    if kind == "choice":
        choices = {str(word): int(number) for word, number in spec["choices"].items()}
        if not isinstance(value, str) or value not in choices:
            raise _refuse(name, value, spec, f"one of {', '.join(choices)}")
        return {"type": kind, "value": value, "number": choices[value]}
    if kind == "selectors":
        return {"type": kind, "value": _selectors(name, value, spec)}
    if kind == "weights":
        return {"type": kind, "value": _weights(name, value, spec)}
    low, high = spec.get("range") or INTEGERS[kind]
    if isinstance(value, str) and re.match(r"-?[0-9]{1,20}\Z", value):
        value = int(value)  # what a Jinja2 template of the inventory leaves behind
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _refuse(name, value, spec, f"a whole number from {low} to {high}")
    return {"type": kind, "value": value}


def type_params(
    specs: Mapping[str, Mapping[str, Any]], constraints: Sequence[Sequence[Any]], given: Mapping[str, Any], program: str
) -> Params:
    """Typed values for every parameter of a program, defaults filled in."""
    if not isinstance(given, Mapping):
        raise BpfOomError(f"the parameters of '{program}' are {given!r}", "give a dictionary of names and values")
    for name in given:
        if name not in specs:
            known = ", ".join(sorted(specs)) or "none"
            raise BpfOomError(f"policy '{program}' has no parameter '{name}'", f"use one of its parameters: {known}")
    params = {name: _typed(name, given.get(name, spec.get("default")), spec) for name, spec in specs.items()}
    for name, spec in specs.items():
        # A default list names what some hosts have and others have not.
        if spec["type"] == "selectors" and params[name] == _typed(name, spec.get("default"), spec):
            params[name]["default"] = True
    for rule in constraints:
        left, relation, right = rule[:3]
        if relation == _DISJOINT:
            both = sorted(set(params[left]["value"]) & set(params[right]["value"]))
            if both:
                raise BpfOomError(
                    f"'{both[0]}' is both in '{left}' and in '{right}'", "decide for one of them, they contradict each other"
                )
            continue
        if relation == _MULTIPLE:
            if params[rule[3]]["value"] and params[left]["value"] % right:
                raise BpfOomError(
                    f"parameter '{left}' is {params[left]['value']} and '{rule[3]}' is set",
                    f"choose a '{left}' that {_MULTIPLE} {right}, or leave '{rule[3]}' off",
                )
            continue
        values = (params[left]["value"], params[right]["value"])
        if not _OPERATORS[relation](*values):
            raise BpfOomError(
                f"parameter '{left}' is {values[0]} and '{right}' is {values[1]}",
                f"choose them so that {left} {relation} {right}",
            )
    return params


def check_metadata(data: Any, where: str) -> Dict[str, Any]:
    """A policy.yml that keeps to its form."""

    def wrong(what: str) -> BpfOomError:
        return BpfOomError(f"{where}: {what}", "correct that file")

    if not isinstance(data, dict) or data.get("kind") not in ("oom", "psi"):
        raise wrong("'kind' is neither oom nor psi")
    specs = data.setdefault("parameters", {}) or {}
    if not isinstance(specs, dict):
        raise wrong("'parameters' is not a dictionary")
    for name, spec in specs.items():
        if not isinstance(spec, dict) or spec.get("type") not in TYPES:
            raise wrong(f"parameter '{name}' has none of the types {', '.join(TYPES)}")
        if "default" not in spec:
            raise wrong(f"parameter '{name}' has no default")
        if spec["type"] == "choice" and not isinstance(spec.get("choices"), dict):
            raise wrong(f"parameter '{name}' has no choices")
        if spec["type"] == "selectors" and not set(spec.get("of") or ("cgroup",)) <= set(_FORMS):
            raise wrong(f"parameter '{name}' is of other things than {', '.join(_FORMS)}")
        if spec["type"] == "weights" and len(spec.get("range") or ()) != 2:
            raise wrong(f"parameter '{name}' has no range")
    for rule in data.setdefault("constraints", []):
        compares = isinstance(rule, list) and len(rule) == 3 and rule[1] in (*_OPERATORS, _DISJOINT) and rule[2] in specs
        divides = (
            isinstance(rule, list)
            and len(rule) == 4
            and rule[1] == _MULTIPLE
            and isinstance(rule[2], int)
            and rule[2] > 0
            and rule[3] in specs
        )
        if not (compares or divides) or rule[0] not in specs:
            raise wrong(
                f"the constraint {rule!r} is neither [parameter, operator or '{_DISJOINT}', parameter]"
                f" nor [parameter, {_MULTIPLE}, number, parameter that switches it on]"
            )
    return {"kind": data["kind"], "parameters": specs, "constraints": data["constraints"]}


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
