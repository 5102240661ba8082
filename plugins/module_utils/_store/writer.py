# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes what store reads; apart from it since a look at a host does without."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from .manifest import Manifest, set_digest
from .store import Store


def write_atomic(name: str, data: bytes, dir_fd: int, mode: int = 0o600) -> None:
    """The whole new file or the old one, also after a power cut."""
    # One name, so that what a crash left is taken away by the next writer.
    temporary = f".{name}.new"
    _unlink(temporary, dir_fd)
    number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=dir_fd)
    try:
        with os.fdopen(number, "wb") as file:
            os.fchmod(number, mode)
            file.write(data)
            file.flush()
            os.fsync(number)
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except OSError:
        # What a full disk took of it is room that others want.
        _unlink(temporary, dir_fd)
        raise
    os.fsync(dir_fd)


def _unlink(name: str, dir_fd: int) -> None:
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass  # gone is what was wanted


def _point(name: str, target: str, dir_fd: int) -> None:
    """Make a link point to the target in one step."""
    temporary = f".{name}.new"
    _unlink(temporary, dir_fd)
    os.symlink(target, temporary, dir_fd=dir_fd)
    os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    os.fsync(dir_fd)


class Writer(Store):
    @contextmanager
    def _made(self, *names: str) -> Iterator[int]:
        """A descriptor of a directory below the state directory, made where it is missing."""
        number = self._open(names, create=True)
        try:
            yield number
        finally:
            os.close(number)

    def keep(self, name: str) -> None:
        """Keep the set that counts under a name, with its objects, until it is forgotten; with none, the empty one."""
        manifests = self.read_set().manifests.values()
        target = self._write_set(manifests)
        with self._made("kept") as number:
            _point(name, target, number)

    def forget(self, name: str) -> None:
        with self._directory("kept") as number:
            if number is not None:
                _unlink(name, number)
        self.collect_garbage()

    def put_object(self, inputs: str, data: bytes) -> None:
        with self._made("objects") as number:
            write_atomic(f"{inputs}.o", data, number)

    def switch(self, manifests: Iterable[Manifest]) -> None:
        """Make this the persisted set: written aside, synced, then one rename."""
        target = self._write_set(manifests)
        with self._made() as top:
            _point("current", target, top)

    def _write_set(self, manifests: Iterable[Manifest]) -> str:
        """Where the set is then, as links name it."""
        texts = {manifest.name: manifest.text() for manifest in manifests}
        name = set_digest(texts)
        with self._made("sets", name) as number:
            for file in os.listdir(number):
                # Left by a crash or by somebody: this directory must hold the set and nothing else.
                if not file.endswith(".json") or file[: -len(".json")] not in texts:
                    _unlink(file, number)
            for policy, text in texts.items():
                write_atomic(f"{policy}.json", text.encode(), number)
        with self._made("sets") as sets:
            os.fsync(sets)
        return f"sets/{name}"

    def collect_garbage(self) -> None:
        for folder, name in self.leftovers():
            if folder == "sets":
                shutil.rmtree(os.path.join(self._paths.state, folder, name))
                continue
            with self._directory(*([folder] if folder else [])) as number:
                if number is not None:
                    _unlink(name, number)

    def forget_current(self) -> None:
        """From now on nothing is persisted, whatever becomes of the rest."""
        with self._directory() as top:
            if top is not None:
                _unlink("current", top)
                os.fsync(top)

    def remove_all(self) -> None:
        """Nothing of ours stays; `current` goes first, so that no boot finds half a set."""
        self.forget_current()
        if self.exists():
            shutil.rmtree(self._paths.state)
