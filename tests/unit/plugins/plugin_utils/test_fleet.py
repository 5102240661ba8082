# SPDX-License-Identifier: GPL-3.0-or-later
"""Every host of a fleet has a state, and no host's words can break a report."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.linuxmm.bpf_oom.plugins.filter.fleet import FilterModule
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._fleet import (
    bad_hosts,
    before_change,
    fleet_bad,
    fleet_json,
    fleet_junit,
    fleet_lines,
    host_result,
    kills_between,
    observing,
)
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

CAPABLE = {"oom": True, "psi": True, "kernel": "6.12", "problems": []}
WITHOUT_PSI = {**CAPABLE, "psi": False, "problems": [{"kind": "psi", "sentence": "PSI is off."}]}
INCAPABLE = {"oom": False, "psi": False, "kernel": "6.1", "problems": [{"sentence": "This kernel has no bpf_oom_ops; boot one."}]}


def results(**changes: Any) -> dict[str, Any]:
    unit = {"boot_unit": {"installed": True, "enabled": True}, "policies": {}}
    found: dict[str, Any] = {"set": {"changed": False, "drift": [], "capability": CAPABLE}, "info": unit}
    return {**found, "command": {"changed": False}, "unit": {"changed": False}, **changes}


def drifted(aspect: str, policy: str = "leaf", what: str = "it differs") -> dict[str, Any]:
    return {"changed": True, "drift": [{"policy": policy, "aspect": aspect, "what": what}], "capability": CAPABLE}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "as_wanted"),
        ({"set": drifted("parameter")}, "drifted"),
        ({"set": drifted("foreign")}, "drifted"),
        ({"command": {"changed": True}}, "drifted"),
        ({"unit": {"changed": True}}, "drifted"),
        ({"info": {"boot_unit": {"installed": True, "enabled": False}}}, "drifted"),
        ({"set": {"drift": [], "capability": INCAPABLE, "policies": {"leaf": {"kind": "oom"}}}}, "incapable"),
        # Without PSI a host can do what OOM policies want, and without anything what no policy wants.
        ({"set": {"drift": [], "capability": WITHOUT_PSI, "policies": {"leaf": {"kind": "oom"}}}}, "as_wanted"),
        ({"set": {"drift": [], "capability": WITHOUT_PSI, "policies": {"stall": {"kind": "psi"}}}}, "incapable"),
        ({"set": {"drift": [], "capability": INCAPABLE, "policies": {}}}, "as_wanted"),
        ({"set": drifted("capability")}, "incapable"),
        ({"set": {"unreachable": True, "msg": "no route"}}, "unreachable"),
        ({"set": {"failed": True, "msg": "only root"}}, "failed"),
        ({"info": {"failed": True, "msg": "gone"}}, "failed"),
        ({"set": None}, "failed"),
    ],
)
def test_every_host_has_a_state(changes: dict[str, Any], state: str) -> None:
    found = host_result(results(**changes))
    assert found["state"] == state
    assert bool(found["why"]) == (state != "as_wanted")


def test_a_host_of_which_nothing_is_known_has_failed() -> None:
    assert host_result({}) == {
        "state": "failed",
        "why": "it gave no result",
        "drift": [],
        "policies": {},
        "kernel": None,
        "booted": None,
    }


def test_a_host_that_is_only_prepared_can_still_drift() -> None:
    both = drifted("capability")
    both["drift"].append({"policy": "leaf", "aspect": "parameter", "what": "it is 5, wanted 6"})
    found = host_result(results(set={**both, "capability": INCAPABLE}))
    assert found["state"] == "drifted"
    assert [each["aspect"] for each in found["drift"]] == ["parameter"]


def test_a_host_that_the_role_skips_has_nothing_else() -> None:
    found = host_result(results(set=drifted("capability"), command={"changed": True}, unit={"changed": True}, skips=True))
    assert (found["state"], found["drift"]) == ("incapable", [])


def test_a_unit_that_is_missing_is_one_difference() -> None:
    found = host_result(results(unit={"changed": True}, info={"boot_unit": {"installed": False, "enabled": False}}))
    assert [each["aspect"] for each in found["drift"]] == ["unit"]


FLEET = {
    "a": host_result(results()),
    "b": host_result(results(set=drifted("order"))),
    "c": host_result(results(set={"unreachable": True, "msg": "no\nroute"})),
    "d": host_result(results(set={"drift": [], "capability": INCAPABLE, "policies": {"leaf": {"kind": "oom"}}})),
}


def test_lines_for_people_have_the_worst_first_and_a_count() -> None:
    assert fleet_lines(FLEET) == [
        "c: unreachable: no route",
        "d: no capable kernel: This kernel has no bpf_oom_ops; boot one.",
        "b: drifted: 1 difference",
        "  leaf, order: it differs",
        "1 as wanted, 1 drifted, 1 no capable kernel, 1 unreachable",
    ]


def test_what_a_check_fails_for() -> None:
    assert fleet_bad(FLEET) == ["b", "c", "d"]
    assert fleet_bad(FLEET, ["incapable"]) == ["b", "c"]


def test_json_has_every_host() -> None:
    data = json.loads(fleet_json(FLEET))
    assert sorted(data["hosts"]) == ["a", "b", "c", "d"]
    assert data["counts"] == {"as_wanted": 1, "drifted": 1, "incapable": 1, "unreachable": 1, "failed": 0}


def test_junit_has_one_case_a_host() -> None:
    suite = ElementTree.fromstring(fleet_junit(FLEET, ["incapable"]))
    kinds = {case.get("name"): [each.tag for each in case] for case in suite}
    assert kinds == {"a": [], "b": ["failure"], "c": ["error"], "d": ["skipped"]}
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("4", "1", "1", "1")


@pytest.mark.parametrize("evil", ["\x1b[2J", "</testcase>", "\x00", "\ud800", "a\nb", "]]>", '"&'])
def test_no_hosts_words_break_a_report(evil: str) -> None:
    fleet = {"h": host_result(results(set=drifted("parameter", what=evil, policy=evil)))}
    assert len(ElementTree.fromstring(fleet_junit(fleet))) == 1
    assert json.loads(fleet_json(fleet))["hosts"]["h"]["drift"][0]["what"] == evil
    assert all("\n" not in line and "\x1b" not in line for line in fleet_lines(fleet))


def test_a_host_of_which_nothing_is_known_is_bad() -> None:
    assert bad_hosts({"a": [], "b": ["x", "y\nz"], "c": "unknown", "d": None}) == [
        "b: x, y z",
        "c: it gave no result",
        "d: it gave no result",
    ]


def test_what_speaks_against_a_change() -> None:
    sound = {"room": {"store": 1 << 30, "memory": 1 << 30}, "neighbours": [], "problems": [], "policies": {"p": {"drift": []}}}
    assert before_change(sound, 16, 64) == []
    assert before_change({**sound, "room": {"store": 1 << 20, "memory": None}}, 16, 64) == [
        "1 MiB are free for the store, 16 MiB are wanted"
    ]
    assert "earlyoom runs there" in before_change({**sound, "neighbours": ["earlyoom"]}, 16, 64)[0]
    assert before_change({**sound, "policies": {"p": {"drift": ["x"], "why": "x"}}}, 16, 64) == ["policy 'p' has drifted: x"]


def test_kills_in_a_soak() -> None:
    before = {"policies": {"a": {"counters": {"nr_kills": 2}}, "b": {"counters": {}}}}
    assert kills_between(before, {"policies": {"a": {"counters": {"nr_kills": 5}}}}) == 3
    assert kills_between({}, {}) == 0


def test_observing_changes_the_mode_and_nothing_else() -> None:
    given = {
        "a": {"policy": "youngest", "params": {"min_usage": 1, "mode": "enforce"}},
        "b": {"policy": "watch"},
        "c": "no policy",
    }
    assert observing(given) == {
        "a": {"policy": "youngest", "params": {"min_usage": 1, "mode": "observe"}},
        "b": {"policy": "watch", "params": {"mode": "observe"}},
        "c": "no policy",
    }
    assert given["a"]["params"]["mode"] == "enforce"  # type: ignore[index]


@pytest.mark.parametrize("accept", ["incapable", ["incapable"], ("incapable",), " incapable, unreachable"])
def test_states_to_accept_are_a_list_or_a_text(accept: Any) -> None:
    hosts = {"a": host_result(results(set=drifted("capability"))), "b": host_result(results())}
    assert fleet_bad(hosts, accept) == []
    assert 'skipped="1"' in fleet_junit(hosts, accept)


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("fleet_bad", ({}, "incapabel"), "There is no state 'incapabel' of a host to accept; give some of drifted, incapable"),
        ("fleet_junit", ({}, [1]), "no state 1"),
        ("fleet_lines", ({"a": {}},), "Of the host 'a' there is no result; give results of linuxmm.bpf_oom.host_result"),
        ("fleet_json", (None,), "there is no result"),
        ("fleet_bad", ({"a": []},), "there is no result"),
        ("observing", (None,), "no policies to observe"),
        ("host_result", ({"set": "x"},), "no results of modules"),
        ("host_result", (None,), "What host_result was given has another form than it reads"),
        ("kills_between", (1, 2), "another form"),
        ("before_change", ("", 1, 2), "another form"),
        ("bad_hosts", (None,), "another form"),
        ("fleet_report", ({"a": 1}, 0), "another form|no result"),
    ],
)
def test_what_a_filter_cannot_read_is_one_sentence(name: str, given: tuple[Any, ...], says: str) -> None:
    with pytest.raises(AnsibleFilterError, match=says) as caught:
        FilterModule().filters()[name](*given)
    assert "\n" not in str(caught.value)


WORDS = ["state", "drift", "set", "info", "policies", "capability", "why", "a"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["as_wanted", "drifted"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("name", sorted(FilterModule().filters()))
@settings(max_examples=300, deadline=None)
@drawn(given=st.lists(VALUES, min_size=1, max_size=3))
def test_no_value_gives_a_traceback(name: str, given: list[Any]) -> None:
    try:
        FilterModule().filters()[name](*given)
    except AnsibleFilterError as error:
        assert "\n" not in str(error)
