# SPDX-License-Identifier: GPL-3.0-or-later
"""The module for a kernel on the controller: its packages, and its signature with a throw-away key. By the real tools."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.signature import MAGIC, split
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils import _kernel
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._kernel import (
    SOURCE,
    Found,
    built_module,
    dkms_source,
    dkms_version,
    sign,
    source_digest,
)

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


def test_headers_without_vmlinux_and_a_machine_without_the_compiler_are_a_sentence(tmp_path: Path) -> None:
    """Headers that only record what they are called with take the place of a kernel's."""
    (tmp_path / "Makefile").write_text("modules:\n\t@echo asked for $(M)\n")
    (tmp_path / ".config").write_text('CONFIG_CC_VERSION_TEXT="no-such-gcc-14 (Debian 14.2.0-19) 14.2.0"\n')

    def made(*arguments: str) -> tuple[int, str, list[str]]:
        command = ["make", "--silent", "-C", str(MODULE), f"KDIR={tmp_path}", *arguments]
        environment = {key: value for key, value in os.environ.items() if key not in ("CC", "MAKEFLAGS")}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        return done.returncode, done.stdout, [line for line in done.stderr.splitlines() if line.startswith("bpf_oom: ")]

    status, _out, said = made()
    assert status and said == [
        f"bpf_oom: {tmp_path} has no vmlinux, which says what the kernel has itself; a copy of /sys/kernel/btf/vmlinux under that"
        " name will do"
    ]
    (tmp_path / "vmlinux").touch()
    status, _out, said = made()
    assert status and said == [
        "bpf_oom: there is no no-such-gcc-14, the compiler that this kernel was built with; install it, or name one as CC=..."
    ]
    assert made("CC=sh -x") == (0, f"asked for {MODULE}\n", [])


def test_what_building_needs_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tool in ("bash", "dirname", "cat", "sha256sum", "cut", "mkdir", "flock"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or pytest.fail(f"there is no {tool}"))
    monkeypatch.setenv("BPF_OOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BpfOomError, match=r"cannot be built here: kernel/module/build: mmdebstrap is missing; install mm"):
        built_module("6.12.0+test-amd64", None)
    assert [path.name for path in (tmp_path / "cache/modules").glob("*/*")] == ["6.12.0+test-amd64.lock"]
    with pytest.raises(BpfOomError, match=r"The host says that its kernel is '\.\./x'"):
        built_module("../x", None)


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
    files = dkms_source()
    assert names == set(files) and dkms_version(files) == setting("PACKAGE_VERSION")
    # As Kbuild has it computed, for `modinfo -F source`.
    sources = re.search(r"^BPF_OOM_SOURCES := (.*)$", (MODULE / "Kbuild").read_text(), re.MULTILINE)
    assert sources and {path.name for path in MODULE.glob("*.[chS]")} < set(sources[1].split()) < names
    command = f"cat {sources[1]} | sha256sum | cut -c1-16"
    done = subprocess.run(["sh", "-c", command], cwd=MODULE, capture_output=True, text=True, check=True)
    assert source_digest(files) == done.stdout.strip()
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


#: As scripts/sign-file of the kernel does it: a detached PKCS#7 signature of the file, then what module_signature.h says.
SIGN_FILE = """#!/usr/bin/env python3
import os, struct, subprocess, sys

algorithm, key, certificate, file = sys.argv[1:]
secret = ["-passin", "pass:" + os.environ["KBUILD_SIGN_PIN"]]
for path, command in ((key, ["pkey", "-noout", *secret]), (certificate, ["x509", "-noout"])):
    if subprocess.run(["openssl", *command, "-in", path], stderr=subprocess.DEVNULL).returncode:
        sys.exit("sign-file: " + path)
command = ["openssl", "cms", "-sign", "-binary", "-noattr", "-nocerts", "-outform", "DER", "-md", algorithm]
signed = subprocess.run([*command, "-inkey", key, *secret, "-signer", certificate, "-in", file], stdout=subprocess.PIPE)
if signed.returncode:
    sys.exit("sign-file: CMS_add1_signer")
with open(file, "ab") as module:
    trailer = struct.pack(">BBBBB3xI", 0, 0, 2, 0, 0, len(signed.stdout))
    module.write(signed.stdout + trailer + b"~Module signature appended~\\n")
"""


class Site:
    """Keys of a site, thrown away with the directory."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.tool = top / "tool/sign-file"
        self.tool.parent.mkdir()
        self.tool.write_text(SIGN_FILE)
        self.tool.chmod(0o755)
        (top / "built").mkdir()
        self.found = Found(b"a module of many bytes", top / "built")

    def key(self, name: str, *how: str) -> tuple[Path, Path]:
        key, certificate = self.top / f"{name}.key", self.top / f"{name}.pem"
        command = ["openssl", "req", "-new", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}", "-newkey", *how]
        subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
        return key, certificate


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    found = Site(tmp_path)
    monkeypatch.setattr(_kernel, "_SIGN_FILES", (str(found.tool)[1:],))
    monkeypatch.setenv("KBUILD_SIGN_PIN", "")
    return found


RSA, CURVE = ("rsa:2048",), ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


@pytest.mark.parametrize("how", [RSA, CURVE])
def test_a_module_is_signed_with_the_key_of_the_site(site: Site, how: tuple[str, ...]) -> None:
    key, certificate = site.key("site", *how)
    data = sign(site.found, key, certificate)
    assert data.endswith(MAGIC) and data.startswith(site.found.data)
    # What is signed is what it says: openssl verifies it.
    (site.top / "signature").write_bytes(data[len(site.found.data) : -len(MAGIC) - 12])
    (site.top / "content").write_bytes(site.found.data)
    command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", "signature", "-content", "content"]
    done = subprocess.run(
        [*command, "-certfile", str(certificate), "-CAfile", str(certificate), "-purpose", "any", "-out", "verified"],
        cwd=site.top,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", [RSA, CURVE])
def test_another_signature_of_the_same_key_is_the_same_module(site: Site, how: tuple[str, ...]) -> None:
    key, certificate = site.key("site", *how)
    first, second = sign(site.found, key, certificate), sign(site.found, key, certificate)
    assert split(first) == split(second) and split(first).content == site.found.data
    assert how == RSA or first != second
    # In the place of another's signature, not behind it.
    other = sign(site.found._replace(data=first), *site.key("other", *how))
    assert split(other).content == site.found.data and split(other).signer != split(first).signer


def test_key_and_certificate_may_be_in_one_file(site: Site) -> None:
    key, certificate = site.key("site", *RSA)
    both = site.top / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    assert split(sign(site.found, both, both)) == split(sign(site.found, key, certificate))


def test_what_cannot_be_signed_is_said_in_a_sentence(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = site.key("site", *RSA)
    other = site.key("other", *RSA)[1]
    gone = site.top / "gone"
    locked = site.top / "locked.key"
    protect = ["openssl", "pkey", "-in", str(key), "-aes128", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(protect, check=True, capture_output=True)

    def refused(one: Path, two: Path, says: str) -> None:
        with pytest.raises(BpfOomError, match=says) as caught:
            sign(site.found, one, two)
        assert "\n" not in str(caught.value)

    refused(gone, certificate, r"The key .*/gone cannot be read: No such file or directory; see bpf_oom_module_key")
    refused(key, gone, r"The certificate .*/gone cannot be read")
    refused(certificate, other, r"site\.pem is no private key, or its passphrase is wrong")
    refused(key, gone.with_name("site.key"), r"site\.key has not both a private key and its certificate")
    refused(key, site.tool, r"tool/sign-file is no certificate")
    refused(certificate, certificate, r"site\.pem has not both a private key and its certificate")
    refused(key, other, r"The key .*site\.key and the certificate .*other\.pem do not belong together")
    refused(locked, certificate, r"locked\.key is no private key, or its passphrase is wrong; .*KBUILD_SIGN_PIN")
    monkeypatch.setenv("KBUILD_SIGN_PIN", "secret")
    assert split(sign(site.found, locked, certificate)).signer
    site.tool.write_text("#!/bin/sh\n")
    refused(key, certificate, "has not signed the module")
    site.tool.unlink()
    refused(key, certificate, "Sign-file of the kernel is neither in .*/built/sign-file nor on this machine")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: MAGIC,
        lambda data: b"x" * 12 + MAGIC,
        lambda data: data[: -len(MAGIC) - 12] + b"\0\0\2\0\0\0\0\0\xff\xff\xff\xff" + MAGIC,
        lambda data: data[: -len(MAGIC) - 12] + b"\0\0\1" + data[-len(MAGIC) - 9 :],
        lambda data: data[:22] + b"\x30\x84\xff\xff\xff\xff" + data[28:],
        lambda data: data[:22] + bytes(len(data) - 22 - len(MAGIC) - 12) + data[-len(MAGIC) - 12 :],
        lambda data: data[:24] + data[26 : -len(MAGIC) - 12] + b"\0\0" + data[-len(MAGIC) - 12 :],
    ],
)
def test_a_damaged_signature_is_said(site: Site, change: Callable[[bytes], bytes]) -> None:
    data = sign(site.found, *site.key("site", *RSA))
    with pytest.raises(BpfOomError, match="The signature of this module is damaged; sign it again"):
        split(change(data))
