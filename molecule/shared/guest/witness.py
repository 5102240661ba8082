#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""An independent witness of kills: every OOM victim the kernel marks, seen by bcc on the tracepoint oom:mark_victim.

It knows nothing of our policies and shares no code with them. Victims go to DIRECTORY/victims, one JSON object a line;
DIRECTORY/seen holds the monotonic time up to which nothing can be missing.
"""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import sys
import time

from bcc import BPF

# The tracepoint runs in the context of the killer; the task it is about comes as its first argument.
PROGRAM = r"""
#include <linux/sched.h>
#include <linux/cgroup-defs.h>
#include <linux/kernfs.h>

struct victim {
    u64 ns;
    u64 cgroup_id;
    u32 pid;
    u32 killer;
    char comm[16];
};
BPF_RINGBUF_OUTPUT(victims, 8);

RAW_TRACEPOINT_PROBE(mark_victim)
{
    struct task_struct *task = (struct task_struct *)ctx->args[0];
    struct victim victim = {};
    struct kernfs_node *node;
    struct cgroup *group;
    struct css_set *set;

    victim.ns = bpf_ktime_get_ns();
    victim.killer = bpf_get_current_pid_tgid() >> 32;
    bpf_probe_read_kernel(&victim.pid, sizeof(victim.pid), &task->tgid);
    bpf_probe_read_kernel(&victim.comm, sizeof(victim.comm), &task->comm);
    bpf_probe_read_kernel(&set, sizeof(set), &task->cgroups);
    bpf_probe_read_kernel(&group, sizeof(group), &set->dfl_cgrp);
    bpf_probe_read_kernel(&node, sizeof(node), &group->kn);
    bpf_probe_read_kernel(&victim.cgroup_id, sizeof(victim.cgroup_id), &node->id);
    victims.ringbuf_output(&victim, sizeof(victim), 0);
    return 0;
}
"""


class Victim(ctypes.Structure):
    _fields_ = (
        ("ns", ctypes.c_uint64),
        ("cgroup_id", ctypes.c_uint64),
        ("pid", ctypes.c_uint32),
        ("killer", ctypes.c_uint32),
        ("comm", ctypes.c_char * 16),
    )


def main() -> None:
    directory = pathlib.Path(sys.argv[1])
    program = BPF(text=PROGRAM)
    with open(directory / "victims", "w", buffering=1) as output:

        def saw(_context: object, data: int, _size: int) -> None:
            victim = ctypes.cast(data, ctypes.POINTER(Victim)).contents
            record = {"ns": victim.ns, "pid": victim.pid, "cgroup_id": victim.cgroup_id, "killer": victim.killer}
            print(json.dumps(record | {"comm": victim.comm.decode(errors="replace")}), file=output)

        program["victims"].open_ring_buffer(saw)
        while True:
            now = time.monotonic_ns()
            program.ring_buffer_consume()
            (directory / "seen.new").write_text(str(now))
            os.replace(directory / "seen.new", directory / "seen")
            program.ring_buffer_poll(200)


if __name__ == "__main__":
    main()
