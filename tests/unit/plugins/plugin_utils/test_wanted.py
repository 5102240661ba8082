# SPDX-License-Identifier: GPL-3.0-or-later
"""The policies that a host's variables want: a slip never empties a host."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._wanted import (
    REFUSED,
    known_variables,
    refuse_slips,
    wanted_policies,
)
from hypothesis import given
from hypothesis import strategies as st

A = {"a": {"policy": "largest_leaf"}}


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, "No policies are wanted here: neither bpf_oom_policies nor"),
        ({"bpf_oom_policies": None}, "The variable bpf_oom_policies is empty, not even {}; "),
        ({"bpf_oom_policies": ""}, "is empty"),
        ({"bpf_oom_policies": []}, "is no dictionary"),
        ({"bpf_oom_policies": "{a"}, "is no dictionary"),
        ({"bpf_oom_policies": "[1]"}, "is no dictionary"),
        ({"bpf_oom_policies": A, "bpf_oom_policies_of_db": None}, "variable bpf_oom_policies_of_db is empty"),
        ({"bpf_oom_policies": A, "bpf_oom_policie": 1}, "variable bpf_oom_policie; call it bpf_oom_policies"),
        ({"bpf_oom_policies": A, "bpf_oom_policies_for_db": 1}, "call it bpf_oom_policies_of_"),
    ],
)
def test_a_slip_is_refused(variables: dict[str, Any], says: str) -> None:
    wanted = wanted_policies({name: value for name, value in variables.items() if name.startswith("bpf_oom_policies")}, variables)
    assert set(wanted) == {REFUSED}
    assert says in wanted[REFUSED]
    with pytest.raises(BpfOomError) as caught:
        refuse_slips(wanted)
    assert str(caught.value) == wanted[REFUSED]


def test_groups_are_merged_in_the_order_of_their_names() -> None:
    variables = {
        "bpf_oom_policies_of_b": {"a": {"params": {"scope": ["/b"]}}, "b": {}},
        "bpf_oom_policies": {"a": {"order": 1, "params": {"scope": ["/"], "x": 1}}},
    }
    merged = {"a": {"order": 1, "params": {"scope": ["/b"], "x": 1}}, "b": {}}
    assert wanted_policies(variables, [*variables, "bpf_oom_mine", "bpf_oom_set"]) == merged
    assert wanted_policies(variables, variables, False) == variables["bpf_oom_policies"]
    # What `-e bpf_oom_policies={}` leaves behind is somebody's word.
    assert wanted_policies({"bpf_oom_policies": "{}"}, ["bpf_oom_policies"]) == {}


def test_the_variables_are_those_of_roles_and_playbooks() -> None:
    assert {"bpf_oom_policies", "bpf_oom_module_key", "bpf_oom_drift_json", "bpf_oom_rollout_why"} <= known_variables()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["bpf_oom_policies", "bpf_oom_policies_of_a", "bpf_oom_policies_of_b"]), VALUES))
def test_none_but_what_is_written_down(variables: dict[str, Any]) -> None:
    wanted = wanted_policies(variables, variables)
    if not wanted:
        assert variables and all(value == {} or str(value).strip() == "{}" for value in variables.values())
