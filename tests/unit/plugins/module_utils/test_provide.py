# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused before the module of a kernel is touched, and what a check says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils import _module, _provide
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._module import Built, Module
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._paths import Paths
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._provide import Provision

RELEASE = "6.12.0+test-amd64"
BUILT = Built(release=RELEASE, version="0.1.0", source="01", build_id="ab" * 20, signed=False, digest="cd" * 32)
SENT = {**asdict(BUILT), "signed": "no"}
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
    monkeypatch.setattr(_module, "_syscall", lambda *_arguments: pytest.fail("nothing may be touched"))
    return tmp_path


@pytest.fixture
def provision(tree: Path) -> Provision:
    @contextlib.contextmanager
    def locked(check: bool) -> Iterator[None]:
        yield

    return Provision(SimpleNamespace(paths=Paths(str(tree)), locked=locked))  # type: ignore[arg-type]


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

    @contextlib.contextmanager
    def locked(check: bool) -> Iterator[None]:
        yield

    other, data = "6.13.0+test-amd64", b"a module"
    (tree / "boot").mkdir()
    (tree / "boot" / f"vmlinuz-{other}").touch()
    (tree / "proc/sys/kernel/modules_disabled").write_text("1")
    monkeypatch.setattr(_provide, "other_kernel", lambda _module, release: SimpleNamespace(release=release, build_id=KERNEL))
    monkeypatch.setattr(_provide, "_read", lambda path, _wanted: Path(path).read_bytes())
    installed: list[bytes] = []
    monkeypatch.setattr(Module, "install", lambda _module, given: installed.append(given))
    provision = Provision(SimpleNamespace(paths=Paths(str(tree)), locked=locked), "newest")  # type: ignore[arg-type]
    runs(tree, version="0.1.0", users=2)
    sent = {**SENT, "release": other}
    (tree / "ko").write_bytes(data)
    with pytest.raises(BpfOomError, match=r"Nobody has tried the module on this kernel, 6\.13\.0"):
        provision.present(sent, {}, [], False, check=True)
    result = provision.present(sent, {BUILT.digest: str(tree / "ko")}, [KERNEL], False, check=False)
    assert result["changed"] and result["release"] == other and installed == [data] and provision.warnings == []
    assert result["diff"]["after"].endswith("loaded: none\n")
