# SPDX-License-Identifier: GPL-3.0-or-later
"""The store, on real files: what it writes is whole, and what it reads is root's alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store import store as _store
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.manifest import parse
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.store import host_lock
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.writer import Writer
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.module_utils.common import OBJECT, manifest


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "var/lib").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    return Paths(str(tmp_path))


@pytest.fixture
def filled(paths: Paths) -> Writer:
    store = Writer(paths)
    store.put_object("3" * 64, OBJECT)
    store.switch([manifest()])
    return store


def current(paths: Paths) -> Path:
    return Path(paths.state, "current").resolve()


def test_nothing_is_an_empty_set(paths: Paths) -> None:
    found = Writer(paths).read_set()
    assert (found.manifests, found.broken, found.problem) == ({}, {}, "")
    assert not Path(paths.state).exists()


def test_what_is_written_is_read(paths: Paths, filled: Writer) -> None:
    assert filled.read_set().manifests == {"leaf": manifest()}
    assert filled.read_set().problem == ""
    assert filled.object_bytes(manifest()) == OBJECT
    files = [path for path in Path(paths.state).rglob("*") if not path.is_symlink()]
    assert {oct(path.stat().st_mode & 0o777) for path in files if path.is_file()} == {"0o600"}
    assert {oct(path.stat().st_mode & 0o777) for path in files if path.is_dir()} == {"0o700"}


def test_a_crash_before_the_rename_leaves_the_old_set(paths: Paths, filled: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def crash(source: str, target: str, **where: int) -> None:
        if target == "current":
            raise KeyboardInterrupt
        rename(source, target, **where)

    monkeypatch.setattr(_store.os, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        filled.switch([manifest(order=7)])
    monkeypatch.undo()
    assert filled.read_set().manifests["leaf"].order == 100
    filled.switch([manifest(order=7)])
    assert filled.read_set().manifests["leaf"].order == 7


def test_a_crash_while_writing_leaves_no_half_file(paths: Paths, filled: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_number: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_store.os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        filled.put_object("3" * 64, b"half")
    monkeypatch.undo()
    assert filled.object_bytes(manifest()) == OBJECT


def test_garbage_goes_and_what_counts_stays(paths: Paths, filled: Writer) -> None:
    filled.put_object("4" * 64, b"unused")
    filled.switch([manifest(order=7)])
    filled.collect_garbage()
    assert [path.name for path in Path(paths.state, "objects").iterdir()] == ["3" * 64 + ".o"]
    assert list(Path(paths.state, "sets").iterdir()) == [current(paths)]
    assert filled.read_set().problem == ""


def test_what_a_crash_left_is_found_wherever_it_lies(paths: Paths, filled: Writer) -> None:
    assert filled.leftovers() == []
    filled.put_object("4" * 64, b"unused")
    for name in (".current.new", "objects/.4.o.new"):
        Path(paths.state, name).write_bytes(b"")
    Path(paths.state, "sets", "0" * 64).mkdir()
    assert filled.leftovers() == [("", ".current.new"), ("sets", "0" * 64), ("objects", ".4.o.new"), ("objects", "4" * 64 + ".o")]
    filled.collect_garbage()
    assert filled.leftovers() == []
    assert filled.read_set().manifests == {"leaf": manifest()}


def test_remove_all(paths: Paths, filled: Writer) -> None:
    filled.remove_all()
    assert not Path(paths.state).exists()
    filled.remove_all()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ('{"schema": 9}', "schema 9"),
        ('{"schema": 1}', "missing"),
        (manifest(kind="both").text(), "kind 'both'"),
        (manifest(name="other").text(), "another policy's name"),
        (manifest(inputs="x").text(), "inputs is no digest"),
        (manifest(params={"a": {"type": "u32", "value": 2**32}}).text(), "value of parameter a"),
        (manifest(params={"a": {"type": "selectors", "value": ["../x"]}}).text(), "not absolute"),
        (manifest(params={"a": {"value": 1}}).text(), "'type'"),
    ],
)
def test_a_damaged_manifest_does_not_count(paths: Paths, filled: Writer, damage: str, why: str) -> None:
    (current(paths) / "leaf.json").write_text(damage)
    found = filled.read_set()
    assert found.manifests == {}
    assert why in found.broken["leaf"]
    assert "run the play again" in found.broken["leaf"]
    assert found.problem


def test_a_whole_but_changed_manifest_is_noticed(paths: Paths, filled: Writer) -> None:
    (current(paths) / "leaf.json").write_text(manifest(order=1).text())
    assert "changed" in filled.read_set().problem


def test_a_removed_manifest_is_noticed(paths: Paths, filled: Writer) -> None:
    (current(paths) / "leaf.json").unlink()
    assert "removed" in filled.read_set().problem


def test_a_damaged_object_is_refused(paths: Paths, filled: Writer) -> None:
    Path(paths.state, "objects", "3" * 64 + ".o").write_bytes(b"something else")
    with pytest.raises(BpfOomError, match="is damaged"):
        filled.object_bytes(manifest())
    assert "is damaged" in filled.object_problem(manifest())


def test_a_missing_object_is_refused(paths: Paths) -> None:
    with pytest.raises(BpfOomError, match="is missing"):
        Writer(paths).object_bytes(manifest())


def test_current_must_be_a_link_to_a_set(paths: Paths, filled: Writer) -> None:
    link = Path(paths.state, "current")
    link.unlink()
    link.symlink_to("/etc")
    assert "does not point to a set" in filled.read_set().problem


def test_a_linked_object_is_refused(paths: Paths, filled: Writer, tmp_path: Path) -> None:
    file = Path(paths.state, "objects", "3" * 64 + ".o")
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BpfOomError, match="is a symbolic link"):
        filled.object_bytes(manifest())


def test_a_hard_link_is_refused(paths: Paths, filled: Writer, tmp_path: Path) -> None:
    os.link(Path(paths.state, "objects", "3" * 64 + ".o"), tmp_path / "second")
    with pytest.raises(BpfOomError, match="second hard link"):
        filled.object_bytes(manifest())


def test_a_fifo_does_not_hang(paths: Paths, filled: Writer) -> None:
    file = Path(paths.state, "objects", "3" * 64 + ".o")
    file.unlink()
    os.mkfifo(file, 0o600)
    with pytest.raises(BpfOomError, match="no plain file"):
        filled.object_bytes(manifest())


def test_a_linked_state_directory_is_refused(paths: Paths, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    Path(paths.state).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BpfOomError, match="symbolic link"):
        Writer(paths).switch([manifest()])
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_linked_sets_directory_is_refused(paths: Paths, filled: Writer, tmp_path: Path) -> None:
    Path(paths.state, "sets").rename(tmp_path / "elsewhere")
    Path(paths.state, "sets").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BpfOomError, match="symbolic link"):
        filled.read_set()


def test_a_writable_state_directory_is_refused(paths: Paths, filled: Writer) -> None:
    os.chmod(paths.state, 0o777)
    with pytest.raises(BpfOomError, match="root alone"):
        filled.read_set()


def test_a_parent_that_everybody_may_write_is_refused(paths: Paths, filled: Writer, tmp_path: Path) -> None:
    (tmp_path / "var").chmod(0o777)
    with pytest.raises(BpfOomError, match="written by everybody"):
        filled.read_set()


def test_the_lock_names_its_owner(paths: Paths) -> None:
    holder = "import sys, time; sys.path[:0] = eval(sys.argv[2])\n"
    holder += "from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths\n"
    holder += "from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.store import host_lock\n"
    holder += "with host_lock(Paths(sys.argv[1])):\n  print('held', flush=True); sys.stdin.read()\n"
    command = [sys.executable, "-c", holder, paths.root, repr([path for path in sys.path if path])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BpfOomError, match=f"Process {process.pid} has held"), host_lock(paths, seconds=0.2):
            pytest.fail("two held the lock")
        process.stdin.close()
    with host_lock(paths, seconds=5):
        assert Path(paths.run, "lock").read_text() == f"{os.getpid()}\n"


def test_a_linked_lock_is_refused(paths: Paths, tmp_path: Path) -> None:
    Path(paths.run).mkdir(mode=0o700)
    (tmp_path / "victim").write_text("keep")
    Path(paths.run, "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(BpfOomError, match="cannot be opened"), host_lock(paths):
        pytest.fail("a link was taken for the lock")
    assert (tmp_path / "victim").read_text() == "keep"


def test_a_manifest_survives_its_text() -> None:
    assert parse(manifest().text(), "leaf") == manifest()
