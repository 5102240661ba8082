# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of parameters as people read them, wherever they are shown: a diff, a difference, the status."""

from __future__ import annotations

from typing import Any, List, Mapping, Optional

from .params import USER, Param, Params, show_selectors

#: What an empty list of selectors stands for, where that is not nobody.
_EMPTY = {"scope": "everything"}


#: By unit the words for so many of it, the largest first; what none of them divides is a plain number. Both can be typed.
_WORDS = {
    "bytes": ((2**40, "T"), (2**30, "G"), (2**20, "M"), (2**10, "K")),
    "microseconds": ((10**6, "s"), (1000, "ms"), (1, "us")),
    "milliseconds": ((1000, "s"), (1, "ms")),
    "percent": ((1, "%"),),
}


def _nothing(name: str) -> str:
    return _EMPTY.get(name, "nobody")


def number_words(value: int, unit: str) -> str:
    """Exactly: 67108864 bytes are 64M, one more is 67108865."""
    for factor, word in _WORDS.get(unit, ()):
        if value and value % factor == 0:
            return f"{value // factor}{word}"
    return str(value)


def words(name: str, value: Any, unit: str = "", users: Optional[Mapping[str, Any]] = None) -> List[str]:
    """A parameter's value, of a list or dictionary each selector by itself; never empty. `users`: by name their numbers."""
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, int):
        return [number_words(value, unit)]
    if isinstance(value, Mapping):
        return [f"{text}={weight}" for text, weight in sorted(value.items())] or [_nothing(name)]
    if isinstance(value, (list, tuple)):
        return [_with_number(str(each), users or {}) for each in value] or [_nothing(name)]
    return [str(value)]


def _with_number(text: str, users: Mapping[str, Any]) -> str:
    kind, _colon, name = text.partition(":")
    if kind != USER or name not in users:
        return text
    return f"{text} ({'nobody here' if users[name] is None else users[name]})"


def line(name: str, value: Any) -> str:
    return ", ".join(words(name, value))


def param_line(name: str, param: Param, value: Any = None) -> str:
    """A parameter of a manifest, or another value of it."""
    value = param["value"] if value is None else value
    return ", ".join(words(name, value, param.get("unit", ""), param.get("users") or {}))


def loaded_line(name: str, raw: bytes) -> str:
    """Selectors or weights as a loaded policy has them."""
    return show_selectors(raw) if any(raw) else _nothing(name)


def lines(params: Params) -> List[str]:
    """All parameters, sorted by name, one selector a line, so that a diff shows only those that changed."""
    found: List[str] = []
    for name, param in sorted(params.items()):
        value = words(name, param["value"], param.get("unit", ""), param.get("users") or {})
        if isinstance(param["value"], (list, Mapping)) and param["value"]:
            found.append(f"{name}:")
            found += [f"  {each}" for each in value]
        else:
            found.append(f"{name}: {value[0]}")
    return found


__all__ = ["line", "lines", "loaded_line", "number_words", "param_line", "words"]
