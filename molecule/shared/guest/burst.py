#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Very many OOM kills at once: burst.py GROUPS PROCESSES.

One after the other, GROUPS cgroups of PROCESSES processes each run out of memory; a policy that kills a cgroup as a whole kills
them all. Prints how many the kernel says it killed for that. Nothing is judged here.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import sys
import time

ROOT = pathlib.Path("/sys/fs/cgroup/bpf-oom-burst")
MIB = 1 << 20
LIMIT = 96 * MIB


def join(group: pathlib.Path) -> None:
    (group / "cgroup.procs").write_text("0")
    pathlib.Path("/proc/self/oom_score_adj").write_text("0")


def child(group: pathlib.Path, grows: bool) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            join(group)
            memory = bytearray(4 * LIMIT) if grows else b""
            while len(memory) >= 0:
                signal.pause()
        finally:
            os._exit(1)
    return pid


def killed(group: pathlib.Path) -> int:
    events = dict(line.split() for line in (group / "memory.events.local").read_text().splitlines())
    return int(events["oom_kill"])


def one(number: int, processes: int) -> int:
    """Make a group, let it run out of memory, and wait until nobody is left in it."""
    group = ROOT / f"group{number}"
    group.mkdir()
    pids = [child(group, grows=False) for _index in range(processes - 1)]
    while len((group / "cgroup.procs").read_text().split()) < len(pids):
        time.sleep(0.01)
    grower = child(group, grows=True)
    os.waitpid(grower, 0)
    found = killed(group)
    # Whoever the policy has spared.
    (group / "cgroup.kill").write_text("1")
    for pid in pids:
        os.waitpid(pid, 0)
    found = max(found, killed(group))
    while True:
        try:
            group.rmdir()
            return found
        except OSError:
            time.sleep(0.01)  # the last one is still on its way


def main() -> None:
    groups, processes = int(sys.argv[1]), int(sys.argv[2])
    ROOT.mkdir()
    try:
        (ROOT / "memory.max").write_text(str(LIMIT))
        with contextlib.suppress(FileNotFoundError):
            (ROOT / "memory.swap.max").write_text("0")
        (ROOT / "cgroup.subtree_control").write_text("+memory")
        print(sum(one(number, processes) for number in range(groups)))
    finally:
        (ROOT / "cgroup.kill").write_text("1")
        ROOT.rmdir()


if __name__ == "__main__":
    main()
