# SPDX-License-Identifier: GPL-3.0-or-later
"""Parameters: what is taken, what is refused, and that each refusal says what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.params import (
    SELECTORS_SIZE,
    as_bytes,
    check_glob,
    check_name,
    check_selector,
    glob_pattern,
    selectors_bytes,
    show_selectors,
)
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.typed import check_metadata, spelled_number, type_params
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.words import number_words, param_line
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.run import resolve_users
from hypothesis import given as drawn
from hypothesis import strategies as st

SPECS = {
    "size": {"type": "u64", "unit": "bytes", "range": [0, 1000], "default": 0},
    "count": {"type": "bool", "default": False},
    "delta": {"type": "s32", "default": -1},
    "level": {"type": "choice", "choices": {"some": 0, "full": 1}, "default": "full"},
    "scope": {"type": "selectors", "default": []},
    "protect": {"type": "selectors", "of": ["cgroup", "own", "name", "uid"], "default": ["/init.scope", "name:sshd"]},
    "prefer": {"type": "selectors", "of": ["cgroup", "own", "name", "uid"], "default": []},
    "priorities": {"type": "weights", "range": [0, 1000], "default": {}},
    "memory": {"type": "u64", "unit": "bytes", "default": 0},
    "window_us": {"type": "u32", "unit": "microseconds", "default": 1000000},
    "stall_us": {"type": "u32", "unit": "microseconds", "percent_of": "window_us", "default": 500000},
    "pause_ms": {"type": "u32", "unit": "milliseconds", "default": 0},
    "weight": {"type": "u32", "unit": "percent", "range": [0, 100], "default": 0},
    "low": {"type": "u32", "default": 1},
    "high": {"type": "u32", "default": 2},
}
CONSTRAINTS = [["protect", "shares nothing with", "prefer"], ["low", "<=", "high"], ["size", "is a multiple of", 8, "count"]]


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
        ("scope", [], []),
        ("scope", ["/"], ["/"]),
        ("scope", ["/a", "/a", "/b"], ["/a", "/b"]),
        ("scope", ["/system.slice/memory.slice"], ["/system.slice/memory.slice"]),
        ("scope", ["/system.slice/system-a\\x2db@*.slice"], ["/system.slice/system-a\\x2db@*.slice"]),
        ("scope", ["/a b/ü?"], ["/a b/ü?"]),
        ("protect", ["name:my:d*", "uid:0", "uid:1000-1999", "/a"], ["name:my:d*", "uid:0", "uid:1000-1999", "/a"]),
        (
            "protect",
            ["own:/a", "own:/", "name:db@26", "name:db@1000-1999"],
            ["own:/a", "own:/", "name:db@26", "name:db@1000-1999"],
        ),
        ("protect", ["/a/memory.hog", "/a/tab\there", "/a/\udcff"], ["/a/memory.hog", "/a/tab\there", "/a/\udcff"]),
        ("scope", ["/a" * 32], ["/a" * 32]),
        ("priorities", {"/a": 0, "/b/*": "1000"}, {"/a": 0, "/b/*": 1000}),
        ("memory", "64M", 64 << 20),
        ("memory", "1 GiB", 1 << 30),
        ("memory", "17", 17),
        ("window_us", "250us", 250),
        ("window_us", "500ms", 500000),
        ("window_us", "10s", 10000000),
        ("pause_ms", "2min", 120000),
        ("pause_ms", "1h", 3600000),
        ("pause_ms", "2000us", 2),
        ("stall_us", "50%", 500000),
        ("weight", "50%", 50),
        ("scope", "/a", ["/a"]),
        ("protect", "user:postgres", ["user:postgres"]),
        ("protect", ["uid:postgres", "user:postgres", "user:26", "user:1-2"], ["user:postgres", "uid:26", "uid:1-2"]),
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
        ({"scope": 5}, "list of selectors"),
        ({"scope": "a"}, "not absolute"),
        ({"scope": {"/a": 1}}, "list of selectors"),
        ({"scope": "user:postgres"}, "selector of kind user, which has no meaning here"),
        ({"protect": "user:"}, "names no user"),
        ({"protect": "user:a b"}, "names no user; give uid:NUMBER, uid:FIRST-LAST or user:NAME"),
        ({"scope": ["/sys/fs/cgroup/a"]}, "begins with /sys/fs/cgroup; leave that out, as in /a"),
        ({"scope": ["/sys/fs/cgroup"]}, "leave that out, as in /\\."),
        ({"protect": ["own:/sys/fs/cgroup/a"]}, "leave that out"),
        ({"scope": ["/**/x"]}, "'\\*\\*', which stands for no more than '\\*'"),
        ({"scope": ["/a[0-9]"]}, "brackets, which stand for themselves"),
        ({"protect": ["/{a,b}"]}, "brackets"),
        ({"priorities": {"/a/**": 1}}, "no more than"),
        ({"memory": "64MB"}, "give a whole number from 0 to .* bytes, or a size such as 64M"),
        ({"memory": "64m"}, "such as 64M"),
        ({"memory": "-1M"}, "such as 64M"),
        ({"memory": "\u0663M"}, "such as 64M"),
        ({"memory": "99999999999T"}, "such as 64M"),
        ({"pause_ms": "500us"}, "a time such as 500ms or 10s"),
        ({"pause_ms": "50%"}, "a time such as"),
        ({"stall_us": "0.5%"}, "or a share such as 50% of 'window_us'"),
        ({"stall_us": "33%", "window_us": 10}, "no whole number"),
        ({"window": 5}, "'window' is 5, and of what is not said; give a time such as 500ms or 10s, or call it 'window_us'"),
        ({"window": "10s", "window_us": 5}, "Both 'window' and 'window_us'"),
        ({"size": "\u00b2"}, "whole number"),
        ({"size": "--1"}, "whole number"),
        ({"scope": [5]}, "5 is no selector"),
        ({"scope": ["relative"]}, "not absolute"),
        ({"scope": ["name:x"]}, "'scope': 'name:x' is a selector of kind name, which has no meaning here"),
        ({"scope": [f"/{number}" for number in range(33)]}, "33 selectors; give 32 at most"),
        ({"protect": ["name:"]}, "can be no process name"),
        ({"protect": ["name:sixteen-bytes-xx"]}, "1 to 15 bytes"),
        ({"protect": ["name:a\nb"]}, "can be no process name"),
        ({"protect": ["uid:-1"]}, "names no users"),
        ({"protect": ["uid:5-4"]}, "names no users"),
        ({"protect": ["uid:4294967295"]}, "names no users"),
        ({"protect": ["own:a"]}, "not absolute"),
        ({"protect": ["own:"]}, "not absolute"),
        ({"protect": ["name:db@5-4"]}, "names no users; give name:GLOB for the names of root's processes"),
        ({"scope": ["own:/a"]}, "'own:/a' is a selector of kind own, which has no meaning here"),
        ({"prefer": ["name:sshd"]}, "'name:sshd' is both in 'protect' and in 'prefer'"),
        ({"priorities": ["/a"]}, "dictionary of globs and numbers"),
        ({"priorities": {"/a": -1}}, "from 0 to 1000"),
        ({"priorities": {"/a": 1001}}, "from 0 to 1000"),
        ({"priorities": {"/a": True}}, "from 0 to 1000"),
        ({"priorities": {"name:a": 1}}, "no meaning here"),
        ({"priorities": {f"/{number}": 1 for number in range(33)}}, "33 selectors"),
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
        ("/a\nb", "newline or a zero byte"),
        ("/a\0b", "newline or a zero byte"),
        ("/a" * 33, "more than 32 levels"),
        ("/" + "x" * 255, "longer than 255 bytes"),
        ("/" + "ü" * 128, "longer than 255 bytes"),
        ("/a/memory.max", "file of the cgroup interface"),
        ("/a/cgroup.procs", "file of the cgroup interface"),
        ("/a/io.pressure", "file of the cgroup interface"),
    ],
)
def test_impossible_cgroup(path: str, says: str) -> None:
    with pytest.raises(BpfOomError, match=says):
        check_glob(path)


@pytest.mark.parametrize(
    ("glob", "text", "matches"),
    [
        ("db@*.service", "db@1.service", True),
        ("db@*.service", "db@.service", True),
        ("db@*.service", "db@1.services", False),
        ("*", "", True),
        ("a*b*c", "a-b-b-c", True),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("a\\x2db", "a\\x2db", True),
        ("a.b", "axb", False),
        ("caf?", "caf\u00e9", False),
        ("caf??", "caf\u00e9", True),
        ("caf?", "caf\udcff", True),
        ("a?", "a\n", True),
    ],
)
def test_globs_stand_for_what_they_say(glob: str, text: str, matches: bool) -> None:
    assert bool(glob_pattern(glob).match(as_bytes(text))) is matches


def test_selectors_as_the_policies_read_them() -> None:
    values = ["/", "/a/*", "name:d*", "uid:0", "uid:7-9", "own:/b", "name:x@26"]
    raw = selectors_bytes({"type": "selectors", "value": values})
    size = 308
    assert len(raw) == SELECTORS_SIZE == 32 * size
    rows = [raw[at : at + size] for at in range(0, len(raw), size)]
    assert rows[0] == b"\1" + bytes(size - 1)
    # Kind, users, weight, how many names, where each begins, and the glob.
    assert rows[1] == b"\1" + bytes(15) + b"\2\0\0\0\1\3" + bytes(30) + b"/a/*" + bytes(252)
    assert rows[2][:20] == b"\2" + bytes(19) and rows[2][52:55] == b"d*\0"
    assert rows[3] == b"\3" + bytes(size - 1)
    assert rows[4][:12] == b"\3\0\0\0\7\0\0\0\x09\0\0\0"
    assert rows[5][:22] == b"\4" + bytes(15) + b"\1\0\0\0\1\0"
    assert rows[6][:12] == b"\2\0\0\0\x1a\0\0\0\x1a\0\0\0"
    assert show_selectors(raw) == ", ".join(values)
    assert show_selectors(bytes(SELECTORS_SIZE)) == "nobody"


def test_of_weights_the_longest_glob_comes_first() -> None:
    raw = selectors_bytes({"type": "weights", "value": {"/a": 5, "/a/b*": 7, "/c": 1000}})
    assert show_selectors(raw) == "/a/b*=7, /a=5, /c=1000"


@pytest.mark.parametrize("text", ["/a", "name:x", "name:x@0-4294967294", "uid:3", "uid:0-4294967294", "own:/a"])
def test_a_selector_is_taken(text: str) -> None:
    assert check_selector(text)[0] in ("cgroup", "own", "name", "uid")


def test_a_parameter_may_be_called_without_its_unit_when_the_value_says_it() -> None:
    params = type_params(SPECS, CONSTRAINTS, {"window": "10s", "stall": "60%", "pause": 0}, "p")
    assert [params[name]["value"] for name in ("window_us", "stall_us", "pause_ms")] == [10000000, 6000000, 0]


@pytest.mark.parametrize(
    ("unit", "number", "text"),
    [
        ("bytes", 64 << 20, "64M"),
        ("bytes", (64 << 20) + 1, "67108865"),
        ("bytes", 0, "0"),
        ("microseconds", 500000, "500ms"),
        ("microseconds", 10000000, "10s"),
        ("microseconds", 1001, "1001us"),
        ("milliseconds", 1500, "1500ms"),
        ("percent", 50, "50%"),
        ("", 1024, "1024"),
    ],
)
def test_a_number_is_shown_exactly(unit: str, number: int, text: str) -> None:
    assert number_words(number, unit) == text
    assert text == str(number) or spelled_number(text, unit) == number


@drawn(st.sampled_from(["bytes", "microseconds", "milliseconds", "percent"]), st.integers(0, 2**64 - 1))
def test_what_is_shown_is_read_back(unit: str, number: int) -> None:
    shown = number_words(number, unit)
    assert int(shown) == number if shown.isdigit() else spelled_number(shown, unit) == number


def test_a_user_by_name_is_a_number_where_the_policy_runs() -> None:
    param: dict[str, Any] = {"type": "selectors", "value": ["/a", "user:root", "user:nobody-of-this-name"]}
    resolve_users({"protect": param})
    assert param["users"] == {"root": 0, "nobody-of-this-name": None}
    assert show_selectors(selectors_bytes(param)) == "/a, uid:0"
    assert param_line("protect", param) == "/a, user:root (0), user:nobody-of-this-name (nobody here)"
    param["users"] = {"root": 7}
    assert show_selectors(selectors_bytes(param)) == "/a, uid:7"


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
        {"kind": "oom", "parameters": {"a": {"type": "selectors", "of": ["colour"], "default": []}}},
        {"kind": "oom", "parameters": {"a": {"type": "weights", "default": {}}}},
        {"kind": "oom", "parameters": {"a": {"type": "u32", "percent_of": "b", "default": 1}}},
        {"kind": "oom", "parameters": {"a": {"type": "u32", "percent_of": "a", "default": 1}}},
    ],
)
def test_bad_metadata(data: Any) -> None:
    with pytest.raises(BpfOomError, match="correct that file"):
        check_metadata(data, "policy.yml")
