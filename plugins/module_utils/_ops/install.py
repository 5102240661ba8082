# SPDX-License-Identifier: GPL-3.0-or-later
"""Put the boot CLI where it belongs: what the module boot_cli does."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .._common.errors import BpfOomError, from_errno
from .._store.manifest import digest
from .._store.paths import FACT
from .._store.writer import write_atomic

_MODE = 0o755
#: The first line of the command as it is sent, and the interpreter in it, which hosts may have in a version that is too old.
SHEBANG = b"#!/usr/bin/python3 -I\n"
_USUAL = "/usr/bin/python3"
_OLDEST = (3, 8)


def interpreter(usual: str = _USUAL, own: str = sys.executable) -> str:
    """The Python that shall run the command, also at boot: the usual one where it is new enough, else that of this very play."""
    if os.path.realpath(usual) == os.path.realpath(own):
        return usual
    test = f"import sys; sys.exit(sys.version_info < {_OLDEST})"
    try:
        if subprocess.run([usual, "-I", "-c", test], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0:
            return usual
    except OSError:
        pass  # there is none
    found = os.path.realpath(own)
    try:
        # What root runs at each boot must be root's alone.
        status = os.stat(found)
        safe = status.st_uid == 0 and not status.st_mode & 0o022
    except OSError:
        safe = False
    if not safe or any(letter.isspace() for letter in found):
        raise BpfOomError(
            f"{usual} is no Python {_OLDEST[0]}.{_OLDEST[1]}, which the command needs at boot, and {found} is not root's alone",
            f"install a newer Python, and let {usual} or ansible_python_interpreter be it",
        )
    return found


class Installation:
    def __init__(self, dest: str, links: Sequence[str], python: str = _USUAL) -> None:
        self._dest = dest
        self._links = links
        self._shebang = f"#!{python} -I\n".encode()

    def _sent(self, data: bytes) -> bytes:
        """What was sent as it belongs here."""
        return self._shebang + data[len(SHEBANG) :] if data.startswith(SHEBANG) else data

    def _described(self, data: bytes) -> str:
        """By the digest of what would have been sent, and the interpreter where that is not the usual one."""
        if self._shebang != SHEBANG and data.startswith(self._shebang):
            return f"sha256 {digest(SHEBANG + data[len(self._shebang) :])}, run by {self._shebang[2:-4].decode()}"
        return f"sha256 {digest(data)}"

    def _file(self) -> str:
        """The file as it is, in words; whatever is not exactly as wanted shows."""
        try:
            found = os.lstat(self._dest)
            if not stat.S_ISREG(found.st_mode):
                return "not a plain file"
            with open(self._dest, "rb") as file:
                words = self._described(file.read())
        except FileNotFoundError:
            return "absent"
        return words + f", mode {stat.S_IMODE(found.st_mode):04o}, owner {found.st_uid}"

    @staticmethod
    def _symlink(link: str) -> str:
        if os.path.islink(link):
            return f"link to {os.readlink(link)}"
        return "in the way" if os.path.lexists(link) else "absent"

    def _show(self, file: str, links: Sequence[str]) -> str:
        lines = [f"{self._dest}: {file}", *(f"{link}: {found}" for link, found in zip(self._links, links))]
        return "\n".join(lines) + "\n"

    def ensure(self, state: str, wanted: str, blobs: Mapping[str, str], check: bool) -> dict[str, Any]:
        file, links = self._file(), [self._symlink(link) for link in self._links]
        in_the_way = [link for link, found in zip(self._links, links) if found == "in the way"]
        if in_the_way or "plain" in file:
            raise BpfOomError(f"{(in_the_way or [self._dest])[0]} is something else", "move it away, or choose another place")
        by = f", run by {self._shebang[2:-4].decode()}" if self._shebang != SHEBANG else ""
        after = (f"sha256 {wanted}{by}, mode {_MODE:04o}, owner {os.geteuid()}", [f"link to {self._dest}"] * len(links))
        if state == "absent":
            after = ("absent", ["absent"] * len(links))
        changed = (file, links) != after
        result = {
            "changed": changed,
            "diff": {"before": self._show(file, links), "after": self._show(*after)},
            "dest": self._dest,
            "digest": wanted,
        }
        if not changed or check:
            return result
        try:
            if state == "absent":
                self._remove()
            else:
                if file != after[0]:
                    if wanted not in blobs:
                        return {"changed": False, "needs": [wanted]}
                    self._install(blobs[wanted], wanted)
                for link, found in zip(self._links, links):
                    if found != after[1][0]:
                        self._set_link(link)
        except OSError as error:
            raise from_errno(f"{error.filename or self._dest} cannot be changed", error.errno or 0) from None
        return result

    def _set_link(self, link: str) -> None:
        os.makedirs(os.path.dirname(link), mode=0o755, exist_ok=True)
        temporary = f"{link}.{os.getpid()}"
        os.symlink(self._dest, temporary)
        os.rename(temporary, link)

    def _install(self, sent: str, wanted: str) -> None:
        with open(sent, "rb") as file:
            data = file.read()
        if digest(data) != wanted:
            raise BpfOomError("the command arrived damaged", "run again")
        directory, name = os.path.split(self._dest)
        os.makedirs(directory, mode=0o755, exist_ok=True)
        number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            write_atomic(name, self._sent(data), number, _MODE)
        finally:
            os.close(number)

    def _remove(self) -> None:
        for path in (*self._links, self._dest):
            if os.path.lexists(path):
                os.unlink(path)
        # Directories that are not ours alone stay; facts.d, and the one that it is in, are made for a fact.
        facts = [os.path.dirname(link) for link in self._links if link.endswith(FACT)]
        for directory in (os.path.dirname(self._dest), *facts, *map(os.path.dirname, facts)):
            try:
                os.rmdir(directory)
            except OSError:
                pass
