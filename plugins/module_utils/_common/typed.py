# SPDX-License-Identifier: GPL-3.0-or-later
"""From what the inventory and a policy.yml say to typed parameters, or a refusal in words; the controller's part."""

from __future__ import annotations

import operator
import re
from typing import Any, Dict, List, Mapping, Sequence

from .errors import BpfOomError
from .params import FORMS, INTEGERS, SELECTORS_MAX, TYPES, Param, Params, check_selector

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_OPERATORS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "!=": operator.ne}
_MULTIPLE = "is a multiple of"
_DISJOINT = "shares nothing with"


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
        if spec["type"] == "selectors" and not set(spec.get("of") or ("cgroup",)) <= set(FORMS):
            raise wrong(f"parameter '{name}' is of other things than {', '.join(FORMS)}")
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
