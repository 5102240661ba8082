# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller asks clang once, and again when what it said may be no longer true."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.compiler import Toolchain, find_toolchain
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils import _policies
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._policies import known_toolchain


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Toolchain]:
    """Each answer of clang, whose header can be changed."""
    monkeypatch.setenv("BPF_OOM_CACHE", str(tmp_path / "cache"))
    header = tmp_path / "header.h"
    header.write_text("int first;")
    answers: list[Toolchain] = []

    def ask() -> Toolchain:
        answers.append(Toolchain("clang", None, header.read_text(), (str(header),)))
        return answers[-1]

    monkeypatch.setattr(_policies, "find_toolchain", ask)
    return answers


def test_it_is_asked_once(asked: list[Toolchain]) -> None:
    assert known_toolchain().identity == known_toolchain().identity == "int first;"
    assert len(asked) == 1


def test_another_header_is_noticed(asked: list[Toolchain]) -> None:
    header = Path(known_toolchain().headers[0])
    status = header.stat()
    header.write_text("int other;")
    os.utime(header, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert known_toolchain().identity == "int other;"
    header.unlink()
    header.with_suffix(".new").write_text("int other;")
    header.with_suffix(".new").rename(header)
    assert known_toolchain().identity == "int other;"
    assert len(asked) == 3


def test_another_tool_is_noticed(asked: list[Toolchain], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known_toolchain()
    (tmp_path / "clang").write_text("#!/bin/sh\n")
    (tmp_path / "clang").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    known_toolchain()
    monkeypatch.setenv("CPATH", str(tmp_path))
    known_toolchain()
    known_toolchain()
    assert len(asked) == 3


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": 1}', "\xff"])
def test_notes_that_are_damaged_do_not_count(asked: list[Toolchain], tmp_path: Path, text: str) -> None:
    known_toolchain()
    (tmp_path / "cache" / "toolchain.json").write_text(text, encoding="latin-1")
    known_toolchain()
    known_toolchain()
    assert len(asked) == 2


def test_what_is_known_is_what_clang_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPF_OOM_CACHE", str(tmp_path))
    assert known_toolchain() == find_toolchain() == known_toolchain()
