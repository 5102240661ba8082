# SPDX-License-Identifier: GPL-3.0-or-later
"""OOM victims from the bytes of a trace buffer, whatever they call themselves."""

from __future__ import annotations

import errno
import os
import select
import struct
import time
from pathlib import Path

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.tracefs import Victims, mark, parse_format, records
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths

# As Linux 6.12 and, cut down, 6.1 write it.
FORMAT = """name: mark_victim
ID: 513
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:int pid;\toffset:8;\tsize:4;\tsigned:1;
"""
NEW_FORMAT = (
    FORMAT
    + """\tfield:__data_loc char[] comm;\toffset:12;\tsize:4;\tsigned:0;
\tfield:unsigned long anon_rss;\toffset:16;\tsize:8;\tsigned:0;
\tfield:uid_t uid;\toffset:24;\tsize:4;\tsigned:0;
\tfield:short oom_score_adj;\toffset:28;\tsize:2;\tsigned:1;

print fmt: "pid=%d", REC->pid
"""
)
HEADER = 16


def data(record: bytes, delta: int = 0) -> bytes:
    """An event as the ring buffer holds it: short ones with their length in the head, longer ones after it."""
    record += b"\0" * (-len(record) % 4)
    if len(record) <= 28 * 4:
        return struct.pack("<I", len(record) // 4 | delta << 5) + record
    return struct.pack("<II", delta << 5, len(record) + 4) + record


def page(*events: bytes, now: int = 1000, flags: int = 0) -> bytes:
    body = b"".join(events)
    return struct.pack("<QQ", now, len(body) | flags).ljust(HEADER, b"\0") + body.ljust(4096 - HEADER, b"\0")


def record(pid: int, comm: bytes = b"hog", killer: int = 7, adj: int = -5) -> bytes:
    text = comm + b"\0"
    return struct.pack("<HBBiiIQIhH", 513, 0, 0, killer, pid, 32 | len(text) << 16, 4096, 1000, adj, 0) + text


def test_each_victim_with_its_time() -> None:
    extend = struct.pack("<II", 30 | 5 << 5, 2)
    stamp = struct.pack("<II", 31 | 9 << 5, 1)
    found = list(records(page(data(record(1), 10), data(record(2), 20), extend, data(record(3)), stamp, data(record(4))), HEADER))
    assert [ns for ns, _record in found] == [1010, 1030, 1030 + (2 << 27) + 5, (1 << 27) + 9]
    _number, fields = parse_format(NEW_FORMAT)
    assert [mark(ns, raw, fields).pid for ns, raw in found] == [1, 2, 3, 4]


def test_long_records_and_lost_ones_before_them() -> None:
    (found,) = records(page(data(record(1).ljust(200, b"\0"), 3), flags=1 << 31), HEADER)
    assert found[0] == 1003 and len(found[1]) == 200


def test_discarded_events_are_passed_over() -> None:
    discarded = struct.pack("<II", 29 | 4 << 5, 12) + b"\0" * 8
    assert [ns for ns, _record in records(page(discarded, data(record(1), 1)), HEADER)] == [1005]


@pytest.mark.parametrize(
    "rest", [b"", b"\0" * 8, struct.pack("<II", 28, 0), struct.pack("<II", 0, 0), struct.pack("<II", 0, 1 << 31)]
)
def test_what_is_no_event_ends_the_page(rest: bytes) -> None:
    assert [ns for ns, _record in records(page(data(record(1), 1), rest), HEADER)][:1] == [1001]


def test_a_page_that_says_it_is_longer_than_it_is() -> None:
    whole = page(data(record(1), 1))
    assert len(list(records(struct.pack("<QQ", 1, (1 << 20) - 1) + whole[HEADER:], HEADER))) >= 1


def test_fields_of_a_victim() -> None:
    number, fields = parse_format(NEW_FORMAT)
    found = mark(5, record(42, comm=b"evil\nBPF_OOM_POLICY=x"), fields)
    assert number == 513
    assert (found.pid, found.killer, found.comm) == (42, 7, "evil\nBPF_OOM_POLICY=x")
    assert found.numbers == {"anon_rss": 4096, "uid": 1000, "oom_score_adj": -5}


def test_older_kernels_tell_the_pid_only() -> None:
    _number, fields = parse_format(FORMAT)
    found = mark(5, record(42), fields)
    assert (found.pid, found.comm, found.numbers) == (42, "", {})


@pytest.mark.parametrize(
    "text", ["", "ID: 5\n", NEW_FORMAT.replace("ID: 513", "ID: x"), NEW_FORMAT.replace("int pid;", "int tid;")]
)
def test_an_unknown_format_is_refused(text: str) -> None:
    with pytest.raises(BpfOomError, match="not known"):
        parse_format(text)


def test_without_tracefs(tmp_path: Path) -> None:
    with pytest.raises(BpfOomError, match="no tracefs"):
        Victims(Paths(str(tmp_path)), "ours")


def test_without_the_tracepoint(tmp_path: Path) -> None:
    (tmp_path / "sys/kernel/tracing/instances").mkdir(parents=True)
    with pytest.raises(BpfOomError, match="has no tracepoint oom/mark_victim"):
        Victims(Paths(str(tmp_path)), "ours")
    assert not (tmp_path / "sys/kernel/tracing/instances/ours").exists()


def half_made(files: dict[int, str]) -> Victims:
    made = object.__new__(Victims)
    made._files, made._sleeping, made._poll = files, set(), select.poll()
    made._page, made._data_offset, made._id, made._fields = 4096, HEADER, *parse_format(NEW_FORMAT)
    made._paths = Paths("/nowhere")
    for number in files:
        made._poll.register(number, select.POLLIN)
    return made


def test_a_cpu_that_was_never_online_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is there, reading it fails, and poll() would wake for it without end."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    dead_reader, dead_writer = os.pipe()
    os.close(dead_reader)
    victims = half_made({reader: "", dead_writer: ""})
    real = os.read

    def read(number: int, size: int) -> bytes:
        if number == dead_writer:
            raise OSError(errno.ENODEV, "No such device")
        return real(number, size)

    monkeypatch.setattr(os, "read", read)
    victims.wait(5)  # ends at once, for the error
    began = time.monotonic()
    victims.wait(0.2)
    assert time.monotonic() - began > 0.1
    os.write(writer, page(data(record(7), 1)))
    victims.wait(5)
    assert [each.pid for each in victims.read()] == [7]
    for number in (reader, writer, dead_writer):
        os.close(number)


def test_a_pid_that_is_somebody_elses_by_now_is_not_asked(tmp_path: Path) -> None:
    victims = half_made({})
    victims._paths = Paths(str(tmp_path))
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/stat").write_text("7 (a) b) S " + " ".join("0" for _field in range(18)) + " 500 0\n")
    (tmp_path / "proc/7/status").write_text("Name:\ta\nTgid:\t6\n")
    (tmp_path / "proc/7/cgroup").write_text("0::/a.slice (deleted)\n")
    later, earlier = (mark(ns, record(7), parse_format(NEW_FORMAT)[1]) for ns in (6 * 10**9, 4 * 10**9))
    victims._ask(later)
    victims._ask(earlier)
    assert (later.tgid, later.cgroup) == (6, "/a.slice")
    assert (earlier.tgid, earlier.cgroup) == (7, "")


def test_a_name_claims_no_other_process_and_no_other_cgroup(tmp_path: Path) -> None:
    """The kernel does not escape a carriage return, and a text file of Python's ended the line there."""
    ticks = os.sysconf("SC_CLK_TCK")
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/stat").write_text(f"7 (x) S {' '.join(['0'] * 18)} {5 * ticks} 0\n")
    (tmp_path / "proc/7/status").write_bytes(b"Name:\tx\rTgid:\t1\nUmask:\t0022\nTgid:\t6\n")
    (tmp_path / "proc/7/cgroup").write_bytes(b"0::/a/b\rc\xff\n")
    victims = half_made({})
    victims._paths = Paths(str(tmp_path))
    found = mark(6 * 10**9, record(7, b"x\xff"), parse_format(NEW_FORMAT)[1])
    victims._ask(found)
    assert (found.tgid, found.cgroup, found.comm) == (6, "/a/b\rc\ufffdff", "x\ufffdff")
