# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated variables through real plays, each a host's: taken, or refused in words, and no host is emptied by any of them.

BPF_OOM_PLAYS says how many hosts; `make test-long` takes some hundreds.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import re
from typing import Any

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.plugin_utils.inputs import Inputs
from conftest import COLLECTION, Run

HOSTS = int(os.environ.get("BPF_OOM_PLAYS", "10"))
A_PLAY = 50
SET = "Ensure the complete set of policies"
PASSWORD = "password"


class Tagged:
    def __init__(self, tag: str, text: str) -> None:
        self.tag, self.text = tag, text


def written(value: Any) -> str:
    """YAML in one line, with Ansible's tags."""
    if isinstance(value, Tagged):
        return f"{value.tag} {json.dumps(value.text)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, float):
        return {"inf": ".inf"}.get(str(value), str(value))
    return json.dumps(value)


def variables(role: str) -> list[str]:
    specs = yaml.safe_load((COLLECTION / "roles" / role / "meta/argument_specs.yml").read_text(encoding="utf-8"))[
        "argument_specs"
    ]
    (entry,) = specs.values()
    return sorted(entry["options"])


@pytest.mark.parametrize("role", ["policies", "kill_log"])
@pytest.mark.parametrize("number", range(-(-HOSTS // A_PLAY)))
def test_any_value_of_any_variable(run: Run, tmp_path: pathlib.Path, role: str, number: int) -> None:
    vault = VaultLib([("default", VaultSecret(PASSWORD.encode()))])
    inputs = Inputs(number, lambda text: Tagged("!vault", vault.encrypt(text).decode()), lambda text: Tagged("!unsafe", text))
    choose = random.Random(number)
    names = variables(role)
    hosts: dict[str, dict[str, Any]] = {}
    for each in range(min(HOSTS, A_PLAY)):
        name = choose.choice(names)
        host: dict[str, Any] = {"bpf_oom_policies": {"kept": {"policy": "largest_leaf"}}}
        host[name] = inputs.policies() if name == "bpf_oom_policies" or choose.random() < 0.1 else inputs.value()
        # A name that nobody has is nobody's package; what may install must not here.
        hosts[f"h{each}"] = {**host, "bpf_oom_manage_packages": False, "bpf_oom_kill_log_manage_packages": False}
    (tmp_path / "password").write_text(PASSWORD)
    play = [{"hosts": "all", "gather_facts": False, "roles": [{"role": f"linuxmm.bpf_oom.{role}"}]}]
    text = "".join(f"    {name}: {written(host)}\n" for name, host in hosts.items())
    done = run(
        play, inventory_text=f"all:\n  hosts:\n{text}", arguments=("--check", "--vault-password-file", str(tmp_path / "password"))
    )
    for pattern in (r"Traceback", r"Unexpected failure", r"MODULE FAILURE", r"object has no attribute"):
        assert not re.search(pattern, done.output), done.output[-4000:]
    told = {task["host"] for task in done.tasks}
    assert told == set(hosts), done.output[-4000:]
    for task in done.tasks:
        # What ansible-core's own check of a role's variables says of a vaulted one is ansible-core's.
        if "Check the variables" not in task["task"] and "Validating arguments" not in task["task"]:
            assert "s3cret" not in json.dumps(task["result"]), task
        if task["how"] == "failed":
            assert task["result"].get("msg"), task
        elif role == "policies" and task["task"].endswith(SET) and task["result"].get("policies") == {}:
            given = hosts[task["host"]]["bpf_oom_policies"]
            absent = isinstance(given, dict) and all(
                isinstance(entry, dict) and entry.get("state") == "absent" for entry in given.values()
            )
            assert absent or str(given) == "{}", hosts[task["host"]]
