# SPDX-License-Identifier: GPL-3.0-or-later
"""What a look at a fleet costs: `make bench-fleet`. Each comparison in one run, ratios; nothing is asserted of a time.

Prints Markdown, which docs/scale.md quotes. Needs root. Two kinds of hosts, each with 20 persisted policies:

- One emulated machine with the capable kernel, where all 20 are loaded and act: a check compares everything.
- Many addresses of one sshd in a network namespace, in the files of the same Debian 13, on this machine's own kernel, which
  cannot load policies: a check compares what is persisted. It shows what the controller needs, and an unemulated host.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "molecule" / "shared"))

import accel  # noqa: E402
import image  # noqa: E402
import machine  # noqa: E402

SIZES = (10, 100, 1000)
FORKS = 20
TURNS = 15
POLICIES = {
    f"{policy.replace('_', '-')}-{number}": {"policy": policy, "order": 10 * number, "params": {"min_usage": number << 20}}
    for number in range(1, 5)
    for policy in ("largest_leaf", "largest_process", "by_priority", "youngest", "over_request")
}
# Both are looked at in the same way, or what that takes would be counted as the check's.
JUDGED = {"register": "found", "failed_when": "found is failed or found is changed"}
MODULES = {
    "ping": {"ansible.builtin.ping": {}, **JUDGED},
    "check": {
        "linuxmm.bpf_oom.policy_set": {"policies": POLICIES, "on_incapable": "persist_only"},
        "check_mode": True,
        **JUDGED,
    },
}


class Bench:
    def __init__(self, work: pathlib.Path) -> None:
        self.work = work
        self._runs = 0

    def play(self, inventory: dict[str, Any], tasks: list[dict[str, Any]], **environment: str) -> dict[str, float]:
        """Run tasks on all hosts; seconds of the wall and of the controller's CPUs, and MiB of its largest process."""
        self._runs += 1
        directory = self.work / f"run{self._runs}"
        directory.mkdir()
        book, hosts, log = directory / "play.json", directory / "hosts.json", directory / "log"
        book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
        hosts.write_text(json.dumps({"all": {"hosts": inventory}}))
        settings = {
            "ANSIBLE_FORKS": str(FORKS),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_TIMEOUT": "120",
            # Each run makes its own connections.
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(directory),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
            "JUNIT_OUTPUT_DIR": str(directory),
            **environment,
        }
        began = time.monotonic()
        with log.open("w") as output:
            process = subprocess.Popen(
                ["ansible-playbook", "--inventory", str(hosts), str(book)],
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            _pid, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        if status:
            raise SystemExit(f"ansible-playbook ended with {os.waitstatus_to_exitcode(status)}:\n{log.read_text()[-3000:]}")
        return {"wall": wall, "cpu": used.ru_utime + used.ru_stime, "mib": used.ru_maxrss / 1024}

    def by_turns(self, host: dict[str, Any]) -> dict[str, float]:
        """The median seconds of a task, ping and check by turns in one play on one host."""
        tasks = [{"name": f"{name} {turn}", **module} for turn in range(TURNS + 1) for name, module in MODULES.items()]
        self.play({"host": host}, tasks, ANSIBLE_CALLBACKS_ENABLED="ansible.builtin.junit")
        (report,) = (self.work / f"run{self._runs}").glob("*.xml")
        times: dict[str, list[float]] = {name: [] for name in MODULES}
        for case in ElementTree.parse(report).iter("testcase"):
            # [host] play: task arguments
            task = re.search(r": (\w+) (\d+)( |$)", case.attrib["name"])
            # The first of each connects, and loads what is loaded once.
            if task and task[2] != "0":
                times[task[1]].append(float(case.attrib["time"]))
        assert all(len(each) == TURNS for each in times.values()), times
        return {name: statistics.median(each) for name, each in times.items()}

    def persist(self, host: dict[str, Any]) -> None:
        arguments = {**MODULES["check"]["linuxmm.bpf_oom.policy_set"]}
        self.play({"host": host}, [{"linuxmm.bpf_oom.policy_set": arguments}])


@contextlib.contextmanager
def booted() -> Iterator[dict[str, Any]]:
    one = machine.create("bpf-oom-bench")
    try:
        yield one.inventory()
    finally:
        one.destroy()


@contextlib.contextmanager
def served(work: pathlib.Path) -> Iterator[dict[str, Any]]:
    """An sshd in Debian's files; what is written to them is in memory and gone with this process's namespaces."""
    root = image.image()
    base, top, tree = work / "base", work / "top", work / "tree"
    for directory in (base, top, tree):
        directory.mkdir()
    run(["ip", "link", "set", "lo", "up"])
    run(["mount", "-o", "loop,ro", str(root / "root.ext4"), str(base)])
    run(["mount", "-t", "tmpfs", "tmpfs", str(top)])
    for name in ("upper", "work"):
        (top / name).mkdir()
    run(["mount", "-t", "overlay", "-o", f"lowerdir={base},upperdir={top}/upper,workdir={top}/work", "overlay", str(tree)])
    for kind in ("proc", "sysfs", "devtmpfs", "tmpfs"):
        run(["mount", "-t", kind, kind, str(tree / {"proc": "proc", "sysfs": "sys", "devtmpfs": "dev", "tmpfs": "run"}[kind])])
    (tree / "run/sshd").mkdir()
    options = ["-o", "MaxStartups=200", "-o", "MaxSessions=50", "-o", "PerSourcePenalties=no", "-o", "UsePAM=no"]
    server = subprocess.Popen(["chroot", str(tree), "/usr/sbin/sshd", "-D", *options], stdin=subprocess.DEVNULL)
    common = ["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={root}/known_hosts"]
    common += ["-o", f"HostKeyAlias={image.HOST_NAME}", "-o", "LogLevel=ERROR"]
    try:
        yield {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(root / "id_ed25519"),
            "ansible_ssh_common_args": shlex.join(common),
            "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=10s",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
    finally:
        server.terminate()
        server.wait()
        for directory in (tree, top, base):
            run(["umount", "--recursive", "--lazy", str(directory)])


def run(command: list[str]) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)


def addressed(host: dict[str, Any], number: int) -> dict[str, Any]:
    """So many hosts, each at an address of its own of the loopback network."""
    return {f"host{each:04}": {**host, "ansible_host": f"127.1.{each // 250}.{each % 250 + 1}"} for each in range(1, number + 1)}


def many(work: pathlib.Path) -> None:
    bench = Bench(work)
    with served(work) as host:
        first = next(iter(addressed(host, 1).values()))
        bench.persist(first)
        times = bench.by_turns(first)
        difference = 1000 * (times["check"] - times["ping"])
        print(f"\nOne host without emulation, medians of {TURNS}: ping {1000 * times['ping']:.0f} ms, check", end=" ")
        print(f"{1000 * times['check']:.0f} ms, {difference:.0f} ms more, ratio {times['check'] / times['ping']:.2f}.\n")
        print("| hosts | controller's CPU, s: ping | check | ratio | memory, MiB: ping | check | wall, s: ping | check |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for number in SIZES:
            found = {name: bench.play(addressed(host, number), [module]) for name, module in MODULES.items()}
            ping, check = found["ping"], found["check"]
            cells = [f"{number}", f"{ping['cpu']:.1f}", f"{check['cpu']:.1f}", f"{check['cpu'] / ping['cpu']:.2f}"]
            cells += [f"{each['mib']:.0f}" for each in (ping, check)] + [f"{each['wall']:.0f}" for each in (ping, check)]
            print(f"| {' | '.join(cells)} |", flush=True)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="bpf-oom-bench-") as name:
        if sys.argv[1:] == ["many"]:
            many(pathlib.Path(name))
            return 0
        print(f"`make bench-fleet`, a control node with {os.cpu_count()} CPUs, {FORKS} forks, {len(POLICIES)} policies a host.\n")
        with booted() as host:
            bench = Bench(pathlib.Path(name))
            bench.persist(host)
            times = bench.by_turns(host)
        emulated = accel.accel_arguments(machine.kernel()) == accel.EMULATION
        print(f"One machine ({'emulated' if emulated else 'KVM'}) whose policies are loaded, medians of {TURNS}:", end=" ")
        print(
            f"ping {times['ping']:.2f} s, check {times['check']:.2f} s, ratio {times['check'] / times['ping']:.2f}.", flush=True
        )
    # Its network and its mounts are its own, and end with it.
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return subprocess.run([*namespaces, sys.executable, __file__, "many"], stdin=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
