# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused before the module of a kernel is touched, and what a check says."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel import module
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.module import Built, Module
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops import cli, provide
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.provide import Provision
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths

RELEASE = "6.12.0+test-amd64"
BUILT = Built(release=RELEASE, version="0.1.0", source="01", build_id="ab" * 20, content="cd" * 32, signer="", digest="cd" * 32)
SENT = asdict(BUILT)
#: One ELF note: the size of its name and of itself, its type, GNU, and the build id.
NOTE = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0"
KERNEL = "07" * 20


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, data in {
        "proc/sys/kernel/osrelease": RELEASE.encode(),
        "proc/cmdline": b"quiet",
        "sys/kernel/notes": NOTE + bytes.fromhex(KERNEL),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(module, "_syscall", lambda *_arguments: pytest.fail("nothing may be touched"))
    return tmp_path


def engine_of(tree: Path) -> Any:
    @contextlib.contextmanager
    def locked(check: bool) -> Iterator[None]:
        yield

    return SimpleNamespace(paths=Paths(str(tree)), locked=locked)


@pytest.fixture
def provision(tree: Path) -> Provision:
    return Provision(engine_of(tree))


def runs(tree: Path, version: str, users: int, build_id: str = "ef" * 20) -> None:
    top = tree / "sys/module/bpf_oom"
    (top / "notes").mkdir(parents=True)
    (top / "refcnt").write_text(str(users))
    (top / "notes/.note.gnu.build-id").write_bytes(NOTE + bytes.fromhex(build_id))
    if version:
        (top / "version").write_text(version)


def untouched(tree: Path) -> bool:
    return not (tree / "usr").exists() and not (tree / "var").exists()


def test_a_kernel_on_which_nobody_tried_it_is_refused(tree: Path, provision: Provision) -> None:
    with pytest.raises(BpfOomError, match="Nobody has tried the module on this kernel") as caught:
        provision.present(SENT, {}, ["99" * 20], False, check=True)
    assert RELEASE in str(caught.value) and "make prove" in str(caught.value)
    assert untouched(tree)


@pytest.mark.parametrize(("proven", "untried"), [([KERNEL], False), ([], True)])
def test_a_check_says_what_would_be_loaded_and_does_nothing(
    tree: Path, provision: Provision, proven: list[str], untried: bool
) -> None:
    result = provision.present(SENT, {}, proven, untried, check=True)
    assert result["changed"] and result["gap_ms"] is None
    assert result["diff"]["before"] == f"{RELEASE}:\n  installed: none\n  loaded: none\n"
    assert "loaded: build abababababab" in result["diff"]["after"]
    assert untouched(tree)


@pytest.mark.parametrize(("change", "changed"), [({}, False), ({"signer": "02"}, True), ({"content": "ee" * 32}, True)])
def test_another_signature_by_the_same_key_is_no_change(
    tree: Path, provision: Provision, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], changed: bool
) -> None:
    """A key of elliptic curves makes another file each time."""
    installed = replace(BUILT, signer="01", digest="11" * 32)
    monkeypatch.setattr(Module, "installed", lambda _module, _release: installed)
    runs(tree, version="0.1.0", users=0, build_id=BUILT.build_id)
    sent = asdict(replace(installed, digest="22" * 32, **change))
    result = provision.present(sent, {}, [KERNEL], False, check=True)
    assert result["changed"] is changed
    if "signer" in change:
        assert ", signed by 01\n" in result["diff"]["before"] and ", signed by 02\n" in result["diff"]["after"]


def test_a_module_of_that_name_from_elsewhere_is_left_alone(tree: Path, provision: Provision) -> None:
    runs(tree, version="", users=0)
    with pytest.raises(BpfOomError, match="somebody else's is loaded under the name bpf_oom"):
        provision.present(SENT, {}, [KERNEL], False, check=False)
    assert not provision.absent(check=False)["changed"]


def test_a_replacement_under_policies_is_announced(tree: Path, provision: Provision) -> None:
    runs(tree, version="0.1.0", users=2)
    assert provision.present(SENT, {}, [KERNEL], False, check=True)["changed"]
    assert "the policies are unloaded for a moment" in provision.warnings[0]


def test_it_is_not_removed_under_policies(tree: Path, provision: Provision) -> None:
    runs(tree, version="0.1.0", users=1)
    with pytest.raises(BpfOomError, match="Policies that stand on the module are loaded; remove them first"):
        provision.absent(check=False)


def test_where_nothing_is_there_is_nothing_to_remove(tree: Path, provision: Provision) -> None:
    assert not Module(Paths(str(tree))).releases()
    assert not provision.absent(check=False)["changed"]


def test_a_module_for_a_kernel_that_does_not_run_is_installed_and_not_loaded(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """modules_disabled holds until the next boot, which is what this is for; another build of the module goes on running."""
    other, data = "6.13.0+test-amd64", b"a module"
    (tree / "boot").mkdir()
    (tree / "boot" / f"vmlinuz-{other}").touch()
    (tree / "proc/sys/kernel/modules_disabled").write_text("1")
    monkeypatch.setattr(provide, "other_kernel", lambda _module, release: SimpleNamespace(release=release, build_id=KERNEL))
    monkeypatch.setattr(provide, "_read", lambda path, _wanted: Path(path).read_bytes())
    installed: list[bytes] = []
    monkeypatch.setattr(Module, "install", lambda _module, given: installed.append(given))
    provision = Provision(engine_of(tree), "newest")
    runs(tree, version="0.1.0", users=2)
    sent = {**SENT, "release": other}
    (tree / "ko").write_bytes(data)
    with pytest.raises(BpfOomError, match=r"Nobody has tried the module on this kernel, 6\.13\.0"):
        provision.present(sent, {}, [], False, check=True)
    result = provision.present(sent, {BUILT.digest: str(tree / "ko")}, [KERNEL], False, check=False)
    assert result["changed"] and result["release"] == other and installed == [data] and provision.warnings == []
    assert result["diff"]["after"].endswith("loaded: none\n")


PACK_FILE = "file=$(mktemp) && cat >$file && zstd -qc $file && rm $file"
PACK = {
    "plain": bytes,
    "xz": lzma.compress,
    "gzip": gzip.compress,
    # Of a file, the length of which it notes, as DKMS calls it.
    "zstd": lambda data: subprocess.run(["sh", "-c", PACK_FILE], input=data, stdout=subprocess.PIPE, check=True).stdout,
}


@pytest.mark.parametrize("how", PACK)
def test_what_dkms_built_is_taken_over_and_not_loaded(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    data = b"a module, by its length " * 9
    monkeypatch.setattr(provide, "inspect", lambda given: BUILT if given == data else pytest.fail("it is another file"))
    installed: list[bytes] = []
    monkeypatch.setattr(Module, "install", lambda _module, given: installed.append(given) or BUILT)
    monkeypatch.setattr(cli, "_proven", lambda: [KERNEL])
    path = tree / "bpf_oom.ko"
    path.write_bytes(PACK[how](data))
    assert cli.main(["module", "install", str(path)], engine_of(tree)) == 0
    assert installed == [data] and "installed, and not loaded: version 0.1.0" in capsys.readouterr().out
    if how != "plain":
        path.write_bytes(PACK[how](data)[:-20])
        assert cli.main(["module", "install", str(path)], engine_of(tree)) == 1
        assert "is compressed and cannot be unpacked" in capsys.readouterr().err


def test_what_dkms_built_for_a_kernel_that_nobody_tried_is_not(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(provide, "inspect", lambda _data: BUILT)
    monkeypatch.setattr(Module, "install", lambda *_given: pytest.fail("nothing may be touched"))
    path = tree / "bpf_oom.ko"
    path.write_bytes(b"x")
    assert cli.main(["module", "install", str(path)], engine_of(tree)) == 1
    assert "nobody has tried the module on this kernel" in capsys.readouterr().err.lower()
    assert cli.main(["module", "install", str(tree / "gone")], engine_of(tree)) == 1
    assert cli.main(["module", "install"], engine_of(tree)) == 1
    assert cli.main(["module", "forget"], engine_of(tree)) == 1
    assert cli.main(["module", "forget", "../../etc"], engine_of(tree)) == 1
    assert cli.main(["module", "load", RELEASE], engine_of(tree)) == 1
    assert cli.main(["module", "forget", RELEASE], engine_of(tree)) == 0
    assert "cannot be read: No such file" in capsys.readouterr().err
