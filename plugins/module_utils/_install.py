# SPDX-License-Identifier: GPL-3.0-or-later
"""Put the boot CLI where it belongs: what the module boot_cli does."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from ._errors import BpfOomError, from_errno
from ._manifest import digest
from ._store import write_atomic

_MODE = 0o755


class Installation:
    def __init__(self, dest: str, link: str) -> None:
        self._dest = dest
        self._link = link

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

    def _symlink(self) -> str:
        if os.path.islink(self._link):
            return f"link to {os.readlink(self._link)}"
        return "in the way" if os.path.lexists(self._link) else "absent"

    def _show(self, file: str, link: str) -> str:
        return f"{self._dest}: {file}\n{self._link}: {link}\n"

    def ensure(self, state: str, wanted: str, blobs: Mapping[str, str], check: bool) -> dict[str, Any]:
        file, link = self._file(), self._symlink()
        if "in the way" in link or "plain" in file:
            raise BpfOomError(
                f"{self._link if 'in the way' in link else self._dest} is something else", "move it away, or choose another place"
            )
        after = (f"sha256 {wanted}, mode {_MODE:04o}, owner {os.geteuid()}", f"link to {self._dest}")
        if state == "absent":
            after = ("absent", "absent")
        changed = (file, link) != after
        result = {
            "changed": changed,
            "diff": {"before": self._show(file, link), "after": self._show(*after)},
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
                if link != after[1]:
                    temporary = f"{self._link}.{os.getpid()}"
                    os.symlink(self._dest, temporary)
                    os.rename(temporary, self._link)
        except OSError as error:
            raise from_errno(f"{error.filename or self._dest} cannot be changed", error.errno or 0) from None
        return result

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
        for path in (self._link, self._dest):
            if os.path.lexists(path):
                os.unlink(path)
        try:
            os.rmdir(os.path.dirname(self._dest))
        except OSError:
            pass  # it is not ours alone
