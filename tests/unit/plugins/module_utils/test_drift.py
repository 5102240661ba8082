# SPDX-License-Identifier: GPL-3.0-or-later
"""The comparison of wanted, persisted and loaded, on plain data."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._drift import (
    MISSING,
    Loaded,
    expected_rodata,
    load_reasons,
    persist_reasons,
    renewals,
    waits_for,
)
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.module_utils.common import manifest

TAGS = {"handle": "00ff"}
CGROUP = manifest(
    name="db", kind="psi", params={"cgroup": {"type": "cgroup", "value": "/db"}, "on": {"type": "bool", "value": True}}
)


def loaded(link_id: int = 1, **changes: Any) -> Loaded:
    rodata = {"object_digest": "3" * 64, "policy_name": "leaf", "min_usage": 5}
    found = Loaded("leaf", link_id, 9, "bpf_oom_ops", "leaf", rodata, True, TAGS)
    for key, value in changes.items():
        setattr(found, key, value)
    return found


def test_the_same_is_no_drift() -> None:
    assert persist_reasons(manifest(), manifest(), "", "") == []
    assert load_reasons(manifest(), loaded(), {}, TAGS) == []
    assert load_reasons(manifest(), loaded(), {}) == []


@pytest.mark.parametrize(
    ("persisted", "says"),
    [
        (None, "not persisted"),
        (manifest(order=1), "order is 1, wanted 100"),
        (manifest(kind="psi"), "kind is psi, wanted oom"),
        (manifest(program="other"), "program is other"),
        (manifest(inputs="9" * 64), "object is 999999999999, wanted 333333333333"),
        (manifest(object="9" * 64), "other contents"),
        (manifest(params={"min_usage": {"type": "u64", "value": 6}}), "min_usage is 6, wanted 5"),
        (manifest(params={}), "min_usage is 'unset', wanted 5"),
    ],
)
def test_persisted_drift(persisted: Any, says: str) -> None:
    (reason,) = persist_reasons(manifest(), persisted, "", "")
    assert says in reason


def test_a_damaged_manifest_or_object_is_drift() -> None:
    assert persist_reasons(manifest(), None, "damaged", "") == ["damaged"]
    assert persist_reasons(manifest(), manifest(), "", "missing object") == ["missing object"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"problem": "the kernel has detached it"}, "detached"),
        ({"struct": "bpf_psi_ops"}, "is a bpf_psi_ops"),
        ({"ops_name": "x"}, "kernel log calls it 'x'"),
        ({"frozen": False}, "not frozen"),
        ({"tags": {"handle": "1234"}}, "not those that were loaded"),
        ({"rodata": {"object_digest": "4" * 64, "policy_name": "leaf", "min_usage": 5}}, "object is 444444444444"),
        ({"rodata": {"object_digest": "3" * 64, "policy_name": "leaf", "min_usage": 4}}, "min_usage is 4, wanted 5"),
        ({"rodata": {"object_digest": "3" * 64, "policy_name": "leaf"}}, "min_usage is None, wanted 5"),
    ],
)
def test_loaded_drift(changes: dict[str, Any], says: str) -> None:
    (reason,) = load_reasons(manifest(), loaded(**changes), {}, TAGS)
    assert says in reason


def test_not_loaded_is_drift() -> None:
    assert load_reasons(manifest(), None, {}) == ["it is not loaded"]


def test_a_cgroup_is_its_id() -> None:
    assert expected_rodata(CGROUP, {"/db": 77})["cgroup_id"] == 77
    assert expected_rodata(CGROUP, {})["cgroup_id"] == MISSING
    assert expected_rodata(CGROUP, {})["on"] == 1
    assert waits_for(CGROUP, {}) == "/db"
    assert waits_for(CGROUP, {"/db": 77}) == ""


def test_a_cgroup_made_anew_is_drift_unless_the_policy_follows_it() -> None:
    rodata = {"object_digest": "3" * 64, "policy_name": "db", "cgroup": "/db", "cgroup_id": 76, "on": 1}
    found = Loaded("db", 1, 9, "bpf_psi_ops", None, rodata)
    (reason,) = load_reasons(CGROUP, found, {"/db": 77})
    assert "made anew" in reason
    found.callbacks = ("init", "handle_cgroup_online")
    assert load_reasons(CGROUP, found, {"/db": 77}) == []


@pytest.mark.parametrize(
    ("links", "drifted", "ordered", "anew"),
    [
        ({"a": 1, "b": 2, "c": 3}, [], True, []),
        ({"a": 1, "b": 2, "c": 3}, ["b"], True, ["b", "c"]),
        ({"a": 1, "b": 2, "c": 3}, ["b"], False, ["b"]),
        ({"a": 5, "b": 2, "c": 3}, [], True, ["b", "c"]),
        ({"a": 1, "b": 5, "c": 3}, [], True, ["c"]),
        ({"a": 1, "b": 5, "c": 3}, [], False, []),
        ({"b": 2, "c": 3}, ["a"], True, ["a", "b", "c"]),
        ({"a": 1, "b": 2}, ["c"], True, ["c"]),
    ],
)
def test_who_is_loaded_anew(links: dict[str, int], drifted: list[str], ordered: bool, anew: list[str]) -> None:
    found = {name: loaded(link_id) for name, link_id in links.items()}
    assert list(renewals(["a", "b", "c"], found, {name: ["because"] for name in drifted}, ordered)) == anew
