# SPDX-License-Identifier: GPL-3.0-or-later
"""What is persisted on a host: objects, sets of manifests, and the link that says which set counts; see writer, too.

Only root's plain files are trusted. Everything below the state directory is reached through open
directory descriptors without following links; what is new is synced before one rename makes it count.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .._common.errors import BpfOomError, from_errno
from .manifest import Manifest, digest, parse, set_digest
from .paths import Paths

LOCK_SECONDS = 60.0
_CURRENT = re.compile(r"sets/([0-9a-f]{64})\Z")
_KEPT = re.compile(r"[a-z][a-z0-9_-]{0,47}\Z")


@dataclass
class StoredSet:
    """The persisted set: whole manifests, and for the others why they do not count."""

    manifests: dict[str, Manifest] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    problem: str = ""


@contextmanager
def host_lock(paths: Paths, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """One change at a time on a host; who waits too long is told who holds the lock."""
    deadline = time.monotonic() + seconds
    number = _open_lock(paths)
    try:
        while True:
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    owner = os.pread(number, 32, 0).decode("ascii", "replace").strip() or "unknown"
                    raise BpfOomError(
                        f"process {owner} has held {paths.run}/lock for more than {seconds:g} s",
                        "wait for it or end it, then run again",
                    ) from None
                # flock has no timeout of its own; this is its poll interval.
                time.sleep(0.1)
                continue
            if os.fstat(number).st_nlink:
                break
            # Whoever had it removed everything of ours, this file too: begin again with a new one.
            os.close(number)
            number = _open_lock(paths)
        os.ftruncate(number, 0)
        os.pwrite(number, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(number)


def _open_lock(paths: Paths) -> int:
    parent = open_directory(paths.run, create=True)
    try:
        return os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    except OSError as error:
        raise from_errno(f"the lock {paths.run}/lock cannot be opened", error.errno or errno.EIO) from None
    finally:
        os.close(parent)


def _refuse(path: str, why: str) -> BpfOomError:
    return BpfOomError(f"{path} {why}", "see who made it so, remove it, and run again")


def _check_parents(path: str) -> None:
    """No directory above ours may let somebody else replace ours."""
    parent = os.path.realpath(os.path.dirname(path))
    while True:
        found = os.stat(parent)
        if found.st_uid not in (0, os.geteuid()):
            raise _refuse(parent, f"belongs to user {found.st_uid}, not to root")
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            raise _refuse(parent, "can be written by everybody")
        if parent == "/":
            return
        parent = os.path.dirname(parent)


def open_directory(path: str, create: bool = False, dir_fd: int | None = None) -> int:
    if create:
        try:
            os.mkdir(path, 0o700, dir_fd=dir_fd)
        except FileExistsError:
            pass  # checked below like any other
    if dir_fd is None:
        _check_parents(path)
    try:
        number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _refuse(path, "is a symbolic link or no directory") from None
        raise
    found = os.fstat(number)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        os.close(number)
        raise _refuse(path, "does not belong to root alone")
    return number


def _read(name: str, dir_fd: int, shown: str) -> bytes:
    try:
        number = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _refuse(shown, "is a symbolic link") from None
        raise
    with os.fdopen(number, "rb") as file:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise _refuse(shown, "is no plain file")
        if found.st_nlink != 1:
            raise _refuse(shown, "has a second hard link")
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise _refuse(shown, "does not belong to root alone")
        return file.read()


class Store:
    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def _open(self, names: Iterable[str], create: bool) -> int:
        number = open_directory(self._paths.state, create)
        for name in names:
            try:
                inner = open_directory(name, create, dir_fd=number)
            finally:
                os.close(number)
            number = inner
        return number

    @contextmanager
    def _directory(self, *names: str) -> Iterator[int | None]:
        """The same to read: None when it does not exist."""
        try:
            number = self._open(names, create=False)
        except FileNotFoundError:
            yield None
            return
        try:
            yield number
        finally:
            os.close(number)

    def exists(self) -> bool:
        return os.path.lexists(self._paths.state)

    def read_set(self, kept: str = "") -> StoredSet:
        """The set that counts, or one that was kept under a name; empty when there is none."""
        found = StoredSet()
        with self._directory(*(["kept"] if kept else [])) as top:
            if top is None:
                return found
            shown = f"{self._paths.state}/{'kept/' + kept if kept else 'current'}"
            try:
                target = os.readlink(kept or "current", dir_fd=top)
            except FileNotFoundError:
                return found
            except OSError:
                target = ""
            match = _CURRENT.match(target)
            if not match:
                found.problem = f"{shown} does not point to a set"
                return found
        self._fill(found, match.group(1))
        return found

    def _fill(self, found: StoredSet, name: str) -> None:
        with self._directory("sets", name) as number:
            if number is None:
                found.problem = f"the persisted set sets/{name} is missing"
                return
            texts = {}
            for file in sorted(os.listdir(number)):
                policy = file[: -len(".json")]
                try:
                    texts[policy] = _read(file, number, f"{self._paths.state}/sets/{name}/{file}").decode("utf-8")
                    found.manifests[policy] = parse(texts[policy], policy)
                except (BpfOomError, UnicodeDecodeError) as error:
                    found.broken[policy] = str(error)
            if set_digest(texts) != name:
                found.problem = "a manifest was changed or removed behind our back, the set no longer has its digest"

    def kept(self) -> list[str]:
        """The names under which sets are kept."""
        with self._directory("kept") as number:
            return sorted(name for name in os.listdir(number) if _KEPT.match(name)) if number is not None else []

    def object_bytes(self, manifest: Manifest) -> bytes:
        """The object of a manifest, checked against its digest."""
        shown = f"{self._paths.state}/objects/{manifest.inputs}.o"
        remedy = "run the play again, it installs the object anew"
        with self._directory("objects") as number:
            try:
                if number is None:
                    raise FileNotFoundError
                data = _read(f"{manifest.inputs}.o", number, shown)
            except FileNotFoundError:
                raise BpfOomError(f"the object {shown} is missing", remedy) from None
        if digest(data) != manifest.object:
            raise BpfOomError(f"the object {shown} is damaged", remedy)
        return data

    def object_problem(self, manifest: Manifest) -> str:
        """Why the object of a manifest cannot be used, '' when it can."""
        try:
            self.object_bytes(manifest)
        except BpfOomError as error:
            return error.cause
        return ""

    def leftovers(self, current: StoredSet | None = None) -> list[tuple[str, str]]:
        """What a change that was interrupted left: folder ('' is the top) and name of each; `current` if it has been read.

        These are the sets that neither count nor are kept, the objects that no manifest of those names, and temporary names.
        """
        names, used = set(), set()
        for kept in ("", *self.kept()):
            with self._directory(*(["kept"] if kept else [])) as top:
                try:
                    names.add(os.readlink(kept or "current", dir_fd=top)[len("sets/") :])
                except OSError:
                    continue  # there is none, or it is no link and read_set() tells of it
            held = current if current is not None and not kept else self.read_set(kept)
            used |= {f"{manifest.inputs}.o" for manifest in held.manifests.values()}
        found = []
        for folder in ("", "kept", "sets", "objects"):
            try:
                with self._directory(*([folder] if folder else [])) as number:
                    there = sorted(os.listdir(number)) if number is not None else []
            except BpfOomError:
                continue  # it is not ours to tidy; who needs what is in it says why it cannot be used
            for name in there:
                unwanted = {"sets": name not in names, "objects": name not in used}
                if unwanted.get(folder, name.startswith(".")):
                    found.append((folder, name))
        return found
