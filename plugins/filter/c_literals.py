# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of the inventory as literals of C, for templates of policies: nothing else of them may reach the source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.params import INTEGERS, whole_number
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._vaulted import plain

_SUFFIXES = {"u32": "U", "u64": "ULL", "s32": "", "s64": "LL"}
_BYTES_MAX = 255


def c_integer(value: Any, kind: str = "u64") -> str:
    """A whole number that fits the type, with the suffix of that type."""
    if not isinstance(kind, str) or kind not in INTEGERS:
        raise AnsibleFilterError(f"c_integer knows no type {kind!r}; give one of {', '.join(INTEGERS)}.")
    (low, high), suffix = INTEGERS[kind], _SUFFIXES[kind]
    number = whole_number(plain(value))
    # What it is instead may be a secret, and is not told; nor how ansible-core calls its type, which differs.
    if number is None or not low <= number <= high:
        raise AnsibleFilterError(f"c_integer: what it was given is no {kind}; give a whole number from {low} to {high}.")
    # The smallest number has no literal of its own: what follows its sign does not fit.
    return f"({number + 1}{suffix} - 1)" if number == low < 0 else f"{number}{suffix}"


def c_string(value: Any) -> str:
    """A text as a string literal; every byte that is no letter or digit is escaped."""
    text = plain(value)
    try:
        raw = text.encode() if isinstance(text, str) else None
    except UnicodeEncodeError:
        raw = None
    if raw is None or b"\0" in raw or len(raw) > _BYTES_MAX:
        raise AnsibleFilterError(
            f"c_string: what it was given is no text that C can hold; give at most {_BYTES_MAX} bytes of UTF-8 without a NUL."
        )
    harmless = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _-./:@*"
    # Three octal digits end by themselves, unlike hexadecimal ones.
    return '"' + "".join(chr(byte) if byte in harmless else f"\\{byte:03o}" for byte in raw) + '"'


class FilterModule:
    def filters(self) -> dict[str, Callable[..., str]]:
        return {"c_integer": c_integer, "c_string": c_string}
