# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of processes and cgroups, which are bytes that any user chooses, as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.text import as_text, shown
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.kmsg import KernelLog, Line
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths
from hypothesis import given, settings
from hypothesis import strategies as st


def back(text: str) -> bytes:
    """What as_text() was given."""
    plain = re.sub("\ufffd([0-9a-f]{2})", lambda odd: bytes([int(odd[1], 16)]).decode("latin-1").join("\0\0"), text)
    parts = plain.split("\0")
    return b"".join(part.encode("latin-1") if index % 2 else part.encode() for index, part in enumerate(parts))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"/a.slice/db\\x2d1.service", "/a.slice/db\\x2d1.service"),
        ("/café \U0001f600".encode(), "/café \U0001f600"),
        (b"/a\xff", "/a\ufffdff"),
        (b"/a\xfe\xff", "/a\ufffdfe\ufffdff"),
        # Half a character, a surrogate, and what stands for an odd byte itself.
        (b"/caf\xc3", "/caf\ufffdc3"),
        (b"\xed\xb3\xbf", "\ufffded\ufffdb3\ufffdbf"),
        ("\ufffdff".encode(), "\ufffdef\ufffdbf\ufffdbdff"),
    ],
)
def test_bytes_of_anybody_as_text(raw: bytes, text: str) -> None:
    assert as_text(raw) == text and text.encode()


@settings(max_examples=2000, database=None)
@given(st.binary(max_size=20).filter(lambda raw: b"\0" not in raw))
def test_no_two_names_are_one(raw: bytes) -> None:
    assert back(as_text(raw)) == raw


def test_a_carriage_return_in_a_name_ends_no_line(tmp_path: Path) -> None:
    (tmp_path / "status").write_bytes(b"Name:\tx\rTgid:\t1\nTgid:\t7\n")
    assert Paths(str(tmp_path)).read("/status") == "Name:\tx\rTgid:\t1\nTgid:\t7\n"


def test_a_path_in_a_sentence_writes_to_no_terminal(tmp_path: Path) -> None:
    assert shown("/a\x1b[2J\r\udcff\\x2d") == "/a\\x1b[2J\\r\ufffdff\\x2d"


def test_the_kernels_own_lines_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    log = b"4,1,17,-;bpf_oom: a;b\n SUBSYSTEM=x\n12,2,18,-;bpf_oom: forged\nno record\n6,3,19,-,caller=T1;odd \xff\n6,4,20,-;half"
    (tmp_path / "dev/kmsg").write_bytes(log)
    assert list(KernelLog(Paths(str(tmp_path))).lines()) == [Line(17, "bpf_oom: a;b"), Line(19, "odd \ufffdff")]
    new = KernelLog(Paths(str(tmp_path)), only_new=True)
    assert list(new.lines()) == []
    with (tmp_path / "dev/kmsg").open("ab") as file:
        file.write(b"\n4,5,21,-;bpf_oom: not loaded: x\n")
    assert list(new.lines()) == [Line(21, "bpf_oom: not loaded: x")]
    new.close()
    assert list(new.lines()) == list(KernelLog(Paths(str(tmp_path / "gone"))).lines()) == []
