# SPDX-License-Identifier: GPL-3.0-or-later
"""The policies that a host's variables want: joined, and never none of them by a slip."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.utils.vars import merge_hash

from ..module_utils._common.errors import BpfOomError

POLICIES = "bpf_oom_policies"
#: How the variables begin that groups add theirs by.
OF_GROUP = "bpf_oom_policies_of_"
_COLLECTION = Path(__file__).resolve().parents[2]
#: In the place of a policy's name, before a sentence why the variables cannot be meant. If a filter raised it ansible-core would
#: wrap it in words about templates, other ones in each version; policy_set's action plugin says it as it is.
REFUSED = "(refused)"
# So alike that one letter more or less is the difference.
_ALIKE = 0.93


@functools.lru_cache(maxsize=None)
def known_variables() -> frozenset[str]:
    """Every variable that the roles and playbooks read or make."""
    files = [path for folder in ("roles", "playbooks") for path in (_COLLECTION / folder).rglob("*.yml")]
    return frozenset(name for path in files for name in re.findall(r"\bbpf_oom_[a-z_]+", path.read_text(encoding="utf-8")))


def _mistyped(name: str) -> str:
    """The variable that is meant by one that nothing reads, '' when none is."""
    if name == POLICIES or name.startswith(OF_GROUP) or name in known_variables():
        return ""
    alike = difflib.get_close_matches(name, known_variables(), 1, _ALIKE)
    if alike:
        return alike[0]
    return f"{OF_GROUP}* or {POLICIES}" if name.startswith(("bpf_oom_policy_", "bpf_oom_policies_")) else ""


def _policies(name: str, value: Any) -> Mapping[str, Any]:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)  # what `-e name={...}` leaves behind
        except ValueError:
            pass  # no dictionary, and told so
    if value is None or value == "":
        raise BpfOomError(
            f"the variable {name} is empty, not even {{}}", "write policies below it, {} for none of them, or remove the variable"
        )
    if not isinstance(value, Mapping):
        raise BpfOomError(
            f"the variable {name} is no dictionary", "give policies by their names, as linuxmm.bpf_oom.policy_set takes them"
        )
    return value


def wanted_policies(given: Mapping[str, Any], names: Iterable[str], merge: Any = True) -> dict[str, Any]:
    """`given`: the variables of policies that a host has; `names`: of all its variables.

    An empty set has to be written down: neither a variable that is null nor one whose name is mistyped may empty a host. What
    cannot be meant is {REFUSED: a sentence}.
    """
    try:
        return _join(given, names, bool(merge))
    except BpfOomError as error:
        return {REFUSED: str(error)}


def _join(given: Mapping[str, Any], names: Iterable[str], merge: bool) -> dict[str, Any]:
    for name in sorted(names):
        meant = _mistyped(str(name))
        if meant:
            raise BpfOomError(f"nothing reads the variable {name}", f"call it {meant} if that is meant, or something else")
    read = [name for name in sorted(given) if name == POLICIES or merge]
    if not read:
        raise BpfOomError(
            f"no policies are wanted here: neither {POLICIES} nor a variable {OF_GROUP}* is set",
            f"set them, {POLICIES}: {{}} for none at all, or bpf_oom_state: absent",
        )
    wanted: dict[str, Any] = {}
    # Later names win; a dictionary is merged into that of the same name, a list takes its place.
    for name in read:
        wanted = merge_hash(wanted, dict(_policies(name, given[name])))
    return wanted


def refuse_slips(policies: Mapping[str, Any]) -> None:
    """Raise BpfOomError with what wanted_policies() has refused."""
    if REFUSED in policies:
        cause, _semicolon, remedy = str(policies[REFUSED]).rstrip(".").rpartition("; ")
        raise BpfOomError(cause, remedy)


__all__ = ["REFUSED", "known_variables", "refuse_slips", "wanted_policies"]
