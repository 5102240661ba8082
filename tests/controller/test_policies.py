# SPDX-License-Identifier: GPL-3.0-or-later
"""The role policies and the playbooks: what of the inventory they take, and how; many hosts a play, as it takes seconds."""

from __future__ import annotations

from typing import Any

from conftest import Run, role

SET = "Ensure the complete set of policies"
LARGEST = {"a": {"policy": "largest_leaf"}}
#: Hosts whose variables hold a slip, and what is said of it.
SLIPS: dict[str, tuple[dict[str, Any], str]] = {
    "nulled": ({"bpf_oom_policies": None}, "bpf_oom_policies"),
    "mistyped": ({"bpf_oom_polices": LARGEST}, "call it bpf_oom_policies"),
    "of_another_word": ({"bpf_oom_policy_of_db": LARGEST}, "call it bpf_oom_policies_of_"),
    "nulled_of_a_group": ({"bpf_oom_policies": LARGEST, "bpf_oom_policies_of_db": None}, "bpf_oom_policies_of_db is empty"),
    "another_variable": ({"bpf_oom_policies": LARGEST, "bpf_oom_exclusiv": False}, "call it bpf_oom_exclusive"),
    "forgotten": ({}, "neither bpf_oom_policies nor a variable bpf_oom_policies_of_"),
}


def test_no_slip_empties_a_host(run: Run) -> None:
    play = run(role(), hosts={name: variables for name, (variables, _says) in SLIPS.items()})
    assert {name: says in play.refused(name) for name, (_variables, says) in SLIPS.items()} == dict.fromkeys(SLIPS, True)


def test_nor_looks_like_an_empty_set_in_a_check_of_the_fleet(run: Run) -> None:
    play = run("linuxmm.bpf_oom.drift", hosts={name: variables for name, (variables, _says) in SLIPS.items()})
    assert play.status != 0
    for name, (_variables, says) in SLIPS.items():
        assert says in play.failure(name) and "templat" not in play.failure(name)
        assert f"{name}: failed: " in play.output


def test_what_a_host_may_say(run: Run) -> None:
    of_a_group = {"b": {"policy": "youngest"}}
    hosts: dict[str, tuple[dict[str, Any], set[str]]] = {
        "none": ({"bpf_oom_policies": {}}, {"c"}),
        "some": ({"bpf_oom_policies": LARGEST}, {"a", "c"}),
        "of_groups": ({"bpf_oom_policies": LARGEST, "bpf_oom_policies_of_db": of_a_group}, {"a", "b", "c"}),
        "of_groups_only": ({"bpf_oom_policies_of_db": of_a_group}, {"b", "c"}),
        "templated": ({"bpf_oom_policies": "{{ elsewhere }}", "elsewhere": LARGEST}, {"a", "c"}),
        "as_text": ({"bpf_oom_policies": '{"a": {"policy": "largest_leaf"}}'}, {"a", "c"}),
    }
    # A parameter of the role adds to it, as a group's variable does.
    play = run(
        role(bpf_oom_policies_of_site={"c": {"policy": "youngest"}}),
        hosts={name: host for name, (host, _wanted) in hosts.items()},
    )
    assert play.status == 0, play.output[-4000:]
    assert {name: set(play.result(SET, name)["policies"]) for name in hosts} == {
        name: wanted for name, (_host, wanted) in hosts.items()
    }
