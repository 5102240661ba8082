# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles, playbooks and modules as somebody at a terminal calls them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from conftest import COLLECTION, Run, role

SET = "Ensure the complete set of policies"
LARGEST = {"a": {"policy": "largest_leaf"}}
OF_A_GROUP = {"bpf_oom_policies": LARGEST, "bpf_oom_policies_of_db": {"b": {"policy": "youngest"}}}


def tasks(*wanted: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """A play of tasks, each of which may fail."""
    return [{"hosts": "all", "gather_facts": False, "tasks": [{"ignore_errors": True, **task} for task in wanted], **more}]


def test_paths_are_relative_to_where_one_stands(run: Run, tmp_path: pathlib.Path) -> None:
    stand = tmp_path / "stand"
    stand.mkdir()
    # Each value a text, as -e makes of it.
    words = ["bpf_oom_merge=false", "bpf_oom_local_fact=false", "bpf_oom_drift_accept=incapable"]
    files = ["bpf_oom_drift_json=drift.json", f"bpf_oom_drift_junit={tmp_path}/absolute.xml"]
    play = run("linuxmm.bpf_oom.drift", *words, *files, inventory=OF_A_GROUP, directory=stand)
    (host,) = json.loads((stand / "drift.json").read_text())["hosts"].values()
    assert host["state"] in ("drifted", "incapable"), play.output[-4000:]
    assert set(host["policies"]) == {"a"}
    assert (tmp_path / "absolute.xml").exists()
    assert "facts.d" not in json.dumps(play.result("Compare the command"))


def test_the_page_is_relative_to_where_one_stands(run: Run, tmp_path: pathlib.Path) -> None:
    stand = tmp_path / "stand"
    stand.mkdir()
    # The shell's variable may be anything, the directory is what counts.
    play = run("linuxmm.bpf_oom.report", "bpf_oom_report=page.html", inventory=OF_A_GROUP, directory=stand, PWD="/")
    assert play.status == 0, play.output[-4000:]
    assert (stand / "page.html").exists()


def test_variables_of_a_role_may_be_text(run: Run) -> None:
    hosts: dict[str, dict[str, Any]] = {
        "merge": {"bpf_oom_merge": "false"},
        "local_fact": {"bpf_oom_local_fact": "no"},
        "exclusive": {"bpf_oom_exclusive": "0"},
        "packages": {"bpf_oom_packages": "bash", "bpf_oom_compiler_packages": "coreutils", "bpf_oom_manage_packages": "true"},
        "host": {"bpf_oom_compile_on": "host", "bpf_oom_packages": "bash", "bpf_oom_compiler_packages": "coreutils, dash"},
        "none": {"bpf_oom_manage_packages": "false"},
    }
    hosts["host"]["bpf_oom_manage_packages"] = "yes"
    play = run(role(), hosts=hosts, inventory={**OF_A_GROUP, "bpf_oom_manage_packages": "False"})
    assert play.status == 0, play.output[-4000:]
    assert set(play.result(SET, "merge")["policies"]) == {"a"}
    assert "facts.d" not in json.dumps(play.result("Install the command bpf-oom", "local_fact"))
    assert "facts.d" in json.dumps(play.result("Install the command bpf-oom", "merge"))
    needs = "Install what loading a policy needs"
    assert [task["how"] for task in play.tasks if task["task"].endswith(needs) and task["host"] in ("packages", "host")] == [
        "ok"
    ] * 2


def test_where_systemd_is_missing_a_check_says_what_would_be(run: Run, tmp_path: pathlib.Path) -> None:
    play = [{**role()[0], "environment": {"PATH": str(tmp_path)}}]
    done = run(play, inventory=OF_A_GROUP)
    assert done.status == 0, done.output[-4000:]
    gone = run([{**role()[0], "environment": {"PATH": str(tmp_path)}}], {"bpf_oom_state": "absent"})
    assert gone.status == 0, gone.output[-4000:]


def test_bad_input_is_one_sentence(run: Run) -> None:
    once = {"ansible.builtin.include_role": {"name": "linuxmm.bpf_oom.policies"}}
    wanted: dict[str, tuple[dict[str, Any], str]] = {
        "dest": ({"linuxmm.bpf_oom.boot_cli": {"dest": "x.pyz"}}, "The dest 'x.pyz' is relative"),
        "link": ({"linuxmm.bpf_oom.boot_cli": {"link": "x"}}, "The link 'x' is relative"),
        "decisions": ({"linuxmm.bpf_oom.policy_info": {"decisions": -5}}, "There are no -5 decisions"),
        "expect": ({"linuxmm.bpf_oom.drill": {"expect": []}}, "The drill expects nobody to die"),
        "parent": ({"linuxmm.bpf_oom.drill": {"expect": "largest", "parent": "/sys/fs/cgroup/x"}}, "leave that out, as in /x"),
        "kept": (
            {"linuxmm.bpf_oom.policy_backup": {"name": "never-kept", "state": "restored"}},
            "No set is kept as 'never-kept'",
        ),
        "defaults": ({"linuxmm.bpf_oom.policy_set": {"policies": {}}}, "compile_on must be one of"),
        "of one": ({"linuxmm.bpf_oom.oom_policy": {"name": "a", "policy": "youngest"}}, "compile_on must be one of"),
    }
    first = tasks(
        *({"name": name, **task} for name, (task, _says) in wanted.items()),
        module_defaults={"group/linuxmm.bpf_oom.policies": {"compile_on": "nowhere"}, "group/linuxmm.bpf_oom.all": {}},
    )
    second = tasks(
        {**once, "name": "first", "vars": {"bpf_oom_policies": LARGEST}},
        {**once, "name": "second", "vars": {"bpf_oom_policies": {"b": {"policy": "youngest"}}}},
    )
    play = run(first + second)
    said = {name: play.result(name).get("msg", "") for name in wanted}
    assert {name: text for name, text in said.items() if wanted[name][1] not in text} == {}
    assert "name one of none" not in said["kept"]
    assert "This call would drop a, which an earlier call" in play.result("Refuse a second set that would drop the first")["msg"]
    planned = play.result(SET)
    assert set(planned["policies"]) == {"a"}
    assert not any(sentence.startswith("Persisted") for sentence in planned.get("warnings", []))


@pytest.mark.parametrize(
    ("playbook", "extra", "says"),
    [
        ("drill", {"bpf_oom_drill": {"expct": ["largest"]}}, "expct"),
        ("rollout", "bpf_oom_rollout_soak=soon", "bpf_oom_rollout_soak"),
    ],
)
def test_a_variable_of_a_playbook_that_cannot_be_meant(run: Run, playbook: str, extra: Any, says: str) -> None:
    play = run(f"linuxmm.bpf_oom.{playbook}", extra, inventory=OF_A_GROUP)
    assert says in play.refused()
    assert not any("linuxmm" in task["task"] or "Plan" in task["task"] for task in play.tasks)


def test_templates_rehearsals_and_names_of_packages(run: Run) -> None:
    names = {"msg": "{{ bpf_oom_packages + bpf_oom_compiler_packages }}"}
    files = [f"{COLLECTION}/roles/policies/{name}/main.yml" for name in ("defaults", "vars")]
    stall = {"policy": "pressure_oom", "params": {"scope": "/a"}}
    watch = {"policy": "largest_leaf", "params": {"mode": "observe"}}
    play = run(
        tasks(
            {"name": "rhel", "ansible.builtin.debug": names, "vars": {"ansible_facts": {"os_family": "RedHat"}}},
            {"name": "debian", "ansible.builtin.debug": names},
            {
                "name": "template",
                "linuxmm.bpf_oom.oom_policy": {
                    "name": "templated",
                    "src": f"{COLLECTION}/tests/integration/templates/older_than.bpf.c.j2",
                    "on_incapable": "persist_only",
                },
                "vars": {"older_than_ns": "60000000000"},
            },
            {
                "name": "kills",
                "linuxmm.bpf_oom.policy_set": {"policies": {"watch": watch, "stall": stall}, "on_incapable": "persist_only"},
            },
            vars_files=files,
        )
    )
    assert play.result("rhel")["msg"] == ["libbpf", "clang", "llvm", "libbpf-devel"]
    assert play.result("debian")["msg"] == ["libbpf1", "clang", "llvm", "libbpf-dev"]
    assert play.result("template")["policy"]["persisted"]
    assert "DEPRECATION" not in play.output
    assert any("stall declares OOMs while every OOM policy" in each for each in play.result("kills")["warnings"])


def test_a_check_that_finds_something_ends_with_its_own_status(run: Run) -> None:
    play = run(role(), inventory=OF_A_GROUP, ANSIBLE_CALLBACKS_ENABLED="linuxmm.bpf_oom.drift_exit")
    assert (play.status, "drift: localhost" in play.output) == (3, True), play.output[-4000:]
    assert "DEPRECATION" not in play.output
