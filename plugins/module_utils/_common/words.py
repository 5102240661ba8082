# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of parameters as people read them, wherever they are shown: a diff, a difference, the status."""

from __future__ import annotations

from typing import Any, List, Mapping

from .params import Params, show_selectors

#: What an empty list of selectors stands for, where that is not nobody.
_EMPTY = {"scope": "everything"}


def _nothing(name: str) -> str:
    return _EMPTY.get(name, "nobody")


def words(name: str, value: Any) -> List[str]:
    """A parameter's value, of a list or dictionary each selector by itself; never empty."""
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, Mapping):
        return [f"{text}={weight}" for text, weight in sorted(value.items())] or [_nothing(name)]
    if isinstance(value, (list, tuple)):
        return [str(each) for each in value] or [_nothing(name)]
    return [str(value)]


def line(name: str, value: Any) -> str:
    return ", ".join(words(name, value))


def loaded_line(name: str, raw: bytes) -> str:
    """Selectors or weights as a loaded policy has them."""
    return show_selectors(raw) if any(raw) else _nothing(name)


def lines(params: Params) -> List[str]:
    """All parameters, sorted by name, one selector a line, so that a diff shows only those that changed."""
    found: List[str] = []
    for name, param in sorted(params.items()):
        value = words(name, param["value"])
        if isinstance(param["value"], (list, Mapping)) and param["value"]:
            found.append(f"{name}:")
            found += [f"  {each}" for each in value]
        else:
            found.append(f"{name}: {value[0]}")
    return found


__all__ = ["line", "lines", "loaded_line", "words"]
