# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody who is not the policy and sees who is killed: bcc where it is installed, else tracefs."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import time

from .._common.errors import BpfOomError
from .._kernel.tracefs import Victims
from .._store.paths import Paths

INSTANCE = "linuxmm_bpf_oom_drill"
# bcc compiles its program from the kernel's headers, which takes its time; then tracefs serves.
_BCC_LIMIT = 180.0
_PROGRAM = r"""
struct seen {
    u64 ns;
    u32 pid;
};
BPF_PERF_OUTPUT(victims);

TRACEPOINT_PROBE(oom, mark_victim)
{
    struct seen seen = {};

    seen.ns = bpf_ktime_get_boot_ns();
    seen.pid = args->pid;
    victims.perf_submit(args, &seen, sizeof(seen));
    return 0;
}
"""


class _Seen(ctypes.Structure):
    _fields_ = [("ns", ctypes.c_uint64), ("pid", ctypes.c_uint32)]


class Witness:
    """`marks` by pid: nanoseconds since boot, with the time suspended."""

    kind = ""

    def __init__(self) -> None:
        self.marks: dict[int, int] = {}
        self.lost = 0

    def look(self) -> None:
        """Take in what has happened since the last look."""

    def close(self) -> None:
        """See nothing any more, and leave nothing."""


class TracefsWitness(Witness):
    kind = "tracefs"

    def __init__(self, paths: Paths) -> None:
        super().__init__()
        self._victims = Victims(paths, INSTANCE)

    def look(self) -> None:
        self.marks.update({mark.pid: mark.ns for mark in self._victims.read()})
        self.lost = self._victims.counts()[1]

    def close(self) -> None:
        self._victims.close(remove=True)


class BccWitness(Witness):
    """In a process of its own, as it takes much memory and a compiler."""

    kind = "bcc"

    def __init__(self) -> None:
        super().__init__()
        self._rest = b""
        self._reader, writer = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._reader)
                die_with_parent(parent)
                _watch_with_bcc(writer)
            finally:
                os._exit(1)
        os.close(writer)
        os.set_blocking(self._reader, False)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + _BCC_LIMIT
        while not self._rest.startswith(b"ready\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._reader], [], [], left)[0]:
                raise BpfOomError(f"bcc was not ready after {_BCC_LIMIT:g} s", "let tracefs witness the drill")
            got = os.read(self._reader, 4096)
            if not got:
                why = self._rest.decode("utf-8", "replace").strip() or "it ended"
                raise BpfOomError(f"bcc cannot watch: {why}", "let tracefs witness the drill")
            self._rest += got
        self._rest = self._rest[len(b"ready\n") :]

    def look(self) -> None:
        try:
            while got := os.read(self._reader, 4096):
                self._rest += got
        except BlockingIOError:
            pass  # that was all
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            seen = json.loads(line)
            self.lost += seen.get("lost", 0)
            if "pid" in seen:
                self.marks[seen["pid"]] = seen["ns"]

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._reader)


def die_with_parent(parent: int) -> None:
    """For a child: no orphan is left when the module is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _watch_with_bcc(writer: int) -> None:
    # Its compiler is the first to go should memory run out after all.
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    # What it and its compiler print is no result of a module.
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)

    def tell(text: str) -> None:
        os.write(writer, text.encode() + b"\n")

    try:
        from bcc import BPF

        program = BPF(text=_PROGRAM)
        program["victims"].open_perf_buffer(
            lambda _cpu, raw, _size: tell(json.dumps({"pid": _seen(raw).pid, "ns": _seen(raw).ns})),
            lost_cb=lambda number: tell(json.dumps({"lost": number})),
        )
    except Exception as error:  # noqa: BLE001 - whatever bcc lacks here, the reader of the pipe decides what that means
        tell(" ".join(str(error).split()) or type(error).__name__)
        os._exit(1)
    tell("ready")
    while True:
        program.perf_buffer_poll(100)


def _seen(raw: int) -> _Seen:
    return ctypes.cast(raw, ctypes.POINTER(_Seen)).contents


def open_witness(paths: Paths, wanted: str) -> tuple[Witness, str]:
    """The witness, and why it is not bcc when that was tried and could not be."""
    Victims.remove(paths, INSTANCE)  # left by a drill that was killed
    if wanted != "tracefs":
        try:
            return BccWitness(), ""
        except BpfOomError as error:
            if wanted == "bcc":
                raise
            return TracefsWitness(paths), error.cause
    return TracefsWitness(paths), ""


__all__ = ["BccWitness", "TracefsWitness", "Witness", "die_with_parent", "open_witness"]
