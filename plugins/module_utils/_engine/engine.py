# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine behind every module and the boot CLI: survey a host, plan a change, foretell it; change makes it.

A change never leaves a gap and is never half: what is new is loaded beside the old and read back from the
kernel; then the persisted set is switched by one rename; only then the old pins are dropped. When anything
new fails, it is dropped again and nothing else was touched. A crash leaves the old or the new, and the next
run or boot completes it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import typing
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Iterator

from .._common.errors import BpfOomError, from_errno
from .._common.words import lines as parameter_lines
from .._kernel.capability import Capability, Problem, read_capability, together
from .._kernel.libbpf import Library
from .._store.manifest import KINDS, Manifest, sort_key
from .._store.paths import Paths
from .._store.store import Store, StoredSet, host_lock
from . import reader
from .drift import Loaded, Reason, load_reasons, persist_reasons, renewals, scope_now
from .inactive import Host, reasons

Blocked = typing.Mapping[str, typing.Sequence[Problem]]
Cgroups = typing.Mapping[str, typing.Mapping[str, int]]


@dataclass
class Survey:
    """What is, read from the kernel and the disk."""

    capability: Capability
    stored: StoredSet
    loaded: dict[str, Loaded]
    unfinished: list[str]  # policies of which an interrupted change left new pins
    stray: list[str]  # policies without a link of which other pins are left
    leftovers: list[str] = field(default_factory=list)  # what an interrupted change left in the store
    tags: dict[str, dict[str, str]] = field(default_factory=dict)  # of the programs at load


@dataclass
class Wish:
    """What shall be. `manifests` are all policies that count; only `managed` ones are compared and healed."""

    manifests: dict[str, Manifest]
    managed: set[str]
    drop: set[str]
    objects: dict[str, bytes] = field(default_factory=dict)
    load_only: bool = False  # leave what is persisted as it is
    alone: bool = False  # unregister what somebody else registered


@dataclass
class Plan:
    persist: dict[str, list[Reason]] = field(default_factory=dict)
    anew: dict[str, list[Reason]] = field(default_factory=dict)
    drop: dict[str, str] = field(default_factory=dict)
    held_back: dict[str, str] = field(default_factory=dict)
    forget: set[str] = field(default_factory=set)  # persisted now, not wanted
    tidy: bool = False
    foreign: list[dict[str, Any]] = field(default_factory=list)  # to unregister

    @property
    def persists(self) -> bool:
        return bool(self.persist or self.forget)

    @property
    def changes(self) -> bool:
        return bool(self.persists or self.anew or self.drop or self.tidy or self.foreign)


@dataclass
class Outcome:
    changed: bool
    diff: dict[str, str]
    policies: dict[str, dict[str, Any]]
    warnings: list[str]
    failed: dict[str, str] = field(default_factory=dict)
    drift: list[dict[str, str]] = field(default_factory=list)


class Engine:
    def __init__(self, paths: Paths | None = None, lib: Library | None = None) -> None:
        self.paths = paths or Paths()
        self.store = Store(self.paths)
        self.lib_error: BpfOomError | None = None
        self.lib = lib
        self._holds_lock = False
        if lib is None:
            try:
                self.lib = Library()
            except BpfOomError as error:
                self.lib_error = error

    # ------------------------------------------------------------------ what is

    def survey(self) -> Survey:
        self._require_root()
        loaded, unfinished, stray = {}, [], []
        for name in sorted(os.listdir(self.paths.pins)) if os.path.isdir(self.paths.pins) else ():
            if reader.new_pins(self.paths, name):
                unfinished.append(name)
            if os.path.lexists(self.paths.pin(name)):
                loaded[name] = self.read(name)
            else:
                stray.append(name)
        capability = read_capability(self.paths, self.lib, self.lib_error)
        stored = self.store.read_set()
        leftovers: list[str] = []
        # What a damaged set needs is not known; the next change makes it whole.
        if not stored.problem and not stored.broken:
            try:
                leftovers = ["/".join(filter(None, each)) for each in self.store.leftovers(stored)]
            except BpfOomError:
                pass  # a kept set that cannot be read keeps nothing from loading; who needs it is told
        return Survey(capability, stored, loaded, unfinished, stray, leftovers, self.tags_at_load())

    def read(self, name: str, new: bool = False) -> Loaded:
        if self.lib is None:
            return Loaded(name, problem=f"what is loaded cannot be read: {self.lib_error}")
        return reader.read(self.lib, self.paths, name, new)

    def tags_at_load(self) -> dict[str, dict[str, str]]:
        """The program tags that this kernel showed at load; it is no drift when the file is lost."""
        try:
            with open(os.path.join(self.paths.run, "loaded.json"), encoding="utf-8") as file:
                data = json.load(file)
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def reasons(self, survey: Survey, manifest: Manifest, cgroups: Cgroups) -> list[Reason]:
        loaded, unwatchable = survey.loaded.get(manifest.name), []
        if manifest.kind == "psi" and loaded is not None and loaded.watched is not None:
            # Loaded anew it would have no more room, and PSI would still be off there.
            scope = scope_now(manifest, cgroups)
            full = len(loaded.watched) >= reader.psi_room(self.paths)
            unwatchable = list(scope) if full else reader.without_pressure(self.paths, scope)
        return load_reasons(manifest, loaded, cgroups, survey.tags.get(manifest.name), unwatchable)

    # ------------------------------------------------------------------ what to do

    def plan(self, survey: Survey, wish: Wish, cgroups: Cgroups, held_back: Mapping[str, str]) -> Plan:
        plan = Plan(held_back=dict(held_back), tidy=bool(survey.unfinished or (survey.leftovers and not wish.load_only)))
        if not wish.load_only:
            self._plan_persist(survey, wish, plan)
        plan.foreign = self.foreign(survey) if wish.alone else []
        for name in sorted({*survey.loaded, *survey.stray}):
            if name in wish.drop:
                plan.drop[name] = "it is not wanted"
        for kind in KINDS:
            chain, reasons_of = [], {}
            for manifest in sorted(wish.manifests.values(), key=sort_key):
                name = manifest.name
                if manifest.kind != kind or (name not in wish.managed and name not in survey.loaded):
                    continue
                if name in held_back:
                    continue
                chain.append(name)
                reasons_of[name] = self.reasons(survey, manifest, cgroups) if name in wish.managed else []
            if kind == "oom" and len(chain) > reader.CHAIN_MAX:
                raise BpfOomError(
                    f"the chain has {len(chain)} OOM policies",
                    f"give {reader.CHAIN_MAX} at most; one policy can answer for many cgroups",
                )
            # Only OOM policies are asked one after the other.
            plan.anew.update(renewals(chain, survey.loaded, reasons_of, ordered=kind == "oom"))
        return plan

    def _plan_persist(self, survey: Survey, wish: Wish, plan: Plan) -> None:
        stored = survey.stored
        # Many policies share an object.
        problems: dict[tuple[str, str], str] = {}
        for name in sorted(wish.managed):
            manifest = wish.manifests[name]
            same = (manifest.inputs, manifest.object)
            if same not in problems:
                problems[same] = self.store.object_problem(manifest)
            unusable = problems[same]
            reasons = persist_reasons(manifest, stored.manifests.get(name), stored.broken.get(name, ""), unusable)
            if reasons:
                plan.persist[name] = reasons
        if stored.problem and wish.managed and not plan.persist:
            plan.persist[min(wish.managed)] = [Reason("set", stored.problem)]
        plan.forget = (set(stored.manifests) | set(stored.broken)) - set(wish.manifests)

    # ------------------------------------------------------------------ do it

    def blocked(self, survey: Survey, kinds: Mapping[str, str], check: bool, announced: bool = False) -> Blocked:
        """The policies that this host cannot load now, and every reason of each.

        `announced`: in a check, the same play is about to bring the interface, as it may be about to install libbpf.
        """
        # Nobody can look further without libbpf.
        expected = {"libbpf_missing", *(["kernel"] if announced else [])} if check else set()
        found = {}
        for name, kind in sorted(kinds.items()):
            problems = [problem for problem in survey.capability.blocking(kind) if problem.id not in expected]
            if problems:
                found[name] = problems
        return found

    def prepare(self, survey: Survey, wish: Wish, blocked: Blocked, tolerant: bool = False) -> tuple[Plan, Host, Outcome]:
        """What the wish comes to here, before anything is done. The outcome lacks the policies as they will be then."""
        if not tolerant:
            reader.refuse_files(self.paths, wish.manifests.values())
        host = Host(self.paths, wish.manifests.values())
        plan = self.plan(survey, wish, host.cgroups, {name: str(together(problems)) for name, problems in blocked.items()})
        warnings = []
        for manifest in sorted(wish.manifests.values(), key=sort_key):
            if manifest.name not in wish.managed or manifest.name in blocked:
                continue
            for each in reasons(host, manifest, None if manifest.name in plan.anew else survey.loaded.get(manifest.name)):
                if each.id != "observe":
                    whole = "is not active" if each.whole else "does not always act"
                    warnings.append(f"Policy '{manifest.name}' {whole}: {each.clause}.")
        warnings += [
            f"Policy '{name}': {sentence}."
            for name in sorted(wish.managed)
            for sentence in reader.unmatched(self.paths, wish.manifests[name])
        ]
        diff, drift = self.diff(survey, wish, plan), self._differences(survey, wish, plan)
        return plan, host, Outcome(plan.changes, diff, {}, warnings, dict(plan.held_back), drift)

    def foretell(self, survey: Survey, wish: Wish, blocked: Blocked) -> Outcome:
        """What change.apply() would do and leave; nothing is changed, and neither loader nor writer is needed."""
        plan, host, outcome = self.prepare(survey, wish, blocked)
        if survey.capability.libbpf is None and wish.managed:
            outcome.warnings.append(f"Nothing could be compared with the kernel: {self.lib_error}")
        outcome.policies = self._predict(survey, wish, plan, host)
        return outcome

    @contextmanager
    def locked(self, check: bool) -> Iterator[None]:
        """The host lock; a check only waits for it where there is one, and makes nothing. Who has it need not wait."""
        if self._holds_lock or (check and not os.path.isdir(self.paths.run)):
            yield
            return
        self._require_root()
        bare = not os.path.isdir(self.paths.run)
        try:
            with host_lock(self.paths):
                self._holds_lock = True
                try:
                    yield
                finally:
                    self._holds_lock = False
                    if bare and not self.store.exists() and not os.path.isdir(self.paths.pins):
                        # A host on which nothing was done keeps nothing of ours, not even the lock.
                        shutil.rmtree(self.paths.run, ignore_errors=True)
        except OSError as error:
            raise from_errno(f"{error.filename or self.paths.state} cannot be used", error.errno or errno.EIO) from None

    @staticmethod
    def _require_root() -> None:
        if os.geteuid() != 0:
            raise BpfOomError("only root can read and load BPF policies", "run with become: true, or as root")

    # ------------------------------------------------------------------ in words

    def _predict(self, survey: Survey, wish: Wish, plan: Plan, host: Host) -> dict[str, dict[str, Any]]:
        found = {}
        for name, manifest in sorted(wish.manifests.items()):
            loaded = name in plan.anew or (name in survey.loaded and name not in plan.drop)
            inactive = [each.clause for each in reasons(host, manifest, None) if each.whole]
            why = plan.held_back.get(name, "") or "; ".join(inactive)
            found[name] = {"kind": manifest.kind, "order": manifest.order, "persisted": True, "loaded": loaded}
            found[name].update(active=loaded and not why, why=why)
        return found

    def _differences(self, survey: Survey, wish: Wish, plan: Plan) -> list[dict[str, str]]:
        """What the host had otherwise than wanted, before anything was changed, one by one."""
        found = []
        for name in sorted({*plan.persist, *plan.anew, *plan.drop, *plan.forget, *plan.held_back}):
            reasons = [*plan.persist.get(name, []), *plan.anew.get(name, [])]
            if name in plan.drop or name in plan.forget:
                reasons.append(Reason("manifest" if name in plan.forget else "link", "it is there and not wanted"))
            if name in plan.held_back:
                reasons.append(Reason("capability", plan.held_back[name]))
            # A policy that is loaded anew only since an earlier one is has not drifted itself.
            found += [_difference(name, each) for each in reasons if not (each.aspect == "order" and "loaded anew" in each)]
        found += [_difference(name, Reason("pin", "an interrupted change left a second pin")) for name in survey.unfinished]
        found += [_difference("", Reason("set", f"an interrupted change left {name}")) for name in survey.leftovers]
        if os.path.isdir(self.paths.modules):
            # A host without a module does without it, and a module's sources are compiled at each run.
            from .._kernel.module import Module

            found += [_difference("", Reason("module", sentence)) for sentence in Module(self.paths).differences()]
        for foreign in self.foreign(survey):
            sentence = f"somebody else registered this {foreign['kind']} policy, map {foreign['map_id']}"
            found.append(_difference(foreign["name"], Reason("foreign", sentence)))
        return found

    def foreign(self, survey: Survey) -> list[dict[str, Any]]:
        """Policies that somebody else registered."""
        if self.lib is None or not survey.capability.structs:
            return []
        # What an interrupted change left beside is ours, too.
        ours = {each.map_id for each in [*survey.loaded.values(), *(self.read(name, new=True) for name in survey.unfinished)]}
        return reader.read_foreign(self.lib, self.paths, ours)

    def diff(self, survey: Survey, wish: Wish, plan: Plan) -> dict[str, str]:
        """One readable block a policy, in the order of the chain; one that keeps its state reads the same on both sides."""
        before, after = [], []
        every = set(survey.stored.manifests) | set(survey.stored.broken) | set(survey.loaded) | set(wish.manifests)
        for name in _chain(every, survey.stored.manifests):
            persisted = survey.stored.manifests.get(name)
            reasons = plan.anew.get(name, []) if name in survey.loaded else []
            unsound: list[str] = [why for why in plan.persist.get(name, []) if persisted == wish.manifests.get(name)] or (
                [survey.stored.broken[name]] if name in survey.stored.broken else []
            )
            load = ("yes" if name in survey.loaded else "no") + (f", but {'; '.join(reasons)}" if reasons else "")
            before += self._block(name, persisted, load, unsound)
        for name in _chain(every, wish.manifests):
            loaded = name in plan.anew or (name in survey.loaded and name not in plan.drop)
            if name in wish.manifests or loaded:
                after += self._block(name, wish.manifests.get(name), "yes" if loaded else "no", [])
        for name in survey.unfinished:
            before.append(f"{name}: a second pin, left by an interrupted change")
        before += [f"{name}: left in the store by an interrupted change" for name in survey.leftovers if not wish.load_only]
        for name in sorted(set(survey.stray) & set(plan.drop)):
            before.append(f"{name}: pins without a policy")
        before += [f"{each['name']}: {each['kind']} policy of somebody else, map {each['map_id']}" for each in plan.foreign]
        return {"before": "\n".join(before) + "\n" * bool(before), "after": "\n".join(after) + "\n" * bool(after)}

    @staticmethod
    def _block(name: str, manifest: Manifest | None, loaded: str, unsound: Sequence[str]) -> list[str]:
        if manifest is None and loaded == "no" and not unsound:
            return []
        lines = [f"{name}:"]
        if manifest is not None:
            lines.append(f"  {manifest.kind} policy, order {manifest.order}, {manifest.program}, object {manifest.inputs[:12]}")
            lines += [f"  {line}" for line in parameter_lines(manifest.params)]
        persisted = "yes" if manifest is not None else "no"
        lines.append(f"  persisted: {persisted}" + (f", but {'; '.join(unsound)}" if unsound else ""))
        lines.append(f"  loaded: {loaded}")
        return lines


def _chain(names: Iterable[str], manifests: Mapping[str, Manifest]) -> list[str]:
    """In the order in which the kernel asks; what has no manifest comes last."""
    known = sorted((manifests[name] for name in names if name in manifests), key=sort_key)
    return [each.name for each in known] + sorted(name for name in names if name not in manifests)


def _difference(name: str, reason: Reason) -> dict[str, str]:
    return {"policy": name, "aspect": reason.aspect, "what": str(reason)}


def complete_wish(survey: Survey, wanted: Iterable[Manifest], absent: set[str], exclusive: bool) -> Wish:
    """What a play names, joined with what the host has: `exclusive` drops the rest, else the rest stays."""
    managed = {manifest.name: manifest for manifest in wanted}
    others = {} if exclusive else {name: each for name, each in survey.stored.manifests.items() if name not in absent}
    drop = {*survey.loaded, *survey.stray} - set(managed) if exclusive else set(absent)
    return Wish({**others, **managed}, set(managed), drop)
