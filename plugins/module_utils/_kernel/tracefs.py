# SPDX-License-Identifier: GPL-3.0-or-later
"""OOM victims as the tracepoint oom:mark_victim tells them, read through tracefs.

A trace instance of our own, so that nobody else's tracing is touched and nobody else's reading takes anything from us.
What is read is the ring buffer's pages as they are, since in the readable form a process could forge lines with its name.
The form of a page and of an event is that of the kernel's include/linux/ring_buffer.h and of tracefs' own `header_page`,
that of a record is its `format` file. Little-endian machines only, like everything that was tested.
"""

from __future__ import annotations

import errno
import os
import re
import select
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .._common.errors import BpfOomError, from_errno
from .._common.text import as_text
from .._store.paths import Paths

EVENT = "oom/mark_victim"
#: Of each CPU; a victim takes less than 100 bytes, so over a thousand fit that nobody has read yet.
BUFFER_KIB = 128
_FIELD = re.compile(r"\sfield:(?P<type>.+?)\s(?P<name>\w+)(?:\[\d*\])?;\soffset:(?P<offset>\d+);\ssize:(?P<size>\d+);")
_SIZE_BITS = (1 << 20) - 1  # of `commit`; above are flags for lost events, which `stats` counts
_PADDING, _TIME_EXTEND, _TIME_STAMP = 29, 30, 31
_TIME_STAMP_BITS = (1 << 59) - 1


@dataclass
class Mark:
    """One victim. `ns` is nanoseconds since boot with the time suspended; `numbers` holds the sizes in KiB, by name."""

    ns: int
    pid: int  # of the thread that the kernel marked
    killer: int
    comm: str = ""
    numbers: dict[str, int] = field(default_factory=dict)
    tgid: int = 0  # of the process, pid when it could not be asked any more
    cgroup: str = ""  # its path, "" when it could not be asked any more


def parse_format(text: str) -> tuple[int, dict[str, tuple[str, int, int]]]:
    """The id of an event and its fields by name: type, offset and size in bytes."""
    number = re.search(r"^ID: (\d+)$", text, re.MULTILINE)
    fields = {found["name"]: (found["type"], int(found["offset"]), int(found["size"])) for found in _FIELD.finditer(text)}
    if number is None or "pid" not in fields or "common_type" not in fields or "common_pid" not in fields:
        raise BpfOomError(f"the format of the tracepoint {EVENT} is not known", "report this kernel's version as a fault")
    return int(number[1]), fields


def records(page: bytes, data_offset: int) -> Iterator[tuple[int, bytes]]:
    """Time and bytes of each record of a page of the ring buffer."""
    (now,) = struct.unpack_from("<Q", page, 0)
    (commit,) = struct.unpack_from("<Q", page, 8)
    at, end = data_offset, min(data_offset + (commit & _SIZE_BITS), len(page))
    while at + 8 <= end:
        head, first = struct.unpack_from("<II", page, at)
        kind, delta = head & 31, head >> 5
        if kind == _TIME_STAMP:
            now = (now & ~_TIME_STAMP_BITS) | ((first << 27) + delta)
            at += 8
            continue
        if kind == _TIME_EXTEND:
            now += (first << 27) + delta
            at += 8
            continue
        if kind == _PADDING:
            if not delta:
                return  # the rest of the page is empty
            at += 4 + first
            now += delta
            continue
        start, size = (at + 4, kind * 4) if kind else (at + 8, first - 4)
        now += delta
        if size < 0 or start + size > end:
            return  # not what the kernel writes; the rest cannot be found
        yield now, page[start : start + size]
        at = start + size


def mark(ns: int, record: bytes, fields: Mapping[str, tuple[str, int, int]]) -> Mark:
    """A victim from its record. Before Linux 6.9 the tracepoint tells its pid only."""
    values: dict[str, int] = {}
    comm = ""
    for name, (kind, offset, size) in fields.items():
        raw = record[offset : offset + size]
        if kind.startswith("__data_loc"):
            place = int.from_bytes(raw, sys.byteorder)
            if name == "comm":
                text = record[place & 0xFFFF : (place & 0xFFFF) + (place >> 16)]
                comm = as_text(text.split(b"\0", 1)[0])
        elif "[" not in kind and size <= 8:
            values[name] = int.from_bytes(raw, sys.byteorder, signed="unsigned" not in kind and kind[0] != "u")
    numbers = {name: value for name, value in values.items() if not name.startswith("common_") and name != "pid"}
    return Mark(ns, values["pid"], values["common_pid"], comm, numbers)


class Victims:
    """All OOM victims of the machine from now on, or, when the instance is there already, since it was made."""

    def __init__(self, paths: Paths, instance: str) -> None:
        self._paths = paths
        self._root = paths.at("/sys/kernel/tracing")
        self._directory = os.path.join(self._root, "instances", instance)
        self._files: dict[int, str] = {}
        self._sleeping: set[int] = set()  # files of CPUs that have never been online
        self.fresh = not os.path.isdir(self._directory)
        if not os.path.isdir(os.path.join(self._root, "instances")):
            raise BpfOomError(f"there is no tracefs at {self._root}", "mount it: mount -t tracefs tracefs /sys/kernel/tracing")
        try:
            if not os.path.exists(os.path.join(self._root, "events", EVENT)):
                raise BpfOomError(f"this kernel has no tracepoint {EVENT}", "boot one with CONFIG_EVENT_TRACING")
            if self.fresh:
                os.mkdir(self._directory, 0o700)
            if "[boot]" not in self._read("trace_clock"):
                # New, or left half made. The clock is that of the decisions; to set it empties the buffer.
                self.fresh = True
                self._write("buffer_size_kb", str(BUFFER_KIB))
                self._write("trace_clock", "boot")
            self._write("buffer_percent", "0")  # wake us for the first victim
            self._id, self._fields = parse_format(self._read(f"events/{EVENT}/format"))
            header = {
                found["name"]: int(found["offset"])
                for found in _FIELD.finditer(paths.read("/sys/kernel/tracing/events/header_page"))
            }
            self._data_offset = header["data"]
            self._page = int(self._optional("buffer_subbuf_size_kb", "0")) * 1024 or os.sysconf("SC_PAGE_SIZE")
            self._poll = select.poll()
            for cpu in sorted(os.listdir(os.path.join(self._directory, "per_cpu"))):
                path = os.path.join(self._directory, "per_cpu", cpu)
                number = os.open(os.path.join(path, "trace_pipe_raw"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                self._files[number] = os.path.join(path, "stats")
                self._poll.register(number, select.POLLIN)
            self._write(f"events/{EVENT}/enable", "1")
        except OSError as error:
            self.close(remove=self.fresh)
            raise from_errno(f"{error.filename or self._directory} cannot be used", error.errno or 0) from None
        except BaseException:
            self.close(remove=self.fresh)
            raise

    def _write(self, name: str, text: str) -> None:
        with open(os.path.join(self._directory, name), "w", encoding="ascii") as file:
            file.write(text)

    def _read(self, name: str) -> str:
        with open(os.path.join(self._directory, name), encoding="utf-8", errors="replace") as file:
            return file.read()

    def _optional(self, name: str, default: str) -> str:
        return self._read(name) if os.path.exists(os.path.join(self._directory, name)) else default

    def wake_for(self, number: int) -> None:
        """Let wait() end for another file descriptor, too."""
        self._poll.register(number, select.POLLIN)

    def wait(self, seconds: float) -> None:
        """Until there is somebody to read, or for so many seconds."""
        for number, events in self._poll.poll(seconds * 1000):
            if events & (select.POLLERR | select.POLLNVAL) and number in self._files:
                # A CPU that has never been online has no buffer and would wake us for ever. read() looks at it all the same.
                self._poll.unregister(number)
                self._sleeping.add(number)

    def _awake(self, number: int) -> None:
        if number in self._sleeping:
            self._sleeping.remove(number)
            self._poll.register(number, select.POLLIN)

    def read(self) -> list[Mark]:
        """Who was marked and not read before, in the order of time."""
        found = []
        for number in self._files:
            while True:
                try:
                    page = os.read(number, self._page)
                except BlockingIOError:
                    self._awake(number)
                    break
                except OSError as error:
                    if error.errno != errno.ENODEV:
                        raise
                    break  # a CPU that has never been online
                if not page:
                    break
                self._awake(number)
                for ns, record in records(page, self._data_offset):
                    if len(record) >= 8 and int.from_bytes(record[:2], sys.byteorder) == self._id:
                        found.append(mark(ns, record, self._fields))
        for each in found:
            self._ask(each)
        return sorted(found, key=lambda each: each.ns)

    def _ask(self, victim: Mark) -> None:
        """What the process still tells of itself; a zombie still knows its cgroup."""
        victim.tgid = victim.pid
        try:
            # The pid may be somebody else's by now: whoever started later was not the victim.
            started = int(self._paths.read(f"/proc/{victim.pid}/stat").rpartition(")")[2].split()[19])
            if started * 10**9 // os.sysconf("SC_CLK_TCK") > victim.ns:
                return
            status = self._paths.read(f"/proc/{victim.pid}/status")
            tgid = re.search(r"^Tgid:\s+(\d+)$", status, re.MULTILINE)
            path = re.search(r"^0::(/.*?)(?: \(deleted\))?$", self._paths.read(f"/proc/{victim.pid}/cgroup"), re.MULTILINE)
        except (OSError, ValueError, IndexError):
            return  # it has gone already
        victim.tgid = int(tgid[1]) if tgid else victim.pid
        victim.cgroup = path[1] if path else ""

    def counts(self) -> tuple[int, int]:
        """How many were read since the instance was made, by whomever, and how many nobody could read in time."""
        read = lost = 0
        for stats in self._files.values():
            with open(stats, encoding="ascii") as file:
                numbers = dict(line.split(": ", 1) for line in file.read().splitlines() if ": " in line)
            read += int(numbers.get("read events", 0))
            lost += int(numbers.get("overrun", 0)) + int(numbers.get("dropped events", 0))
        return read, lost

    def close(self, remove: bool = False) -> None:
        """Without `remove` the instance goes on and keeps what happens until the next one reads it."""
        for number in self._files:
            os.close(number)
        self._files = {}
        if remove:
            self.remove(self._paths, os.path.basename(self._directory))

    @staticmethod
    def remove(paths: Paths, instance: str) -> bool:
        """Whether there was one to remove."""
        path = paths.at(f"/sys/kernel/tracing/instances/{instance}")
        deadline = time.monotonic() + 10
        while os.path.isdir(path):
            try:
                os.rmdir(path)
                return True
            except OSError as error:
                if time.monotonic() > deadline:
                    raise from_errno(f"the trace instance {path} cannot be removed", error.errno or 0) from None
                time.sleep(0.05)  # somebody still reads it; this is the poll interval
        return False


__all__ = ["Mark", "Victims", "mark", "parse_format", "records"]
