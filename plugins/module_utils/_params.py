# SPDX-License-Identifier: GPL-3.0-or-later
"""Parameters of a policy: from what the inventory says to typed values, or a refusal in words."""

from __future__ import annotations

import operator
import re
from typing import Any, Dict, List, Mapping, Sequence

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
TYPES = ("bool", "choice", "cgroup", *INTEGERS)
CGROUP_PATH_MAX = 511
_COMPONENT_MAX = 255
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,47}\Z")
# Files that the kernel puts into every cgroup; systemd's unit suffixes are never among them.
_INTERFACE_FILE = re.compile(
    r"(cgroup|cpu|cpuset|dmem|hugetlb|io|irq|memory|misc|pids|rdma)\.(?!(slice|service|scope|mount|socket|swap)\Z)[a-zA-Z0-9_.]+\Z"
)
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_OPERATORS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "!=": operator.ne}
_MULTIPLE = "is a multiple of"


def check_name(name: Any) -> str:
    if not isinstance(name, str) or not _NAME.match(name):
        raise BpfOomError(
            f"'{name}' is no policy name",
            "use at most 48 lower-case letters, digits, '_' and '-', starting with a letter",
        )
    return name


def check_cgroup_path(path: str) -> str:
    """Refuse what can never be a cgroup's path; whether it exists now is the host's business."""
    what = f"the cgroup path {path!r}"
    if not path.startswith("/"):
        raise BpfOomError(f"{what} is not absolute", "write it from the top of the hierarchy, as in /system.slice/db.service")
    if len(path.encode()) > CGROUP_PATH_MAX:
        raise BpfOomError(f"{what} is longer than {CGROUP_PATH_MAX} bytes", "name a cgroup further up")
    if "\0" in path or "\n" in path:
        raise BpfOomError(f"{what} holds a NUL or a newline", "remove it, no cgroup's name can have it")
    for component in path.split("/")[1:] if path != "/" else ():
        if component in ("", ".", ".."):
            raise BpfOomError(
                f"{what} has the component {component!r}", "write a plain path without '//', '.', '..' and a trailing '/'"
            )
        if len(component.encode()) > _COMPONENT_MAX:
            raise BpfOomError(
                f"{what} has a component longer than {_COMPONENT_MAX} bytes", "correct it, no cgroup's name can be so long"
            )
        if _INTERFACE_FILE.match(component):
            raise BpfOomError(
                f"{what} names '{component}', a file of the cgroup interface", "name the cgroup that the file is in"
            )
    return path


def _refuse(name: str, value: Any, spec: Mapping[str, Any], expected: str) -> BpfOomError:
    unit = f" {spec['unit']}" if spec.get("unit") else ""
    return BpfOomError(f"parameter '{name}' is {value!r}", f"give {expected}{unit}")


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
    if kind == "cgroup":
        if not isinstance(value, str):
            raise _refuse(name, value, spec, "a cgroup's absolute path, or '' for the whole system")
        return {"type": kind, "value": check_cgroup_path(value) if value else ""}
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
    for rule in constraints:
        left, relation, right = rule[:3]
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
    for rule in data.setdefault("constraints", []):
        compares = isinstance(rule, list) and len(rule) == 3 and rule[1] in _OPERATORS and rule[2] in specs
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
                f"the constraint {rule!r} is neither [parameter, operator, parameter]"
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
    if param["type"] == "cgroup":
        return param["value"] or "'' (the whole system)"
    return str(param["value"])
