# SPDX-License-Identifier: GPL-3.0-or-later
"""The comparison of wanted, persisted and loaded, on plain data."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.params import selectors_bytes
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.drift import (
    Loaded,
    expected_rodata,
    load_reasons,
    observes,
    persist_reasons,
    renewals,
    scope_globs,
)
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.module_utils.common import manifest

TAGS = {"handle": "00ff"}
SCOPED = manifest(
    name="db", kind="psi", params={"scope": {"type": "selectors", "value": ["/db*"]}, "on": {"type": "bool", "value": True}}
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
        (manifest(params={}), "min_usage is unset, wanted 5"),
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
        ({"problem": "it is detached"}, "detached"),
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


def test_what_a_scope_stands_for_now() -> None:
    assert expected_rodata(SCOPED)["on"] == 1
    assert expected_rodata(SCOPED)["scope"] == selectors_bytes(SCOPED.params["scope"])
    assert scope_globs(SCOPED) == ["/db*"]
    everything = manifest(params={"scope": {"type": "selectors", "value": ["/db", "/"]}})
    assert scope_globs(everything) == []


def test_a_cgroup_that_is_not_watched_is_drift() -> None:
    rodata = {"object_digest": "3" * 64, "policy_name": "db", **expected_rodata(SCOPED)}
    found = Loaded("db", 1, 9, "bpf_psi_ops", None, rodata, watched={76})
    (reason,) = load_reasons(SCOPED, found, {"/db*": {"/db1": 76, "/db2": 77}})
    assert "does not watch the cgroup /db2" in reason
    # Loaded anew it would not watch it, either.
    assert load_reasons(SCOPED, found, {"/db*": {"/db1": 76, "/db2": 77}}, unwatchable=["/db2"]) == []
    found.watched = {76, 77}
    assert load_reasons(SCOPED, found, {"/db*": {"/db1": 76, "/db2": 77}}) == []


def test_another_list_is_told_in_its_words() -> None:
    other = selectors_bytes({"type": "selectors", "value": ["/x", "name:y"]})
    rodata = {**expected_rodata(SCOPED), "scope": other}
    (reason,) = load_reasons(SCOPED, Loaded("db", 1, 9, "bpf_psi_ops", None, rodata), {})
    assert reason == "the loaded parameter scope is /x, name:y, wanted /db*"


@pytest.mark.parametrize(("name", "nothing"), [("scope", "everything"), ("protect", "nobody"), ("avoid", "nobody")])
def test_an_empty_list_is_told_by_what_it_means(name: str, nothing: str) -> None:
    """FAULTS.md B12: both said (none), and a loaded scope of everything said nobody."""
    empty, one = ({name: {"type": "selectors", "value": value}} for value in ([], ["/x"]))
    wanted = manifest(params=empty)
    (reason,) = persist_reasons(wanted, manifest(params=one), "", "")
    assert reason == f"the persisted parameter {name} is /x, wanted {nothing}"
    for before, after, says in ((one, empty, f"/x, wanted {nothing}"), (empty, one, f"{nothing}, wanted /x")):
        rodata = {**expected_rodata(manifest(params=before)), "object_digest": "3" * 64, "policy_name": "leaf"}
        (reason,) = load_reasons(manifest(params=after), loaded(rodata=rodata), {}, TAGS)
        assert reason == f"the loaded parameter {name} is {says}"


def test_a_lost_record_of_victims_is_drift() -> None:
    (reason,) = load_reasons(manifest(), loaded(recorders={"decision_victim": "", "decision_end": "it is detached"}), {}, TAGS)
    assert "decision_end, is not attached (it is detached)" in reason


def test_who_observes() -> None:
    assert observes(manifest(params={"mode": {"type": "choice", "value": "observe", "number": 1}}))
    assert not observes(manifest(params={"mode": {"type": "choice", "value": "enforce", "number": 0}}))
    assert not observes(manifest())


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
