# SPDX-License-Identifier: GPL-3.0-or-later
"""The command, its link and the local fact: installed, compared, removed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.install import SHEBANG, Installation, interpreter
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.manifest import digest

DATA = b"#!/bin/true\n"


class Host:
    def __init__(self, root: Path) -> None:
        self.dest, self.link, self.fact = root / "lib/own/x.pyz", root / "x", root / "etc/facts.d/x.fact"
        (root / "lib").mkdir()
        (root / "sent").write_bytes(DATA)
        self.sent = str(root / "sent")

    def ensure(self, state: str = "present", check: bool = False, fact: bool = True) -> dict[str, Any]:
        links = [str(self.link)] + ([str(self.fact)] if fact else [])
        return Installation(str(self.dest), links).ensure(state, digest(DATA), {digest(DATA): self.sent}, check)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_four_steps(host: Host) -> None:
    assert host.ensure(check=True)["changed"] and not host.dest.exists()
    assert host.ensure()["changed"]
    assert os.readlink(host.link) == os.readlink(host.fact) == str(host.dest)
    assert host.dest.read_bytes() == DATA and host.dest.stat().st_mode & 0o777 == 0o755
    assert not host.ensure()["changed"] and not host.ensure(check=True)["changed"]


def test_without_a_fact_an_old_one_stays(host: Host) -> None:
    host.ensure()
    assert not host.ensure(fact=False)["changed"]
    assert host.fact.is_symlink()


def test_what_was_changed_is_healed(host: Host) -> None:
    host.ensure()
    host.dest.write_bytes(b"other")
    host.fact.unlink()
    found = host.ensure(check=True)
    assert found["changed"] and "x.fact: absent" in found["diff"]["before"]
    host.ensure()
    assert host.dest.read_bytes() == DATA and host.fact.is_symlink()


def test_removing_leaves_nothing(host: Host) -> None:
    host.ensure()
    assert host.ensure("absent")["changed"]
    assert not host.dest.parent.exists() and not host.link.is_symlink() and not host.fact.parent.exists()
    assert not host.ensure("absent")["changed"]


@pytest.mark.parametrize("where", ["dest", "link", "fact"])
def test_something_else_in_its_place_is_refused(host: Host, where: str) -> None:
    path = getattr(host, where)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir()
    with pytest.raises(BpfOomError, match="is something else"):
        host.ensure()


def test_the_command_is_run_by_a_python_that_can(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("#!/bin/sh\nexit 1\n")
    new.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for python in (old, new):
        python.chmod(0o755)
    assert interpreter(str(new), sys.executable) == str(new)
    assert interpreter(str(new), str(new)) == str(new)
    root = os.stat(sys.executable).st_uid == 0
    for usual in (old, tmp_path / "missing"):
        if root:
            assert interpreter(str(usual), sys.executable) == os.path.realpath(sys.executable)
        new.chmod(0o777)
        with pytest.raises(
            BpfOomError, match=r"is no Python 3\.8, which the command needs at boot, and .*new is not root's alone"
        ):
            interpreter(str(usual), str(new))


def test_another_interpreter_is_no_difference_of_the_command(tmp_path: Path) -> None:
    data, dest = SHEBANG + b"the rest\n", tmp_path / "own/x.pyz"
    (tmp_path / "sent").write_bytes(data)

    def ensure(python: str) -> dict[str, Any]:
        blobs = {digest(data): str(tmp_path / "sent")}
        return Installation(str(dest), [], python).ensure("present", digest(data), blobs, check=False)

    for python in ("/opt/python3", "/usr/bin/python3", "/opt/python3"):
        found = ensure(python)
        assert found["changed"] and dest.read_bytes() == f"#!{python} -I\nthe rest\n".encode()
        assert not ensure(python)["changed"]
    assert "run by /opt/python3" in found["diff"]["after"]
    dest.write_bytes(b"#!/opt/python3 -I\nanother rest\n")
    assert ensure("/opt/python3")["changed"]
