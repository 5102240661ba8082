# SPDX-License-Identifier: GPL-3.0-or-later
"""Real plays in check mode on this machine, which need no capable kernel and change nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

HERE = pathlib.Path(__file__).resolve().parent
COLLECTION = HERE.parents[1]
#: What makes a play independent of the machine that it runs on.
SETTINGS = {"bpf_oom_on_incapable": "persist_only", "bpf_oom_manage_packages": False}


@dataclasses.dataclass
class Play:
    """How a play went: its exit status, what it printed, and each task's result."""

    status: int
    output: str
    tasks: list[dict[str, Any]]

    def result(self, name: str, host: str = "localhost") -> dict[str, Any]:
        """Of the last task on that host whose name ends so."""
        found = [task["result"] for task in self.tasks if task["task"].endswith(name) and task["host"] == host]
        assert found, f"no task {name!r} has run: {self.output[-4000:]}"
        return dict(found[-1])

    def failure(self, host: str = "localhost") -> str:
        """What the first failed task of that host says, '' if none has failed."""
        failed = [str(task["result"].get("msg")) for task in self.tasks if task["how"] == "failed" and task["host"] == host]
        return failed[0] if failed else ""

    def refused(self, host: str = "localhost") -> str:
        """The sentence with which a host failed, before a task could change anything."""
        said = self.failure(host)
        assert said and "Traceback" not in said, self.output[-4000:]
        assert not any(task["result"].get("changed") for task in self.tasks if task["host"] == host), self.output[-4000:]
        return said


Run = Callable[..., Play]


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    """Runs a playbook, a path or plays as data; `extra` are texts as one types them after -e, or a dictionary."""

    def play(
        playbook: str | list[dict[str, Any]],
        *extra: str | dict[str, Any],
        inventory: dict[str, Any] | None = None,
        hosts: dict[str, dict[str, Any]] | None = None,
        inventory_text: str = "",
        arguments: tuple[str, ...] = ("--check", "--diff"),
        directory: pathlib.Path | None = None,
        **environment: str,
    ) -> Play:
        if not isinstance(playbook, str):
            file = tmp_path / "play.yml"
            file.write_text(json.dumps(playbook))
            playbook = str(file)
        variables = {"ansible_connection": "local", **SETTINGS, **(inventory or {})}
        written = json.dumps({"all": {"hosts": hosts or {"localhost": None}, "vars": variables}})
        (tmp_path / "inventory.yml").write_text(
            f"{inventory_text}  vars: {json.dumps(variables)}\n" if inventory_text else written
        )
        results = tmp_path / "results.json"
        results.write_text("")
        command = [
            str(pathlib.Path(sys.executable).with_name("ansible-playbook")),
            "-i",
            str(tmp_path / "inventory.yml"),
            playbook,
        ]
        for each in extra:
            command += ["-e", each if isinstance(each, str) else json.dumps(each)]
        done = subprocess.run(
            [*command, *arguments],
            cwd=directory or tmp_path,
            env={
                **os.environ,
                "PWD": str(directory or tmp_path),
                "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
                "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback"),
                "ANSIBLE_HOME": str(tmp_path / "home"),
                "ANSIBLE_LOCALHOST_WARNING": "False",
                "RESULTS": str(results),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Play(done.returncode, done.stdout, [json.loads(line) for line in results.read_text().splitlines()])

    return play


def role(name: str = "policies", **variables: Any) -> list[dict[str, Any]]:
    """A play of one role."""
    return [
        {
            "hosts": "all",
            "gather_facts": False,
            "roles": [{"role": f"linuxmm.bpf_oom.{name}", **variables}],
        }
    ]
