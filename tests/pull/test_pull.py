# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-pull, as docs/fleet.md tells of it: a host fetches a repository and runs the play of it, on its own.

The host is this machine with a private view of its files, what is written to them is in memory and gone at the end. The
kernel's command line of that view switches loading off, so that nothing is loaded on a machine that could.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAME = "pulled"
DOCUMENT = (ROOT / "docs/fleet.md").read_text(encoding="utf-8")
SETTINGS = """\
bpf_oom_manage_packages: false
bpf_oom_on_incapable: persist_only
bpf_oom_compile_on: {compile_on}
bpf_oom_policies:
  largest:
    policy: largest_leaf
    order: {order}
  oldest:
    policy: older_than
    state: absent
"""


def documented(pattern: str) -> str:
    found = re.search(pattern, DOCUMENT, re.DOTALL | re.MULTILINE)
    assert found, f"docs/fleet.md has no {pattern}"
    return found[1]


def must(command: list[str], **environment: str) -> str:
    result = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{command}: {result.stdout}"
    return result.stdout


class Host:
    """This machine, seen from a directory whose /etc, /usr, /var and /run are its own."""

    def __init__(self, top: pathlib.Path) -> None:
        self.tree = top / "tree"
        self.tree.mkdir()
        must(["mount", "--rbind", "/", str(self.tree)])
        for name in ("etc", "usr", "var"):
            upper, work = top / f"{name}-upper", top / f"{name}-work"
            upper.mkdir()
            work.mkdir()
            layers = f"lowerdir=/{name},upperdir={upper},workdir={work}"
            must(["mount", "-t", "overlay", "-o", layers, "overlay", str(self.tree / name)])
        must(["mount", "-t", "tmpfs", "tmpfs", str(self.tree / "run")])
        must(["mount", "-t", "proc", "proc", str(self.tree / "proc")])
        (top / "cmdline").write_text("linuxmm.bpf_oom=off\n")
        must(["mount", "--bind", str(top / "cmdline"), str(self.tree / "proc/cmdline")])
        self.repository = self.tree / "var/lib/policies"
        self.repository.mkdir()
        self.git("init", "-q", "-b", "main")
        (self.repository / "inventory").write_text(f"{NAME}\nanother\n")
        (self.repository / "local.yml").write_text(documented("^```yaml\n(- name: Bring this host.*?)^```"))
        (self.repository / "group_vars").mkdir()

    def git(self, *arguments: str) -> None:
        must(["git", "-C", str(self.repository), "-c", "user.name=pull", "-c", "user.email=pull@localhost", *arguments])

    def commit(self, compile_on: str, order: int) -> None:
        (self.repository / "group_vars/all.yml").write_text(SETTINGS.format(compile_on=compile_on, order=order))
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "wanted")

    def run(self, command: list[str]) -> str:
        # There is no service manager to tell of a unit.
        home = {"SYSTEMD_OFFLINE": "1", "HOME": "/var/lib", "ANSIBLE_HOME": "/var/lib/ansible", "PYTHONDONTWRITEBYTECODE": "1"}
        return must(["chroot", str(self.tree), "env", "--chdir=/", *command], **home)

    def pull(self) -> int:
        """How many tasks changed something."""
        command = documented("^(ansible-pull --url .*?)$").replace("YOUR_REPOSITORY", "file:///var/lib/policies").split()
        output = self.run(command)
        recap = re.findall(rf"^{NAME} +: ok=\d+ +changed=(\d+) +unreachable=0 +failed=0 ", output, re.MULTILINE)
        assert len(recap) == 1, output
        return int(recap[0])

    def persisted(self) -> dict[str, int]:
        status = json.loads(self.run(["bpf-oom", "status", "--json"]))
        assert [problem["id"] for problem in status["capability"]["problems"]][:1] == ["off"], status["capability"]
        return {name: policy["order"] for name, policy in status["policies"].items() if policy["persisted"]}


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Iterator[Host]:
    must(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)])
    try:
        yield Host(tmp_path)
    finally:
        must(["umount", "--recursive", "--lazy", str(tmp_path)])


@pytest.mark.parametrize("compile_on", ["controller", "host"])
def test_a_host_follows_its_repository(host: Host, compile_on: str) -> None:
    must(["hostname", NAME])
    host.commit(compile_on, order=10)
    assert host.pull() > 0
    assert host.persisted() == {"largest": 10}
    assert host.pull() == 0
    host.commit(compile_on, order=20)
    assert host.pull() > 0
    assert host.persisted() == {"largest": 20}
