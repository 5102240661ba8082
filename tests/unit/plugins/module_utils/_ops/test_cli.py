# SPDX-License-Identifier: GPL-3.0-or-later
"""The boot CLI: its arguments, and what it does on a host where nothing is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.compiler import compile_bundle, find_toolchain
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.engine import Engine
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.cli import DRIFT, ERROR, OK, main, parser
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.report import boot_unit, neighbours
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.manifest import digest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.writer import Writer
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.module_utils.common import manifest


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    for name in ("var/lib", "run", "proc", "etc/systemd/system/multi-user.target.wants"):
        (tmp_path / name).mkdir(parents=True)
    return Paths(str(tmp_path))


@pytest.fixture
def no_root() -> Iterator[None]:
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["apply", "--json"], ["status", "--xml"]])
def test_wrong_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "arguments",
    [["apply"], ["status"], ["status", "--json"], ["status", "--no-wait"], ["unload"], ["verify"], ["decisions", "p", "-n", "3"]],
)
def test_right_arguments(arguments: list[str]) -> None:
    assert parser().parse_args(arguments).command == arguments[0]


@pytest.mark.usefixtures("no_root")
@pytest.mark.parametrize("command", ["apply", "status", "verify"])
def test_only_root(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command], Engine(Paths("/"))) == ERROR
    assert "only root" in capsys.readouterr().err.lower()


def test_verify_holds_the_lock_and_does_not_wait_for_itself(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody removed the link's pin: what is left is looked at again, under the lock that verify has."""
    as_root()
    Path(paths.run).mkdir(mode=0o700)
    pins = Path(paths.pins) / "leaf"
    pins.mkdir(parents=True)
    (pins / "decision_victim").touch()
    assert main(["verify"], Engine(paths)) == DRIFT
    assert "pins of policy 'leaf' are left" in capsys.readouterr().out


def test_a_status_that_does_not_wait_touches_no_lock(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """The kill log asks for it, which may write nowhere; what may be a change in the making is told as it is."""
    as_root()
    Path(paths.run).mkdir(mode=0o700)
    pins = Path(paths.pins) / "leaf"
    pins.mkdir(parents=True)
    (pins / "decision_victim").touch()
    assert main(["status", "--no-wait"], Engine(paths)) == OK
    assert "pins of policy 'leaf' are left" in capsys.readouterr().out
    assert not Path(paths.run, "lock").exists()


def test_decisions_of_nobody(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    as_root()
    assert main(["decisions"], Engine(paths)) == OK
    assert "no decision is on record" in capsys.readouterr().out
    assert main(["decisions", "leaf"], Engine(paths)) == ERROR
    assert "no policy 'leaf' on this host" in capsys.readouterr().err


def test_other_killers_are_told_of(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    as_root()
    for pid, comm in (("7", "earlyoom"), ("8", "bash"), ("self", "oomd")):
        (Path(paths.root) / "proc" / pid).mkdir()
        (Path(paths.root) / "proc" / pid / "comm").write_text(comm + "\n")
    assert main(["status"], Engine(paths)) == OK
    assert "warning: earlyoom runs here, too" in capsys.readouterr().out
    assert neighbours(paths) == ["earlyoom"]


def as_root() -> None:
    if os.geteuid() != 0:
        pytest.fail("these tests read what only root may read: run them as root")


def test_nothing_there(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    as_root()
    assert main(["apply"], Engine(paths)) == OK
    assert "active: none" in capsys.readouterr().out
    assert main(["verify"], Engine(paths)) == OK
    assert main(["unload"], Engine(paths)) == OK
    assert main(["status", "--json"], Engine(paths)) == OK
    report = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert report["policies"] == {}
    assert report["boot_unit"] == {"installed": False, "enabled": False}


def test_what_is_persisted_but_not_loaded_is_drift_and_a_failure(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    as_root()
    Writer(paths).switch([manifest()])
    assert main(["verify"], Engine(paths)) == DRIFT
    assert "leaf: it is not loaded" in capsys.readouterr().out
    assert main(["apply"], Engine(paths)) == ERROR
    assert "leaf was not loaded: " in capsys.readouterr().err
    assert Writer(paths).read_set().manifests == {"leaf": manifest()}


def test_a_damaged_manifest_fails_and_stays(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    as_root()
    Writer(paths).switch([manifest()])
    file = next(Path(paths.state, "sets").rglob("leaf.json"))
    file.write_text("{")
    assert main(["apply"], Engine(paths)) == ERROR
    assert "is damaged" in capsys.readouterr().err
    assert file.read_text() == "{"


def test_the_off_switch(paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    as_root()
    (tmp_path / "proc/cmdline").write_text("quiet linuxmm.bpf_oom=off\n")
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/osrelease").write_text("6.12\n")
    Writer(paths).switch([manifest()])
    assert main(["apply"], Engine(paths)) == OK
    assert "linuxmm.bpf_oom=off" in capsys.readouterr().out


def test_the_boot_unit_is_read_from_disk(paths: Paths, tmp_path: Path) -> None:
    unit = tmp_path / "etc/systemd/system/bpf-oom.service"
    unit.write_text("")
    assert boot_unit(paths) == {"installed": True, "enabled": False}
    (unit.parent / "multi-user.target.wants/bpf-oom.service").symlink_to(unit)
    assert boot_unit(paths) == {"installed": True, "enabled": True}


def test_another_kernel_is_checked(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    as_root()
    reads = "struct a { int %s; } __attribute__((preserve_access_index)); int f(struct a *a) { return a->%s; }"
    data = compile_bundle("leaf", {"leaf.c": reads % ("here", "here")}, "leaf.c", find_toolchain())
    interface = "struct bpf_oom_ops { int (*handle_out_of_memory)(void *); } ops; "
    store = Writer(paths)
    store.put_object("3" * 64, data)
    store.switch([manifest(object=digest(data))])
    for field, status, said in (("here", OK, "leaf: will load\n"), ("gone", ERROR, "struct a, here\n")):
        other = Path(paths.root) / field
        other.write_bytes(
            compile_bundle("kernel", {"kernel.c": interface + reads % (field, field)}, "kernel.c", find_toolchain())
        )
        assert main(["check-kernel", str(other)], Engine(paths)) == status
        assert capsys.readouterr().out.endswith(said)
    other.write_bytes(compile_bundle("kernel", {"kernel.c": reads % ("here", "here")}, "kernel.c", find_toolchain()))
    assert main(["check-kernel", "--release", "6.12.0-x", str(other)], Engine(paths)) == ERROR
    assert capsys.readouterr().out.startswith("No module is installed for the kernel 6.12.0-x; ")
    store.put_object("3" * 64, data + b"damaged")
    assert main(["check-kernel", str(other)], Engine(paths)) == ERROR
    assert "is damaged" in capsys.readouterr().out
    assert main(["check-kernel", "/dev/null"], Engine(paths)) == ERROR
    assert "is no plain file" in capsys.readouterr().err


def test_who_gathers_facts_without_rights_reads_why_there_are_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, no_root: None
) -> None:
    monkeypatch.setattr("sys.argv", ["/etc/ansible/facts.d/bpf_oom.fact"])
    assert main() == OK
    told = capsys.readouterr()
    assert told.err == ""
    assert "Only root" in json.loads(told.out)["problem"]
