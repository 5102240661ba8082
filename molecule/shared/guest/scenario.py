#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run out of memory on purpose in scratch cgroups, and report who died: facts only, the judgement is made elsewhere.

    scenario.py prepare     start the witness of kills, witness.o beside this file
    scenario.py oom         four processes, together too large for their parent's memory.max
    scenario.py pressure    one process far above its memory.high, under the slice that the pressure policy watches
    scenario.py clean       end what an interrupted run has left

Runs as root in a test machine and prints one JSON report.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import mmap
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path("/sys/fs/cgroup")
OOM_TREE = ROOT / "bpf-oom-scenario"
PRESSURE_SLICE = ROOT / "demo.slice"
PRESSURE_TREE = PRESSURE_SLICE / "demo.service"
WITNESS = pathlib.Path("/sys/fs/bpf/bpf-oom-witness")
WITNESS_MAPS = pathlib.Path("/sys/fs/bpf/bpf-oom-witness-maps")
MIB = 1 << 20
LIMIT = 180.0  # seconds for any one condition; emulated machines are slow
# Stall time after which we believe that nobody will declare an OOM: fifty times the threshold of the demo's policy.
ENOUGH_STALL = 5_000_000

# Name below the tree, MiB wanted, oom_score_adj. Filled in this order, which decides who is largest when memory runs out.
OOM_TABLE = (("cg1", 10, 1000), ("cg2", 40, -1000), ("cg3/cg4", 30, 0), ("cg3/cg5", 20, 0))
PRESSURE_TABLE = (("guarded", 60, -1000), ("neighbour", 10, 0), ("hog", 500, 0))


def wait_for(condition: Callable[[], Any], what: str, limit: float = LIMIT) -> Any:
    deadline = time.monotonic() + limit
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"scenario: waited {limit:.0f} s in vain: {what}")
        time.sleep(0.02)
    return result


def fields(path: pathlib.Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}


class Process:
    """A process that is held back in a frozen cgroup until it is told to fill its memory."""

    def __init__(self, tree: pathlib.Path, name: str, mib: int, adj: int) -> None:
        self.name, self.mib, self.adj = name, mib, adj
        self.cgroup = tree / name
        self.cgroup_id = self.cgroup.stat().st_ino
        (self.cgroup / "cgroup.freeze").write_text("1")
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._work(writer)
        os.close(writer)
        self._pidfd = os.pidfd_open(self.pid)
        self.filled = False
        self.death: dict[str, int] | None = None
        wait_for(self._held, f"{name} to be frozen")

    def _held(self) -> bool:
        events = fields(self.cgroup / "cgroup.events")
        return bool(events["populated"] and events["frozen"])

    def _work(self, writer: int) -> None:
        try:
            pathlib.Path("/proc/self/oom_score_adj").write_text(str(self.adj))
            pathlib.Path("/proc/self/comm").write_text(self.name.rpartition("/")[2])
            (self.cgroup / "cgroup.procs").write_text("0")
            memory = mmap.mmap(-1, self.mib * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for offset in range(0, len(memory), mmap.PAGESIZE):
                memory[offset] = 1
            os.write(writer, b"filled")
            while True:
                signal.pause()
        finally:
            os._exit(1)

    def thaw(self) -> None:
        (self.cgroup / "cgroup.freeze").write_text("0")

    def settled(self) -> bool:
        return self.filled or self.death is not None

    def look(self, deaths: list[Process]) -> None:
        """Note what has happened to the process since the last look."""
        if not self.filled and select.select([self._reader], [], [], 0)[0]:
            self.filled = os.read(self._reader, 16) == b"filled"
        if self.death is None and select.select([self._pidfd], [], [], 0)[0]:
            status = os.waitpid(self.pid, 0)[1]
            deaths.append(self)
            self.death = {"order": len(deaths), "exit": os.waitstatus_to_exitcode(status), "ns": time.monotonic_ns()}

    def alive(self) -> bool:
        stat = pathlib.Path(f"/proc/{self.pid}/stat")
        return self.death is None and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"

    def report(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "pid": self.pid,
            "cgroup_id": self.cgroup_id,
            "mib": self.mib,
            "oom_score_adj": self.adj,
            "filled": self.filled,
            "death": self.death,
            "alive": self.alive(),
            "usage": int((self.cgroup / "memory.current").read_text()),
            "events": fields(self.cgroup / "memory.events.local"),
        }


class Log:
    """The kernel log from now on."""

    def __init__(self) -> None:
        self._handle = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._handle, 0, os.SEEK_END)

    def read(self) -> tuple[list[str], bool]:
        """The lines since, and whether some were lost."""
        lines: list[str] = []
        lost = False
        while True:
            try:
                record = os.read(self._handle, 8192).decode(errors="replace")
            except BlockingIOError:
                return lines, lost
            except BrokenPipeError:
                lost = True
                continue
            lines.append(record.partition(";")[2].partition("\n")[0])


def kills(lines: list[str]) -> list[dict[str, Any]]:
    """What the kernel log says of each kill; policy and constraint are those last read before it.

    In the kernel's own report, or, on a stock kernel, in the line of the module: before the report when a policy has chosen, and
    after it when the kernel has.
    """
    found: list[dict[str, Any]] = []
    policy = constraint = None
    by_module = False
    for line in lines:
        if match := re.search(r"invoked oom-killer: .*?(?:oom_policy=(\S+))?$", line):
            if not by_module:
                policy, constraint = match[1] or "", None
        elif match := re.match(r"bpf_oom: oom_policy=(\S+) constraint=(\S+)$", line):
            policy, constraint = match[1], match[2]
            by_module = True
        elif match := re.search(r"oom-kill:constraint=([^,]*),", line):
            constraint = constraint if by_module else match[1]
        elif match := re.search(r"(.*): Killed process (\d+) \((.*?)\)", line):
            found.append(
                {"policy": policy, "constraint": constraint, "message": match[1], "pid": int(match[2]), "comm": match[3]}
            )
            by_module = False
    return found


def start_witness() -> None:
    """Once a boot, and once a mount of bpffs: what is pinned there watches."""
    if WITNESS.exists():
        return
    program = pathlib.Path(__file__).resolve().with_name("witness.o")
    WITNESS_MAPS.mkdir(exist_ok=True)
    command = ["bpftool", "prog", "load", str(program), str(WITNESS), "pinmaps", str(WITNESS_MAPS), "autoattach"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=False)
    if loaded.returncode or not WITNESS.exists():
        raise SystemExit(f"scenario: the witness of kills does not watch: {loaded.stderr.strip()}")


def witnessed(since: int) -> list[dict[str, Any]]:
    """A victim is marked before it is told to die, so who is dead is there."""
    dump = subprocess.run(
        ["bpftool", "--json", "map", "dump", "pinned", str(WITNESS_MAPS / "victims")], capture_output=True, text=True, check=True
    )
    records = [entry["formatted"]["value"] for entry in json.loads(dump.stdout)]
    return sorted((record for record in records if record["ns"] >= since), key=lambda record: int(record["ns"]))


def empty(tree: pathlib.Path) -> bool:
    return not fields(tree / "cgroup.events")["populated"]


def clean() -> None:
    """End all processes of earlier runs and remove their cgroups, deepest first."""
    scratch = [OOM_TREE, *(PRESSURE_TREE / name for name, _mib, _adj in PRESSURE_TABLE)]
    for tree in (path for path in scratch if path.exists()):
        (tree / "cgroup.kill").write_text("1")
        wait_for(functools.partial(empty, tree), f"{tree} to be empty")
        for directory, _names, _files in os.walk(tree, topdown=False):
            os.rmdir(directory)


def control(path: pathlib.Path, value: str) -> None:
    """Write a control file that is missing where there is nothing to control, such as swap."""
    with contextlib.suppress(FileNotFoundError):
        path.write_text(value)


def let_run(processes: list[Process], enough: Callable[[], bool]) -> None:
    """Thaw the processes one after the other, each when the one before is full or dead, until the last is or ENOUGH says so."""
    deaths: list[Process] = []

    def look(current: Process) -> bool:
        for process in processes:
            process.look(deaths)
        return current.settled() or enough()

    for process in processes:
        process.thaw()
        wait_for(functools.partial(look, process), f"{process.name} to fill {process.mib} MiB or to die")


def stalled() -> int:
    """Microseconds in which every busy task of the slice waited for memory."""
    full = (PRESSURE_SLICE / "memory.pressure").read_text().splitlines()[1]
    return int(re.search(r"total=(\d+)", full)[1])  # type: ignore[index]


def oom() -> dict[str, Any]:
    OOM_TREE.mkdir()
    (ROOT / "cgroup.subtree_control").write_text("+memory")
    (OOM_TREE / "memory.max").write_text(str(80 * MIB))
    control(OOM_TREE / "memory.swap.max", "0")
    for name, _mib, _adj in OOM_TABLE:
        leaf = OOM_TREE / name
        leaf.mkdir(parents=True)
    for inner in (OOM_TREE, OOM_TREE / "cg3"):
        (inner / "cgroup.subtree_control").write_text("+memory")
    processes = [Process(OOM_TREE, *row) for row in OOM_TABLE]
    let_run(processes, lambda: False)
    return {"processes": [process.report() for process in processes], "tree_events": fields(OOM_TREE / "memory.events")}


def pressure() -> dict[str, Any]:
    (PRESSURE_TREE / "cgroup.subtree_control").write_text("+memory")
    for name, _mib, _adj in PRESSURE_TABLE:
        (PRESSURE_TREE / name).mkdir()
    hog = PRESSURE_TREE / "hog"
    (hog / "memory.high").write_text(str(40 * MIB))
    control(hog / "memory.swap.max", "0")
    before = stalled()
    processes = [Process(PRESSURE_TREE, *row) for row in PRESSURE_TABLE]
    let_run(processes, lambda: stalled() - before > ENOUGH_STALL)
    if processes[-1].death:
        # A policy that kills more than it should does so while the pressure of the past still counts: let it pass.
        calm = {"total": stalled(), "since": time.monotonic()}

        def passed() -> bool:
            if (now := stalled()) != calm["total"]:
                calm.update(total=now, since=time.monotonic())
            return time.monotonic() - calm["since"] > 3

        wait_for(passed, "the pressure to pass")
        deaths = [process for process in processes if process.death]
        for process in processes:
            process.look(deaths)
    return {"processes": [process.report() for process in processes], "stalled_us": stalled() - before}


def run(name: str) -> dict[str, Any]:
    start_witness()
    clean()
    log = Log()
    began = time.monotonic_ns()
    gc.collect()
    gc.freeze()
    try:
        report = {"oom": oom, "pressure": pressure}[name]()
        report["witness"] = witnessed(began)
        report["log"], report["log_lost"] = log.read()
    finally:
        clean()
    report["kills"] = kills(report["log"])
    return {"scenario": name, "seconds": round((time.monotonic_ns() - began) / 1e9, 2), **report}


def main() -> None:
    verb = sys.argv[1] if len(sys.argv) == 2 else ""
    if verb == "prepare":
        start_witness()
    elif verb == "clean":
        clean()
    elif verb in ("oom", "pressure"):
        print(json.dumps(run(verb)))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
