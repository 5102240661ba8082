# SPDX-License-Identifier: GPL-3.0-or-later
"""From what the inventory and a policy.yml say to typed parameters, or a refusal in words; the controller's part."""

from __future__ import annotations

import operator
import re
from typing import Any, Dict, List, Mapping, Optional, Sequence

from .errors import BpfOomError
from .params import (
    FORMS,
    INTEGERS,
    SELECTORS_MAX,
    TYPES,
    USER,
    Param,
    Params,
    check_meant,
    check_selector,
    path_of,
    whole_number,
)

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
#: How numbers may be written instead, by their unit: what the words stand for, in that unit. Memory counts in powers of 1024.
_SIZES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TIMES = {"us": 1, "ms": 1000, "s": 10**6, "min": 60 * 10**6, "h": 3600 * 10**6}
_SPELLED = {
    "bytes": ({**_SIZES, **{f"{letter}iB": number for letter, number in _SIZES.items()}}, 1, "a size such as 64M"),
    "microseconds": (_TIMES, 1, "a time such as 500ms or 10s"),
    "milliseconds": (_TIMES, 1000, "a time such as 500ms or 10s"),
    "percent": ({"%": 1}, 1, "a share such as 50%"),
}
_NUMBER_AND_WORD = re.compile(r"([0-9]{1,20}) ?([A-Za-z]{1,3}|%)\Z")
#: A parameter whose name ends in its unit may also be called without that ending, if its value says the unit.
_ENDINGS = {"microseconds": "_us", "milliseconds": "_ms"}
_OPERATORS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "!=": operator.ne}
_MULTIPLE = "is a multiple of"
_DISJOINT = "shares nothing with"
_EXCLUDES = "excludes"


def _refuse(name: str, value: Any, spec: Mapping[str, Any], expected: str) -> BpfOomError:
    unit = f" {spec['unit']}" if spec.get("unit") else ""
    spelled = f", or {_SPELLED[spec['unit']][2]}" if spec.get("unit") in _SPELLED else ""
    share = f", or a share such as 50% of '{spec['percent_of']}'" if spec.get("percent_of") else ""
    return BpfOomError(f"parameter '{name}' is {value!r}", f"give {expected}{unit}{spelled}{share}")


def spelled_number(value: Any, unit: str) -> Optional[int]:
    """A number of a unit from words such as 64M, 10s or 50%; None for what is none, or no whole number of that unit."""
    match = _NUMBER_AND_WORD.match(value) if isinstance(value, str) and unit in _SPELLED else None
    if match is None:
        return None
    words, divisor, _example = _SPELLED[unit]
    factor = words.get(match[2])
    if factor is None or int(match[1]) * factor % divisor:
        return None
    return int(match[1]) * factor // divisor


def _renamed(specs: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> Dict[str, Any]:
    """What was given, by the names that policies know, see _ENDINGS."""
    short = {}
    for name, spec in specs.items():
        ending = _ENDINGS.get(str(spec.get("unit")), "")
        if ending and name.endswith(ending) and name[: -len(ending)] not in specs:
            short[name[: -len(ending)]] = name
    found = dict(given)
    for name, value in given.items():
        whole = short.get(name)
        if whole is None:
            continue
        if whole in given:
            raise BpfOomError(f"both '{name}' and '{whole}' are given, which are one parameter", "leave out one of them")
        if whole_number(value) not in (None, 0):
            raise BpfOomError(
                f"parameter '{name}' is {value!r}, and of what is not said",
                f"give {_SPELLED['microseconds'][2]}, or call it '{whole}'",
            )
        found[whole] = found.pop(name)
    return found


def _limited(name: str, length: int) -> None:
    if length > SELECTORS_MAX:
        raise BpfOomError(
            f"parameter '{name}' has {length} selectors", f"give {SELECTORS_MAX} at most; a glob can stand for many cgroups"
        )


def _selectors(name: str, value: Any, spec: Mapping[str, Any]) -> List[str]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, Sequence):
        raise _refuse(name, value, spec, "a list of selectors")
    _limited(name, len(value))
    found: List[str] = []
    for each in value:
        text = _checked(name, each, spec.get("of") or ("cgroup",))
        if text not in found:
            found.append(text)
    return found


def _checked(name: str, given: Any, kinds: Sequence[str]) -> str:
    """A selector in one spelling: users by number are uid:, by name user:."""
    text = given
    if isinstance(given, str):
        kind, _colon, rest = given.partition(":")
        if kind in ("uid", USER):
            text = f"{'uid' if rest[:1].isdigit() or rest[:1] in ('', '-') else USER}:{rest}"
    try:
        check_selector(text, kinds)
        check_meant(path_of(text))
    except BpfOomError as error:
        raise BpfOomError(f"parameter '{name}': {error.cause}", error.remedy) from None
    return str(text)


def _weights(name: str, value: Any, spec: Mapping[str, Any]) -> Dict[str, int]:
    if not isinstance(value, Mapping):
        raise _refuse(name, value, spec, "a dictionary of globs and numbers")
    _limited(name, len(value))
    low, high = spec["range"]
    found: Dict[str, int] = {}
    for given, weight in value.items():
        text = _checked(name, given, ("cgroup",))
        number = whole_number(weight)
        if number is None or not low <= number <= high:
            raise _refuse(f"{name}[{text}]", weight, spec, f"a whole number from {low} to {high}")
        found[text] = number
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
    unit = str(spec.get("unit") or "")
    number = whole_number(value)
    if number is None:
        number = spelled_number(value, unit)
    if number is None or not low <= number <= high:
        raise _refuse(name, value, spec, f"a whole number from {low} to {high}")
    return {"type": kind, "value": number, **({"unit": unit} if unit in _SPELLED else {})}


def _share(name: str, value: Any, spec: Mapping[str, Any], whole: int) -> Any:
    """A share such as 50% of another parameter, as a number; whatever else it is, unchanged."""
    percent = spelled_number(value, "percent")
    if percent is None:
        return value
    if percent * whole % 100:
        raise BpfOomError(
            f"parameter '{name}' is {value!r} of '{spec['percent_of']}', {whole}, which is no whole number",
            "choose another share",
        )
    return percent * whole // 100


def type_params(
    specs: Mapping[str, Mapping[str, Any]], constraints: Sequence[Sequence[Any]], given: Mapping[str, Any], program: str
) -> Params:
    """Typed values for every parameter of a program, defaults filled in."""
    if not isinstance(given, Mapping):
        raise BpfOomError(f"the parameters of '{program}' are {given!r}", "give a dictionary of names and values")
    given = _renamed(specs, given)
    for name in given:
        if name not in specs:
            known = ", ".join(sorted(specs)) or "none"
            raise BpfOomError(f"policy '{program}' has no parameter {str(name)!r}", f"use one of its parameters: {known}")
    params: Params = {}
    # Those that may be a share of another one come after it.
    for name, spec in sorted(specs.items(), key=lambda item: "percent_of" in item[1]):
        value = given.get(name, spec.get("default"))
        if "percent_of" in spec:
            value = _share(name, value, spec, params[spec["percent_of"]]["value"])
        params[name] = _typed(name, value, spec)
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
        if relation == _EXCLUDES:
            both_given = [name for name in (left, right) if params[name]["value"] != specs[name]["default"]]
            if len(both_given) == 2:
                raise BpfOomError(
                    f"'{left}' is {params[left]['value']} and '{right}' is {params[right]['value']}",
                    "give one of them, they contradict each other",
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
        if "percent_of" in spec and "percent_of" in specs.get(spec["percent_of"], {"percent_of": ""}):
            raise wrong(f"parameter '{name}' is a share of '{spec['percent_of']}', which is no number")
        if spec["type"] == "weights" and len(spec.get("range") or ()) != 2:
            raise wrong(f"parameter '{name}' has no range")
    for rule in data.setdefault("constraints", []):
        compares = (
            isinstance(rule, list) and len(rule) == 3 and rule[1] in (*_OPERATORS, _DISJOINT, _EXCLUDES) and rule[2] in specs
        )
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
                f"the constraint {rule!r} is neither [parameter, {', '.join((*_OPERATORS, _DISJOINT, _EXCLUDES))}, parameter]"
                f" nor [parameter, {_MULTIPLE}, number, parameter that switches it on]"
            )
    return {"kind": data["kind"], "parameters": specs, "constraints": data["constraints"]}
