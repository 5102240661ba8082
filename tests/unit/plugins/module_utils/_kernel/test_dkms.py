# SPDX-License-Identifier: GPL-3.0-or-later
"""The module by DKMS on the host, of which a stand-in notes what it is asked and leaves a file where DKMS does."""

from __future__ import annotations

import contextlib
import json
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel import module as _module
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.module import Built, Module
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops import provide
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.provide import Provision
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.manifest import bundle_digest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths

RELEASE = "6.12.0+test-amd64"
KERNEL = "07" * 20
NOTE = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0"
FILES = {"main.c": "int main;", "dkms.conf": "PACKAGE_NAME=bpf_oom", "dkms-hook": "#!/bin/sh"}
BUNDLE = bundle_digest(FILES)
SOURCE = {"version": "0.2.0", "source": "5a", "bundle": BUNDLE, "names": sorted(FILES)}

DKMS = """#!{python}
import lzma, os, pathlib, shutil, sys
top = pathlib.Path({top!r})
with open(top / "asked", "a") as file:
    print(*sys.argv[1:], file=file)
name = next(word for word in sys.argv if word.startswith("bpf_oom/"))
version = top / "var/lib/dkms" / name
if sys.argv[1] == "add":
    version.mkdir(parents=True)
    (version / "source").symlink_to(top / "usr/src" / name.replace("/", "-"))
elif sys.argv[1] == "build":
    if (top / "broken").exists():
        (version / "build").mkdir(exist_ok=True)
        (version / "build/make.log").write_text((top / "broken").read_text())
        sys.exit("Error! Bad return status for module build on kernel.")
    built = version / sys.argv[-1] / "x86_64/module/bpf_oom.ko.xz"
    built.parent.mkdir(parents=True, exist_ok=True)
    built.write_bytes(lzma.compress((top / "usr/src" / name.replace("/", "-") / "main.c").read_bytes()))
else:
    shutil.rmtree(version)
"""


class Host:
    def __init__(self, top: Path) -> None:
        self.top = top
        for name, data in {
            "proc/sys/kernel/osrelease": RELEASE.encode(),
            "proc/cmdline": b"quiet",
            "sys/kernel/notes": NOTE + bytes.fromhex(KERNEL),
            f"lib/modules/{RELEASE}/build/vmlinux": b"",
            "bundle": json.dumps(sorted(FILES.items())).encode(),
        }.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(data)
        (top / "bin").mkdir()
        (top / "bin/dkms").write_text(DKMS.format(python=sys.executable, top=str(top)))
        (top / "bin/dkms").chmod(0o755)
        self.paths = Paths(str(top))

    @property
    def asked(self) -> list[str]:
        return (self.top / "asked").read_text().splitlines() if (self.top / "asked").exists() else []

    def provision(self) -> Provision:
        @contextlib.contextmanager
        def locked(check: bool) -> Iterator[None]:
            yield

        engine: Any = SimpleNamespace(paths=self.paths, locked=locked)
        return Provision(engine)

    def ensure(self, check: bool = False, given: bool = True, **source: Any) -> tuple[dict[str, Any], list[str]]:
        provision = self.provision()
        blobs = {BUNDLE: str(self.top / "bundle")} if given else {}
        return provision.by_dkms({**SOURCE, **source}, blobs, [KERNEL], False, check), provision.warnings


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    # What is built is its own source here.
    def inspect(data: bytes) -> Built:
        return Built(RELEASE, "0.2.0", "5a", "ab" * 20, content=data.decode(), signer="host", digest="cd" * 32)

    monkeypatch.setattr(provide, "inspect", inspect)
    monkeypatch.setattr(_module, "inspect", inspect)

    def load(module: Module) -> str:
        top = tmp_path / "sys/module/bpf_oom"
        (top / "notes").mkdir(parents=True)
        (top / "notes/.note.gnu.build-id").write_bytes(NOTE + bytes.fromhex("ab" * 20))
        (top / "version").write_text("0.2.0")
        return "loaded"

    monkeypatch.setattr(Module, "load", load)
    return found


def test_a_check_says_that_it_would_be_built_and_builds_nothing(host: Host) -> None:
    result, warnings = host.ensure(check=True, given=False)
    assert result["changed"] and warnings == [] and host.asked == []
    assert result["diff"]["after"] == f"{RELEASE}: version 0.2.0, built by DKMS\n"
    # The play may be about to install DKMS.
    (host.top / "bin/dkms").unlink()
    result, warnings = host.ensure(check=True, given=False)
    assert result["changed"] and warnings == [f"DKMS is not installed; install dkms and linux-headers-{RELEASE}."]
    assert not (host.top / "usr").exists() and not (host.top / "var").exists()


def test_it_is_built_once_installed_and_loaded(host: Host) -> None:
    assert host.ensure(given=False)[0] == {"changed": False, "needs": [BUNDLE]} and host.asked == []
    assert host.ensure()[0]["changed"]
    assert host.asked == ["add bpf_oom/0.2.0", f"build --force bpf_oom/0.2.0 -k {RELEASE}"]
    assert (host.top / "usr/lib/linuxmm-bpf-oom/modules" / RELEASE / "bpf_oom.ko").read_text() == FILES["main.c"]
    assert (host.top / "usr/src/bpf_oom-0.2.0/dkms-hook").stat().st_mode & 0o777 == 0o755
    for check in (True, False):
        assert not host.ensure(check=check, given=False)[0]["changed"]
    assert len(host.asked) == 2


def test_a_source_that_somebody_changed_is_built_anew(host: Host) -> None:
    host.ensure()
    (host.top / "usr/src/bpf_oom-0.2.0/main.c").write_text("int other;")
    assert host.ensure(check=True, given=False)[0]["changed"]
    assert host.ensure()[0]["changed"]
    assert (host.top / "usr/src/bpf_oom-0.2.0/main.c").read_text() == FILES["main.c"]
    assert not host.ensure(given=False)[0]["changed"]


def test_an_older_version_goes_when_the_new_one_is_built(host: Host) -> None:
    old = host.top / "var/lib/dkms/bpf_oom/0.1.0"
    old.mkdir(parents=True)
    (old / "source").symlink_to(host.top / "usr/src/bpf_oom-0.1.0")
    (host.top / "usr/src/bpf_oom-0.1.0").mkdir(parents=True)
    (host.top / "broken").write_text("main.c:7:1: error: unknown type name 'x'\n")
    with pytest.raises(BpfOomError, match=r"DKMS cannot build the module for .*: unknown type name 'x'; see .*make\.log"):
        host.ensure()
    assert old.exists()
    (host.top / "broken").unlink()
    host.ensure()
    assert not old.exists() and not (host.top / "usr/src/bpf_oom-0.1.0").exists()
    assert host.asked[-1] == "remove bpf_oom/0.1.0 --all"


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("bpf_oom: there is no gcc-14, the compiler\nmake: *** Error 1\n", "there is no gcc-14, the compiler"),
        ("nothing that is known\n", "Bad return status for module build on kernel"),
    ],
)
def test_what_dkms_says_is_repeated(host: Host, log: str, says: str) -> None:
    (host.top / "broken").write_text(log)
    with pytest.raises(BpfOomError, match=f"DKMS cannot build the module for .*: {says}; see ") as caught:
        host.ensure()
    assert log.strip() in caught.value.details
    assert not (host.top / "usr/lib").exists()


def test_what_dkms_needs_is_said_before_anything_is_made(host: Host) -> None:
    (host.top / f"lib/modules/{RELEASE}/build/vmlinux").unlink()
    with pytest.raises(BpfOomError, match=r"The headers of the kernel .* have no vmlinux, so DKMS cannot build"):
        host.ensure()
    (host.top / f"lib/modules/{RELEASE}/build").rmdir()
    with pytest.raises(BpfOomError, match=r"There are no headers of the kernel .*; install linux-headers-"):
        host.ensure()
    (host.top / "bin/dkms").unlink()
    with pytest.raises(BpfOomError, match=r"DKMS is not installed; install dkms and linux-headers-"):
        host.ensure()
    with pytest.raises(BpfOomError, match=r"'\.\./x' is no version of a source"):
        host.ensure(version="../x")
    assert not (host.top / "usr").exists() and host.asked == []


def test_a_source_that_is_another_than_it_should_be_is_not_installed(host: Host) -> None:
    with pytest.raises(BpfOomError, match="DKMS has built another source than it was given"):
        host.ensure(source="00")
    assert not (host.top / "usr/lib").exists()
    (host.top / "bundle").write_text(json.dumps([["main.c", "int x;"]]))
    with pytest.raises(BpfOomError, match="The source arrived damaged; run again"):
        host.ensure()


def test_nothing_is_left_when_it_is_removed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.ensure()
    installed = host.top / f"lib/modules/{RELEASE}/updates/dkms/bpf_oom.ko.xz"
    installed.parent.mkdir(parents=True)
    installed.write_bytes(lzma.compress(b""))
    (host.top / "var/lib/dkms/bpf_oom" / f"kernel-{RELEASE}-x86_64").symlink_to("gone")
    monkeypatch.setattr(Module, "unload", lambda _module: True)
    assert host.provision().absent(check=True)["changed"] and installed.exists()
    assert host.provision().absent(check=False)["changed"]
    left = [path.name for path in host.top.rglob("*bpf_oom*") if "sys/module" not in str(path)]
    assert left == [] and not installed.exists()
