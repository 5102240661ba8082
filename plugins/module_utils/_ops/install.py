# SPDX-License-Identifier: GPL-3.0-or-later
"""Put the boot CLI where it belongs: what the module boot_cli does."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from .._common.errors import BpfOomError, from_errno
from .._store.manifest import digest
from .._store.paths import FACT
from .._store.writer import write_atomic

_MODE = 0o755


class Installation:
    def __init__(self, dest: str, links: Sequence[str]) -> None:
        self._dest = dest
        self._links = links

    def _file(self) -> str:
        """The file as it is, in words; whatever is not exactly as wanted shows."""
        try:
            found = os.lstat(self._dest)
            if not stat.S_ISREG(found.st_mode):
                return "not a plain file"
            with open(self._dest, "rb") as file:
                words = f"sha256 {digest(file.read())}"
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
        after = (f"sha256 {wanted}, mode {_MODE:04o}, owner {os.geteuid()}", [f"link to {self._dest}"] * len(links))
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
            write_atomic(name, data, number, _MODE)
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
