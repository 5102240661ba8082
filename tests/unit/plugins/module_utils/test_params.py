# SPDX-License-Identifier: GPL-3.0-or-later
"""Parameters: what is taken, what is refused, and that each refusal says what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._params import (
    check_cgroup_path,
    check_metadata,
    check_name,
    type_params,
)

SPECS = {
    "size": {"type": "u64", "unit": "bytes", "range": [0, 1000], "default": 0},
    "count": {"type": "bool", "default": False},
    "delta": {"type": "s32", "default": -1},
    "level": {"type": "choice", "choices": {"some": 0, "full": 1}, "default": "full"},
    "cgroup": {"type": "cgroup", "default": ""},
    "low": {"type": "u32", "default": 1},
    "high": {"type": "u32", "default": 2},
}
CONSTRAINTS = [["low", "<=", "high"], ["size", "is a multiple of", 8, "count"]]


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("size", 0, 0),
        ("size", 1000, 1000),
        ("size", "17", 17),
        ("size", 9, 9),
        ("count", True, True),
        ("count", "yes", True),
        ("count", "False", False),
        ("count", 1, True),
        ("delta", -(2**31), -(2**31)),
        ("delta", "-5", -5),
        ("level", "some", "some"),
        ("cgroup", "", ""),
        ("cgroup", "/", "/"),
        ("cgroup", "/system.slice/memory.slice", "/system.slice/memory.slice"),
        ("cgroup", "/system.slice/system-a\\x2db.slice", "/system.slice/system-a\\x2db.slice"),
    ],
)
def test_taken(name: str, given: Any, value: Any) -> None:
    assert type_params(SPECS, CONSTRAINTS, {name: given}, "p")[name]["value"] == value


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"size": 1001}, "from 0 to 1000 bytes"),
        ({"size": -1}, "from 0 to 1000"),
        ({"size": 1.5}, "whole number"),
        ({"size": True}, "whole number"),
        ({"size": "12k"}, "whole number"),
        ({"size": None}, "whole number"),
        ({"count": "perhaps"}, "true or false"),
        ({"count": 2}, "true or false"),
        ({"delta": 2**31}, "from -2147483648 to 2147483647"),
        ({"low": 2**32}, "from 0 to 4294967295"),
        ({"level": "half"}, "one of some, full"),
        ({"level": 1}, "one of some, full"),
        ({"cgroup": 5}, "absolute path"),
        ({"nonsense": 1}, "no parameter 'nonsense'"),
        ({"low": 3}, "low <= high"),
        ({"size": 9, "count": True}, "'count' is set; choose a 'size' that is a multiple of 8, or leave 'count' off"),
    ],
)
def test_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(BpfOomError, match=says):
        type_params(SPECS, CONSTRAINTS, given, "p")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("system.slice", "not absolute"),
        ("/a/../b", r"component '\.\.'"),
        ("/a/./b", r"component '\.'"),
        ("/a//b", "component ''"),
        ("/a/", "component ''"),
        ("/a\nb", "newline"),
        ("/a\0b", "NUL"),
        ("/" + "x" * 256, "longer than 255 bytes"),
        ("/" + "/".join(["x" * 200] * 3), "longer than 511 bytes"),
        ("/a/memory.max", "file of the cgroup interface"),
        ("/a/cgroup.procs", "file of the cgroup interface"),
        ("/a/io.pressure", "file of the cgroup interface"),
    ],
)
def test_impossible_cgroup(path: str, says: str) -> None:
    with pytest.raises(BpfOomError, match=says):
        check_cgroup_path(path)


def test_defaults_are_filled_in() -> None:
    assert {name: param["value"] for name, param in type_params(SPECS, CONSTRAINTS, {}, "p").items()} == {
        name: spec["default"] for name, spec in SPECS.items()
    }


def test_a_choice_carries_its_number() -> None:
    assert type_params(SPECS, CONSTRAINTS, {"level": "some"}, "p")["level"]["number"] == 0


@pytest.mark.parametrize("name", ["", "Upper", "1digit", "a.b", "a/b", "a" * 49, None, "a\n"])
def test_no_policy_name(name: Any) -> None:
    with pytest.raises(BpfOomError, match="is no policy name"):
        check_name(name)


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"kind": "both"},
        {"kind": "oom", "parameters": []} | {"parameters": [1]},
        {"kind": "oom", "parameters": {"a": {"type": "float", "default": 1}}},
        {"kind": "oom", "parameters": {"a": {"type": "u32"}}},
        {"kind": "oom", "parameters": {"a": {"type": "choice", "default": "x"}}},
        {"kind": "oom", "parameters": {"a": {"type": "u32", "default": 1}}, "constraints": [["a", "~", "a"]]},
    ],
)
def test_bad_metadata(data: Any) -> None:
    with pytest.raises(BpfOomError, match="correct that file"):
        check_metadata(data, "policy.yml")
