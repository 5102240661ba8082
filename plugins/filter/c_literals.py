# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of the inventory as literals of C, for templates of policies: nothing else of them may reach the source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

_INTEGERS = {
    "u32": (0, 2**32 - 1, "U"),
    "u64": (0, 2**64 - 1, "ULL"),
    "s32": (-(2**31), 2**31 - 1, ""),
    "s64": (-(2**63), 2**63 - 1, "LL"),
}
_BYTES_MAX = 255


def c_integer(value: Any, kind: str = "u64") -> str:
    """A whole number that fits the type, with the suffix of that type."""
    if kind not in _INTEGERS:
        raise AnsibleFilterError(f"c_integer knows no type {kind!r}; give one of {', '.join(_INTEGERS)}.")
    low, high, suffix = _INTEGERS[kind]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise AnsibleFilterError(f"c_integer: {value!r} is no {kind}; give a whole number from {low} to {high}.")
    # The smallest number has no literal of its own: what follows its sign does not fit.
    return f"({value + 1}{suffix} - 1)" if value == low < 0 else f"{value}{suffix}"


def c_string(value: Any) -> str:
    """A text as a string literal; every byte that is no letter or digit is escaped."""
    if not isinstance(value, str) or "\0" in value or len(value.encode()) > _BYTES_MAX:
        raise AnsibleFilterError(f"c_string: {value!r} is no text of at most {_BYTES_MAX} bytes without a NUL.")
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _-./:@*"
    # Three octal digits end by themselves, unlike hexadecimal ones.
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in value.encode()) + '"'


class FilterModule:
    def filters(self) -> dict[str, Callable[..., str]]:
        return {"c_integer": c_integer, "c_string": c_string}
