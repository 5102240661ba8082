# SPDX-License-Identifier: GPL-3.0-or-later
"""The module for a kernel, as a file on the controller: from a site's directory, from the cache, or built."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..module_utils._common.errors import BpfOomError
from ..module_utils._kernel.signature import split
from ..module_utils._store.paths import PROVEN

SOURCE = Path(__file__).resolve().parents[2] / "kernel"
_RELEASE = re.compile(r"[0-9][0-9A-Za-z.+~_-]*")

#: What every kernel that verifies signatures can compute.
_HASH = "sha256"
_SIGN_FILES = ("usr/lib/linux-kbuild-*/scripts/sign-file", "lib/modules/*/build/scripts/sign-file")


def proven() -> list[str]:
    """The build ids of the kernels on which the module was tried in a machine."""
    with (SOURCE / "module" / PROVEN).open(encoding="utf-8") as file:
        return [str(each["build_id"]) for each in json.load(file)]


def dkms_source() -> dict[str, str]:
    """What DKMS builds the module of: the files that kernel/module/package --dkms packs."""
    names = [*_sources((SOURCE / "module/Kbuild").read_text(encoding="utf-8")), "Makefile", "dkms.conf", "dkms-hook"]
    return {name: (SOURCE / "module" / name).read_text(encoding="utf-8") for name in names}


def _sources(kbuild: str) -> list[str]:
    found = re.search(r"^BPF_OOM_SOURCES := (.+)$", kbuild, re.MULTILINE)
    return found[1].split() if found else []


def source_digest(files: Mapping[str, str]) -> str:
    """As Kbuild computes it for `modinfo -F source`."""
    text = "".join(files[name] for name in _sources(files["Kbuild"]))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def dkms_version(files: Mapping[str, str]) -> str:
    found = re.search(r'^PACKAGE_VERSION="(.+)"$', files["dkms.conf"], re.MULTILINE)
    return found[1] if found else ""


class Found(NamedTuple):
    """A module, and what lies beside it: the tool that signs it, where it was built here."""

    data: bytes
    directory: Path


def built_module(release: str, directory: str | None) -> Found:
    """The module for a release; raises BpfOomError when it is not there and cannot be built."""
    # It came from the host and becomes part of a path.
    if not _RELEASE.fullmatch(release):
        raise BpfOomError(f"the host says that its kernel is {release!r}", "see what `uname -r` says there")
    if directory is not None:
        return _read(Path(directory) / release)
    command = [str(SOURCE / "module/build"), "--release", release]
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise BpfOomError(f"{command[0]} cannot be run: {error.strerror}", "see that bash is there") from None
    if run.returncode:
        said = run.stderr.strip().splitlines()
        raise BpfOomError(
            f"the module for {release} cannot be built here: {said[-1] if said else f'exit status {run.returncode}'}",
            "build it where that works, and name the directory with bpf_oom_module_directory",
            run.stderr[-20000:],
        )
    return _read(Path(run.stdout.strip()))


def _read(directory: Path) -> Found:
    path = directory / "bpf_oom.ko"
    try:
        return Found(path.read_bytes(), directory)
    except OSError as error:
        raise BpfOomError(
            f"there is no module for this kernel: {path}: {error.strerror}",
            f"build it with kernel/module/build --release {directory.name}",
        ) from None


def sign(module: Found, key: Path, certificate: Path) -> bytes:
    """The module with a signature in the place of any that it has, by the kernel's own tool; raises BpfOomError."""
    for path, what in ((key, "key"), (certificate, "certificate")):
        try:
            path.read_bytes()
        except OSError as error:
            raise BpfOomError(f"the {what} {path} cannot be read: {error.strerror}", "see bpf_oom_module_key") from None
    command = _sign_file(module.directory)
    with tempfile.TemporaryDirectory(prefix="bpf-oom-") as directory:
        file = Path(directory) / "bpf_oom.ko"
        file.write_bytes(split(module.data).content)
        try:
            run = subprocess.run(
                [*command, _HASH, str(key), str(certificate), str(file)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise BpfOomError(f"{command[-1]} cannot be run: {error.strerror}", "install linux-kbuild here") from None
        if run.returncode:
            raise _not_signed(run.stderr, key, certificate)
        signed = file.read_bytes()
    if not split(signed).signer:
        raise BpfOomError(f"{command[-1]} has not signed the module", "see what that file is")
    return signed


def _sign_file(beside: Path) -> list[str]:
    """From the headers that the module was built with, to be run with their own libraries; else this machine's newest."""
    own = beside / "sign-file"
    if (own / "sign-file").exists():
        return [str(own / "ld-linux-x86-64.so.2"), "--library-path", str(own), str(own / "sign-file")]
    found = sorted(
        (path for pattern in _SIGN_FILES for path in Path("/").glob(pattern) if os.access(path, os.X_OK)),
        key=lambda path: path.stat().st_mtime,
    )
    if not found:
        raise BpfOomError(
            f"sign-file of the kernel is neither in {own} nor on this machine, so nothing can be signed",
            "install linux-headers or linux-kbuild here, or let the module be built here",
        )
    return [str(found[-1])]


def _not_signed(said: str, key: Path, certificate: Path) -> BpfOomError:
    """sign-file ends with the name of what it could not use."""
    last = (said.strip().splitlines() or ["it says nothing"])[-1]
    passphrase = "give its passphrase in the environment as KBUILD_SIGN_PIN"
    if "does not match certificate" in said:
        return BpfOomError(f"the key {key} and the certificate {certificate} do not belong together", "name a pair", said)
    if key == certificate and last.endswith(str(key)):
        return BpfOomError(
            f"{key} has not both a private key and its certificate, or its passphrase is wrong",
            f"name two files, or {passphrase}",
            said,
        )
    if last.endswith(str(certificate)):
        return BpfOomError(f"{certificate} is no certificate", "give an X.509 certificate, PEM or DER", said)
    if last.endswith(str(key)):
        return BpfOomError(f"{key} is no private key, or its passphrase is wrong", f"give one in PEM, or {passphrase}", said)
    return BpfOomError(f"the module cannot be signed: {last}", "see the details", said)
