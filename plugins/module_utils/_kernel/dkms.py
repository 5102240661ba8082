# SPDX-License-Identifier: GPL-3.0-or-later
"""DKMS on a host: it builds the module from its source, now for one kernel and by itself for each that comes later."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from .._common.errors import BpfOomError, from_errno
from .._store.manifest import bundle_digest
from .._store.paths import MODULE, Paths
from .._store.writer import write_atomic
from .core import unpack_module
from .module import Module

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: Called by DKMS itself, so they must be executable.
_SCRIPTS = ("dkms-hook",)


class Dkms:
    """A version of the module's source, as DKMS has it or shall have it."""

    def __init__(self, paths: Paths, version: str) -> None:
        if not _NAME.fullmatch(version):
            raise BpfOomError(f"{version!r} is no version of a source", "install the collection anew")
        self._version = version
        self._tree = paths.at(f"/var/lib/dkms/{MODULE}")
        self._source = paths.at(f"/usr/src/{MODULE}-{version}")

    @staticmethod
    def problem(module: Module, release: str) -> BpfOomError | None:
        """Why it cannot build for a kernel."""
        if shutil.which("dkms") is None:
            return BpfOomError("DKMS is not installed", f"install dkms and linux-headers-{release}")
        why = module.headers_problem(release)
        return BpfOomError(why, f"install linux-headers-{release} of this distribution, which have one") if why else None

    def has(self, names: Sequence[str], bundle: str) -> bool:
        """Whether DKMS knows this version, and its source is as it must be."""
        if not os.path.exists(os.path.join(self._tree, self._version, "source")):
            return False
        try:
            return bundle_digest({name: self._read(name) for name in names}) == bundle
        except (OSError, UnicodeDecodeError):
            return False

    def _read(self, name: str) -> str:
        with open(os.path.join(self._source, name), encoding="utf-8") as file:
            return file.read()

    def build(self, files: Mapping[str, str], release: str) -> bytes:
        """The module for a kernel; what DKMS had installed stays."""
        self._put(files)
        if not os.path.exists(os.path.join(self._tree, self._version, "source")):
            self._run("add", [f"{MODULE}/{self._version}"], release)
        self._run("build", ["--force", f"{MODULE}/{self._version}", "-k", release], release)
        pattern = os.path.join(glob.escape(os.path.join(self._tree, self._version, release)), "*/module", f"{MODULE}.ko*")
        for path in glob.glob(pattern):
            with open(path, "rb") as file:
                return unpack_module(file.read())
        raise BpfOomError(f"DKMS built nothing for the kernel {release}", f"see {self._tree}")

    def _put(self, files: Mapping[str, str]) -> None:
        try:
            os.makedirs(self._source, mode=0o755, exist_ok=True)
            number = os.open(self._source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                for name, text in files.items():
                    if not _NAME.fullmatch(name):
                        raise BpfOomError(f"the source holds the file name {name!r}", "install the collection anew")
                    write_atomic(name, text.encode(), number, 0o755 if name in _SCRIPTS else 0o644)
            finally:
                os.close(number)
        except OSError as error:
            raise from_errno(f"the source cannot be written to {self._source}", error.errno or 0) from None

    def others(self) -> list[str]:
        """Other versions that DKMS knows; it would build all of them."""
        found = [path.split("/")[-2] for path in glob.glob(os.path.join(glob.escape(self._tree), "*/source"))]
        return sorted(version for version in found if version != self._version)

    def remove(self) -> None:
        """This version, from DKMS and its source; what DKMS installed of it goes, too."""
        if os.path.exists(os.path.join(self._tree, self._version, "source")):
            self._run("remove", [f"{MODULE}/{self._version}", "--all"])
        shutil.rmtree(self._source, ignore_errors=True)

    def _run(self, what: str, arguments: list[str], release: str = "") -> None:
        try:
            done = subprocess.run(
                ["dkms", what, *arguments],
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise from_errno("dkms cannot be run", error.errno or 0) from None
        if done.returncode:
            log = os.path.join(self._tree, self._version, "build/make.log")
            said = done.stdout + _text(log)
            of = f" for {release}" if release else ""
            raise BpfOomError(f"DKMS cannot {what} the module{of}: {_why(said)}", f"see {log}", said[-20000:])


def known(paths: Paths) -> list[str]:
    """The versions of the module that DKMS has."""
    return Dkms(paths, "none").others()


def remove_all(paths: Paths) -> None:
    """Also what DKMS leaves behind when its last build has failed."""
    for version in known(paths):
        Dkms(paths, version).remove()
    for path in glob.glob(os.path.join(glob.escape(paths.at("/lib/modules")), "*/updates/dkms", f"{MODULE}.ko*")):
        os.unlink(path)
    shutil.rmtree(paths.at(f"/var/lib/dkms/{MODULE}"), ignore_errors=True)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _why(said: str) -> str:
    """The module's own Makefile, the compiler, DKMS: whoever says it best."""
    for pattern in (r"^bpf_oom: (.+)$", r"^.*?: (?:fatal )?error: (.+)$", r"^Error! (.+?)\.?$"):
        found = re.search(pattern, said, re.MULTILINE)
        if found:
            return found[1]
    return (said.strip().splitlines() or ["it says nothing"])[-1]
