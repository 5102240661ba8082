# SPDX-License-Identifier: GPL-3.0-or-later
"""The module for a kernel on the controller: its packages, and its signature with a throw-away key. By the real tools."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._kernel import SOURCE

MODULE = SOURCE / "module"
RELEASE = "6.12.0+test-amd64"


def setting(name: str) -> str:
    found = re.search(rf'^{name}="([^"]*)"$', (MODULE / "dkms.conf").read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_the_module_has_the_version_of_the_collection() -> None:
    version = yaml.safe_load((SOURCE.parent / "galaxy.yml").read_text())["version"]
    assert setting("PACKAGE_VERSION") == version
    assert f'MODULE_VERSION("{version}");' in (MODULE / "main.c").read_text()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a module that was built already, as far as kernel/module/build can tell."""
    monkeypatch.setenv("BPF_OOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    sources = ["build", "Kbuild", "Makefile", *sorted(path.name for path in MODULE.glob("*.[chS]"))]
    digest = hashlib.sha256(b"".join((MODULE / name).read_bytes() for name in sources)).hexdigest()[:16]
    built = tmp_path / "cache/modules" / digest / RELEASE
    built.mkdir(parents=True)
    (built / "bpf_oom.ko").write_bytes(b"a module")
    return tmp_path / "cache"


def package(*arguments: str) -> Path:
    done = subprocess.run([str(MODULE / "package"), *arguments], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def contents(deb: Path) -> dict[str, tarfile.TarInfo]:
    subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], check=True, stdout=(deb.parent / "tar").open("wb"))
    with tarfile.open(deb.parent / "tar") as archive:
        return {each.name.removeprefix("./"): each for each in archive if each.isfile()}


def test_a_package_of_a_built_module_loads_nothing_and_is_the_same_bytes(cache: Path) -> None:
    deb = package("--release", RELEASE)
    assert deb.name == f"bpf-oom-module-{RELEASE}_{setting('PACKAGE_VERSION')}_amd64.deb"
    first = deb.read_bytes()
    assert package("--release", RELEASE).read_bytes() == first
    field = ["dpkg-deb", "--field", str(deb), "Depends"]
    assert subprocess.run(field, capture_output=True, text=True, check=True).stdout.strip() == f"linux-image-{RELEASE}"
    subprocess.run(["dpkg-deb", "--control", str(deb), str(cache / "control")], check=True)
    assert [path.name for path in (cache / "control").iterdir()] == ["control"]
    found = contents(deb)
    where = f"usr/lib/linuxmm-bpf-oom/modules/{RELEASE}"
    assert {f"{where}/bpf_oom.ko", f"{where}/digest"} < set(found)
    assert {(each.uid, each.gid, each.mode, each.mtime) for each in found.values()} == {(0, 0, 0o644, 0)}
    subprocess.run(["dpkg-deb", "--extract", str(deb), str(cache / "root")], check=True)
    assert (cache / "root" / where / "digest").read_text().split() == [hashlib.sha256(b"a module").hexdigest()]


@pytest.mark.usefixtures("cache")
def test_a_package_for_dkms_has_all_of_the_source() -> None:
    deb = package("--dkms")
    first = deb.read_bytes()
    assert package("--dkms").read_bytes() == first
    found = contents(deb)
    top = f"usr/src/bpf_oom-{setting('PACKAGE_VERSION')}/"
    names = {name[len(top) :] for name in found if name.startswith(top)}
    sources = re.search(r"^BPF_OOM_SOURCES := (.*)$", (MODULE / "Kbuild").read_text(), re.MULTILINE)
    assert sources and names == {*sources[1].split(), "Makefile", "dkms.conf", "dkms-hook"}
    assert found[f"{top}dkms-hook"].mode == 0o755


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give --release RELEASE or --dkms"),
        (["--dkms", "x"], "give --release RELEASE or --dkms"),
        (["--release", "../../etc"], "is no release of a Debian kernel"),
    ],
)
def test_what_cannot_be_packed(arguments: list[str], says: str) -> None:
    done = subprocess.run([str(MODULE / "package"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode and done.stdout == "" and says in done.stderr and done.stderr.count("\n") == 1
