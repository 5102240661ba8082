# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a policy that is loaded, or would be, does not act: the one place that knows, for whoever tells of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence

from .._common.errors import BpfOomError
from .._common.text import shown
from .._kernel.bypass import Bypass, bypasses
from .._kernel.capability import Problem
from .._store.manifest import Manifest
from .._store.paths import Paths
from .drift import Loaded, observes, scope_globs, scope_now
from .reader import WATCHED_MAX, matching_cgroups, number, psi_room, without_memory, without_pressure

Cgroups = Mapping[str, Mapping[str, int]]

#: What a host can lose while policies are loaded, and then they do not act. Anything else only keeps them from being loaded.
_LASTING = ("kernel", "version", "memcg", "cgroup1", "psi_off")
_NAMED = 3  # so many cgroups are named in a sentence


@dataclass(frozen=True)
class Inactive:
    """A reason. `whole`: the policy never acts; otherwise it does, but not always or not everywhere."""

    id: str  # a word for programs, see REASONS
    whole: bool
    cause: str
    remedy: str

    @property
    def clause(self) -> str:
        return f"{self.cause}: {self.remedy}"

    @property
    def sentence(self) -> str:
        return str(BpfOomError(self.cause, self.remedy))

    def report(self) -> Dict[str, Any]:
        return {"id": self.id, "whole": self.whole, "sentence": self.sentence}


#: Beside the ids of a capability's problems.
#: drift: it is not loaded as wanted; observe: its mode; scope: nothing matches; memory_controller: off in cgroups of its scope;
#: pressure_off: PSI is off in them; room: no place for more of them; panic_on_oom, allocating_task: sysctls;
#: bypassed: by the kernel, for a time; detached: by hand.
REASONS = (
    "drift",
    "observe",
    "scope",
    "memory_controller",
    "pressure_off",
    "room",
    "panic_on_oom",
    "allocating_task",
    "bypassed",
    "detached",
)


class Host:
    """What is asked of a host once, whatever the number of its policies."""

    def __init__(self, paths: Paths, manifests: Iterable[Manifest]) -> None:
        self.paths = paths
        self.cgroups: Cgroups = matching_cgroups(paths, manifests)
        self._bypasses: Optional[Dict[int, Bypass]] = None

    def bypass(self, loaded: Optional[Loaded]) -> Optional[Bypass]:
        """The last one of what is loaded, which may be over."""
        if loaded is None or not loaded.link_id:
            return None
        if self._bypasses is None:
            self._bypasses = bypasses(self.paths)
        return self._bypasses.get(loaded.link_id)


def reasons(host: Host, manifest: Manifest, loaded: Optional[Loaded], problems: Sequence[Problem] = ()) -> List[Inactive]:
    """Every reason why a policy does not act, beside that it is not loaded as wanted.

    `loaded` is None for one that is not loaded. `problems` are those of the host's capability that block its kind.
    """
    found = [Inactive(each.id, True, each.cause, each.remedy) for each in problems if loaded is None or each.id in _LASTING]
    found += _bypassed(host, loaded)
    found += _scope(host, manifest)
    found += _oom(host, manifest) if manifest.kind == "oom" else _psi(host, manifest, loaded)
    if observes(manifest):
        found.append(Inactive("observe", True, "it observes (mode: observe) and never acts", "set mode: enforce if it shall act"))
    return found


def _bypassed(host: Host, loaded: Optional[Loaded]) -> Iterator[Inactive]:
    if loaded is not None and loaded.detached:
        yield Inactive("detached", True, "it was detached, by hand or by an older kernel", "load it anew by `bpf-oom apply`")
    found = host.bypass(loaded)
    if found is not None and found.lasts:
        begin, end = (time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(each)) for each in (found.time, found.until))
        yield Inactive(
            "bypassed",
            True,
            f"the kernel bypasses it from {begin} to {end}, as {found.reason}",
            "mend its program, its lists or vm.bpf_oom_budget_ms, then load it anew by `bpf-oom apply`, or wait",
        )


def some(paths: Iterable[str]) -> str:
    """The first few of cgroups, and how many more there are."""
    names = sorted(paths)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(shown(name or "/") for name in names[:_NAMED]) + more


def _scope(host: Host, manifest: Manifest) -> Iterator[Inactive]:
    globs = scope_globs(manifest)
    matched = scope_now(manifest, host.cgroups)
    lacking = without_memory(host.paths, globs)
    by_control: Dict[str, List[str]] = {}
    for path, control in lacking.items():
        by_control.setdefault(control, []).append(path)
    for control, paths in sorted(by_control.items()):
        cause = f"there is no memory controller in {some(paths)} of its scope"
        if control:
            cause += f", as {shown(control)} lacks it"
            remedy = f"write +memory to {shown(control)}, or set MemoryAccounting=yes where systemd makes them"
        else:
            remedy = "see cgroup.type there, a threaded cgroup can have none"
        yield Inactive("memory_controller", not matched, cause, remedy)
    if globs and not matched and not lacking:
        yield Inactive(
            "scope", True, f"no cgroup matches its scope ({', '.join(globs)}) now", "start what it names, or correct the globs"
        )


def _oom(host: Host, manifest: Manifest) -> Iterator[Inactive]:
    # One with a scope has nothing to do with an OOM of the whole system.
    system = not scope_globs(manifest)
    panic = number(host.paths, "vm/panic_on_oom")
    if panic == 2:
        yield Inactive(
            "panic_on_oom", True, "vm.panic_on_oom is 2, so the kernel panics at any OOM before it asks a policy", "set it to 0"
        )
    elif panic and system:
        yield Inactive(
            "panic_on_oom",
            False,
            f"vm.panic_on_oom is {panic}, so the kernel panics when the whole system is out of memory, and asks no policy",
            "set it to 0",
        )
    if number(host.paths, "vm/oom_kill_allocating_task") and system:
        yield Inactive(
            "allocating_task",
            False,
            "vm.oom_kill_allocating_task is on, so when the whole system is out of memory the kernel kills whoever asks for some,"
            " and asks no policy",
            "set it to 0",
        )


def _psi(host: Host, manifest: Manifest, loaded: Optional[Loaded]) -> Iterator[Inactive]:
    if number(host.paths, "vm/panic_on_oom") == 2:
        yield Inactive(
            "panic_on_oom", True, "vm.panic_on_oom is 2, so the kernel panics at an OOM that it declares", "set it to 0 or 1"
        )
    if "scope" not in manifest.params:
        return  # a program of the site's: nobody knows what it watches
    watched = scope_now(manifest, host.cgroups) if scope_globs(manifest) else {"": 0}
    off = without_pressure(host.paths, watched)
    if off:
        yield Inactive(
            "pressure_off",
            len(off) == len(watched),
            f"pressure is not watched in {some(off)}, where cgroup.pressure is 0",
            "write 1 to that file, or take it out of its scope",
        )
    if loaded is None or loaded.watched is None:
        return
    limit = psi_room(host.paths)
    left = [path for path, cgroup_id in watched.items() if path and cgroup_id not in loaded.watched and path not in off]
    if left and len(loaded.watched) >= limit:
        raises = ", or raise kernel.bpf_psi_max_triggers" if limit < WATCHED_MAX else ""
        yield Inactive(
            "room",
            False,
            f"it watches {len(loaded.watched)} cgroups, has room for no more, and leaves out {some(left)}",
            f"name the slice above them in its scope, or have several policies{raises}",
        )


__all__ = ["REASONS", "Host", "Inactive", "reasons", "some"]
