# SPDX-License-Identifier: GPL-3.0-or-later
"""Ensure that the module for a kernel is installed, and loaded where it runs: what the Ansible module kernel_module does."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .._common.errors import BpfOomError, from_errno
from .._engine.change import bring_back, unload_all
from .._engine.engine import Engine
from .._kernel import dkms as dkms_tool
from .._kernel.core import LARGEST, has_interface, unpack_module
from .._kernel.dkms import Dkms
from .._kernel.module import Built, Module, inspect
from .._store.manifest import bundle_digest
from .foresee import newest, other_kernel, refuse_untried

#: Instead of a release: the newest kernel that is installed.
NEWEST = "newest"


def which(module: Module, wanted: str) -> str:
    """The release of the kernel that is meant, by default that which runs."""
    return newest(module) if wanted == NEWEST else wanted or module.release()


def describe(module: Module, wanted: str = "") -> dict[str, Any]:
    """What the controller has to know to find or build the right module, and to see that nothing is to be done."""
    release = which(module, wanted)
    runs = release == module.release()
    running = module.running() if runs else None
    try:
        installed = module.installed(release)
    except BpfOomError:
        installed = None
    return {
        "release": release,
        "runs": runs,
        "kernel_has_it": module.kernel_has_it() if runs else has_interface(other_kernel(module, release).types),
        "installed": asdict(installed) if installed else None,
        "running": running.build_id if running else None,
    }


def adopt(engine: Engine, path: str, proven: Sequence[str], untried: bool) -> Built:
    """Install a module that was built on this host, as by DKMS; nothing is loaded."""
    module = Module(engine.paths)
    try:
        # A named pipe that nobody writes to must not be waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(LARGEST)
    except OSError as error:
        raise from_errno(f"{path} cannot be read", error.errno or errno.EIO) from None
    data = unpack_module(data)
    built = inspect(data)
    runs = built.release == module.release()
    build_id = module.kernel_build_id() if runs else other_kernel(module, built.release).build_id
    module.refuse(built, built.release, "" if runs else build_id or built.release)
    refuse_untried(built.release, build_id, proven, untried)
    with engine.locked(check=False):
        return module.install(data)


class Provision:
    def __init__(self, engine: Engine, wanted: str = "") -> None:
        self._engine = engine
        self._module = Module(engine.paths)
        self._release = which(self._module, wanted)
        self._runs = self._release == self._module.release()
        self.warnings: list[str] = []

    # ------------------------------------------------------------------ there

    def present(
        self, sent: Mapping[str, str], blobs: Mapping[str, str], proven: Sequence[str], untried: bool, check: bool
    ) -> dict[str, Any]:
        """With a module that the controller has."""
        wanted = Built(**sent)
        self._refuse(wanted, proven, untried)

        def arrived() -> bytes:
            if wanted.digest not in blobs:
                raise BpfOomError("the module on this host changed while it was looked at", "run again")
            return _read(blobs[wanted.digest], wanted)

        return self._ensure(wanted, arrived, check)

    def by_dkms(
        self, source: Mapping[str, Any], blobs: Mapping[str, str], proven: Sequence[str], untried: bool, check: bool
    ) -> dict[str, Any]:
        """With a module that DKMS builds here of the controller's source. Asks for that where it is needed."""
        version, bundle = str(source["version"]), str(source["bundle"])
        # DKMS signs where it can; what came of it is looked at when it is there.
        wanted = Built(self._release, version, str(source["source"]), "", content="", signer="DKMS", digest="")
        self._refuse(wanted, proven, untried)
        dkms, installed = Dkms(self._engine.paths, version), self._installed()[0]
        same = installed is not None and (installed.version, installed.source) == (version, wanted.source)
        if installed is not None and same and dkms.has(source["names"], bundle):
            return self._ensure(installed, lambda: b"", check)
        problem = dkms.problem(self._module, self._release)
        if problem is not None:
            if not check:
                raise problem
            # The same play may be about to install it.
            self.warnings.append(str(problem))
        if check:
            before, after = (f"{self._release}: {each}\n" for each in (self._installed()[1], f"version {version}, built by DKMS"))
            return {**self._result(True), "diff": {"before": before, "after": after}}
        if bundle not in blobs:
            return {"changed": False, "needs": [bundle]}
        with open(blobs[bundle], encoding="utf-8") as file:
            files = {str(name): str(text) for name, text in json.load(file)}
        if bundle_digest(files) != bundle:
            raise BpfOomError("the source arrived damaged", "run again")
        data = dkms.build(files, self._release)
        built = inspect(data)
        if built.source != wanted.source:
            raise BpfOomError("DKMS has built another source than it was given", f"see /usr/src/bpf_oom-{version}")
        self._refuse(built, proven, untried)
        # Only now: the old version takes its module with it.
        for other in dkms.others():
            Dkms(self._engine.paths, other).remove()
        return {**self._ensure(built, lambda: data, check), "changed": True}

    def _refuse(self, wanted: Built, proven: Sequence[str], untried: bool) -> None:
        build_id = self._module.kernel_build_id() if self._runs else other_kernel(self._module, self._release).build_id
        self._module.refuse(wanted, self._release, "" if self._runs else build_id or self._release)
        refuse_untried(self._release, build_id, proven, untried)
        running = self._module.running() if self._runs else None
        if running is not None and not running.ours:
            raise BpfOomError(
                "a kernel module of somebody else's is loaded under the name bpf_oom", "unload it, and find out whose it is"
            )

    def _installed(self) -> tuple[Built | None, str]:
        """What is there, if it can be used, and in words."""
        try:
            installed = self._module.installed(self._release)
        except BpfOomError as error:
            return None, f"unusable: {error.cause}"
        return installed, installed.words() if installed else "none"

    def _result(self, changed: bool) -> dict[str, Any]:
        return {"changed": changed, "release": self._release, "interface": "module", "gap_ms": None}

    def _ensure(self, wanted: Built, contents: Callable[[], bytes], check: bool) -> dict[str, Any]:
        running = self._module.running() if self._runs else None
        installed, there = self._installed()
        same_file = installed is not None and installed.same_as(wanted)
        same_running = not self._runs or (running is not None and running.build_id == wanted.build_id)
        loaded = f"build {running.build_id[:12]}" if running else "none"
        loads = f"build {wanted.build_id[:12]}" if self._runs else loaded
        result = self._result(not (same_file and same_running))
        result["diff"] = _diff(self._release, (there, loaded), (wanted.words(), loads))
        if running is not None and not same_running and running.users:
            self.warnings.append(
                "The module that runs is another build: to replace it, the policies are unloaded for a moment and loaded again."
            )
        if not result["changed"] or check:
            return result
        data = None if same_file else contents()
        with self._engine.locked(check=False):
            if running is not None and not same_running:
                result["gap_ms"] = self._replace(data)
                return result
            if data is not None:
                self._module.install(data)
            if not same_running:
                self._module.load()
        return result

    def _replace(self, data: bytes | None) -> int:
        """Milliseconds without policies. When the new one does not load, the old one comes back."""
        old = self._old_file() if data is not None else None
        if data is not None:
            # First: a disk that is full must not leave the host without either.
            self._module.install(data)
        began = time.monotonic()
        unload_all(self._engine.paths)
        self._module.unload()
        try:
            self._module.load()
        except BpfOomError:
            if old is not None:
                self._module.install(old)
                self._module.load()
            raise
        finally:
            failed = bring_back(self._engine, self._engine.survey()).failed
        gap = round(1000 * (time.monotonic() - began))
        for name, why in sorted(failed.items()):
            self.warnings.append(f"Policy '{name}' did not come back: {why}")
        return gap

    def _old_file(self) -> bytes | None:
        try:
            if self._module.installed(self._release) is None:
                return None
            with open(self._module.file(self._release), "rb") as file:
                return file.read()
        except (BpfOomError, OSError):
            return None

    # ------------------------------------------------------------------ not there

    def absent(self, check: bool) -> dict[str, Any]:
        running, releases = self._module.running(), self._module.releases()
        ours = running is not None and running.ours
        there = f"for {', '.join(releases)}" if releases else "none"
        versions = dkms_tool.known(self._engine.paths)
        left = bool(releases) or bool(versions) or self._module.trial() is not None
        result = {
            "changed": ours or left,
            "diff": _diff("modules", (there, f"build {running.build_id[:12]}" if ours and running else "none"), ("none", "none")),
            "release": self._release,
        }
        if running is not None and ours and running.users:
            raise BpfOomError(
                "policies that stand on the module are loaded",
                "remove them first, with bpf_oom_state: absent of the role linuxmm.bpf_oom.policies or with `bpf-oom unload`",
            )
        if result["changed"] and not check:
            if ours:
                self._module.unload()
            if versions:
                dkms_tool.remove_all(self._engine.paths)
            self._module.remove_all()
        return result


def _read(path: str, wanted: Built) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise from_errno(f"{path} cannot be read", error.errno or 0) from None
    if inspect(data).digest != wanted.digest:
        raise BpfOomError("the module arrived damaged", "run again")
    return data


def _diff(of: str, before: tuple[str, str], after: tuple[str, str]) -> dict[str, str]:
    def show(state: tuple[str, str]) -> str:
        return f"{of}:\n  installed: {state[0]}\n  loaded: {state[1]}\n"

    return {"before": show(before), "after": show(after)}
