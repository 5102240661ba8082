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
from collections.abc import Callable

ROOT = pathlib.Path("/sys/fs/cgroup/bpf-oom-burst")
MIB = 1 << 20
LIMIT = 96 * MIB


#: Seconds for any one condition; emulated machines are slow.
PATIENCE = 180.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"burst: waited {PATIENCE:.0f} s in vain: {what}")
        time.sleep(0.01)


def removed(group: pathlib.Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False  # the last one is still on its way
    return True


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
    wait_for(lambda: len((group / "cgroup.procs").read_text().split()) >= len(pids), "everybody to be in the cgroup")
    grower = child(group, grows=True)
    os.waitpid(grower, 0)
    found = killed(group)
    # Whoever the policy has spared.
    (group / "cgroup.kill").write_text("1")
    for pid in pids:
        os.waitpid(pid, 0)
    found = max(found, killed(group))
    wait_for(lambda: removed(group), "the cgroup to be empty")
    return found


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
