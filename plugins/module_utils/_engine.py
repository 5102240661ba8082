# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine behind every module and the boot CLI: survey a host, plan a change, make it.

A change never leaves a gap and is never half: what is new is loaded beside the old and read back from the
kernel; then the persisted set is switched by one rename; only then the old pins are dropped. When anything
new fails, it is dropped again and nothing else was touched. A crash leaves the old or the new, and the next
run or boot completes it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import typing
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Iterator

from . import _loader
from ._capability import LACKING, Capability, Problem, read_capability
from ._decisions import readable
from ._drift import Loaded, Reason, idle, load_reasons, observes, persist_reasons, renewals
from ._errors import BpfOomError, from_errno
from ._libbpf import Library
from ._manifest import KINDS, Manifest, sort_key
from ._params import check_name, show
from ._paths import UNIT, Paths
from ._store import Store, StoredSet, host_lock

Cgroups = typing.Mapping[str, typing.Mapping[str, int]]
#: Daemons that kill for want of memory, as /proc/PID/comm calls them.
OTHER_KILLERS = ("systemd-oomd", "earlyoom", "oomd", "nohang")


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
            if _loader.new_pins(self.paths, name):
                unfinished.append(name)
            if os.path.lexists(self.paths.pin(name)):
                loaded[name] = self._read(name)
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
        return Survey(capability, stored, loaded, unfinished, stray, leftovers, self._tags_at_load())

    def _read(self, name: str, new: bool = False) -> Loaded:
        if self.lib is None:
            return Loaded(name, problem=f"what is loaded cannot be read: {self.lib_error}")
        return _loader.read(self.lib, self.paths, name, new)

    def _tags_at_load(self) -> dict[str, dict[str, str]]:
        """The program tags that this kernel showed at load; it is no drift when the file is lost."""
        try:
            with open(os.path.join(self.paths.run, "loaded.json"), encoding="utf-8") as file:
                data = json.load(file)
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def reasons(self, survey: Survey, manifest: Manifest, cgroups: Cgroups) -> list[Reason]:
        return load_reasons(manifest, survey.loaded.get(manifest.name), cgroups, survey.tags.get(manifest.name))

    def describe(self, survey: Survey, decisions: int = 0) -> dict[str, dict[str, Any]]:
        """Every policy of ours: what its manifest wants, whether it is loaded, and whether it acts so."""
        stored = survey.stored
        cgroups = _loader.matching_cgroups(self.paths, stored.manifests.values())
        found = {}
        for name in sorted(set(stored.manifests) | set(stored.broken) | set(survey.loaded)):
            manifest, loaded = stored.manifests.get(name), survey.loaded.get(name)
            drift = [stored.broken[name]] if name in stored.broken else []
            inactive = []
            if manifest is None:
                drift = drift or ["it is loaded but not persisted"]
                kind = loaded.struct[len("bpf_") : -len("_ops")] if loaded and loaded.struct else None
            else:
                kind = manifest.kind
                drift += self.reasons(survey, manifest, cgroups)
                if loaded is None:
                    inactive += [each.sentence for each in survey.capability.blocking(manifest.kind)]
                else:
                    inactive += [idle(manifest, cgroups)] if idle(manifest, cgroups) else []
                    inactive += ["it observes (mode: observe) and never acts"] if observes(manifest) else []
            why = [*drift, *inactive]
            active = manifest is not None and loaded is not None and not why
            unusable = self.store.object_problem(manifest) if manifest is not None else ""
            if unusable:
                drift.append(f"it will not come back at boot: {unusable}")
                why.append(drift[-1])
            found[name] = {
                "kind": kind,
                "order": manifest.order if manifest else None,
                "program": manifest.program if manifest else None,
                "object": manifest.inputs if manifest else (loaded.rodata.get("object_digest") if loaded else None),
                "params": {key: param["value"] for key, param in manifest.params.items()} if manifest else {},
                "persisted": manifest is not None,
                "loaded": loaded is not None,
                "active": active,
                "observing": bool(manifest and observes(manifest) and loaded and not drift and not idle(manifest, cgroups)),
                "why": "; ".join(why),
                "drift": drift,
                "counters": loaded.counters if loaded else {},
                "decisions": self._decisions(loaded, decisions),
                "link_id": loaded.link_id if loaded else None,
                "tags": loaded.tags if loaded else {},
                "degraded": self._degraded(survey, manifest),
                "unmatched": _loader.unmatched(self.paths, manifest) if manifest else [],
            }
        return found

    def _decisions(self, loaded: Loaded | None, most: int) -> list[dict[str, Any]]:
        if self.lib is None or loaded is None or loaded.problem or not most:
            return []
        return [readable(decision) for decision in _loader.read_decisions(self.lib, loaded, most)]

    def _degraded(self, survey: Survey, manifest: Manifest | None) -> list[str]:
        """What a policy cannot do on this kernel although it acts."""
        if manifest is None or self.lib is None or not survey.capability.structs:
            return []
        try:
            missing = _loader.lacking(self.lib, survey.capability, manifest, self.store.object_bytes(manifest))
        except BpfOomError:
            # An object that cannot be used is told of as such.
            return []
        return [LACKING[name][1] for name in missing]

    def report(self, decisions: int = 0) -> dict[str, Any]:
        """Everything that is, with so many decisions of each policy: for policy_info and the CLI."""
        survey = self.survey()
        problems = [survey.stored.problem] if survey.stored.problem else []
        problems += [f"an interrupted change of policy '{name}' left a second pin" for name in survey.unfinished]
        problems += [f"an interrupted change left {self.paths.state}/{name}" for name in survey.leftovers]
        # Those of a persisted policy wait for it: its counters go on.
        gone = [name for name in survey.stray if name not in survey.stored.manifests and name not in survey.unfinished]
        problems += [f"pins of policy '{name}' are left, which is neither loaded nor persisted" for name in gone]
        return {
            "capability": survey.capability.report(),
            "policies": self.describe(survey, decisions),
            "foreign": self.foreign(survey),
            "neighbours": neighbours(self.paths),
            "room": room(self.paths),
            "pressure": pressure(self.paths),
            "booted": time.time() - time.clock_gettime(time.CLOCK_BOOTTIME),
            "problems": problems,
            "boot_unit": boot_unit(self.paths),
            "libbpf": survey.capability.libbpf,
        }

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
            if kind == "oom" and len(chain) > _loader.CHAIN_MAX:
                raise BpfOomError(
                    f"the chain has {len(chain)} OOM policies",
                    f"give {_loader.CHAIN_MAX} at most; one policy can answer for many cgroups",
                )
            # Only OOM policies are asked one after the other.
            plan.anew.update(renewals(chain, survey.loaded, reasons_of, ordered=kind == "oom"))
        return plan

    def _plan_persist(self, survey: Survey, wish: Wish, plan: Plan) -> None:
        stored = survey.stored
        for name in sorted(wish.managed):
            manifest = wish.manifests[name]
            unusable = self.store.object_problem(manifest)
            reasons = persist_reasons(manifest, stored.manifests.get(name), stored.broken.get(name, ""), unusable)
            if reasons:
                plan.persist[name] = reasons
        if stored.problem and wish.managed and not plan.persist:
            plan.persist[min(wish.managed)] = [Reason("set", stored.problem)]
        plan.forget = (set(stored.manifests) | set(stored.broken)) - set(wish.manifests)

    def _object(self, wish: Wish, manifest: Manifest) -> bytes:
        return wish.objects[manifest.inputs] if manifest.inputs in wish.objects else self.store.object_bytes(manifest)

    # ------------------------------------------------------------------ do it

    def blocked(self, survey: Survey, kinds: Mapping[str, str], check: bool) -> dict[str, Problem]:
        """The policies that this host cannot load now, and the first reason of each."""
        found = {}
        for name, kind in sorted(kinds.items()):
            problems = survey.capability.blocking(kind)
            # In a check the same play may be about to install libbpf; nobody can look further without it.
            if problems and not (check and problems[0].id == "libbpf_missing"):
                found[name] = problems[0]
        return found

    def apply(
        self, survey: Survey, wish: Wish, blocked: Mapping[str, Problem], check: bool = False, tolerant: bool = False
    ) -> Outcome:
        """Make it so, all or nothing. `tolerant` is for the boot: one broken policy does not stop the others."""
        if not tolerant:
            _loader.refuse_files(self.paths, wish.manifests.values())
        cgroups = _loader.matching_cgroups(self.paths, wish.manifests.values())
        plan = self.plan(survey, wish, cgroups, {name: problem.sentence for name, problem in blocked.items()})
        warnings = [
            f"Policy '{manifest.name}' is not active: {idle(manifest, cgroups)}."
            for manifest in sorted(wish.manifests.values(), key=sort_key)
            if manifest.name in wish.managed and manifest.name not in blocked and idle(manifest, cgroups)
        ]
        warnings += [
            f"Policy '{name}': {sentence}."
            for name in sorted(wish.managed)
            for sentence in _loader.unmatched(self.paths, wish.manifests[name])
        ]
        if check and survey.capability.libbpf is None and wish.managed:
            warnings.append(f"Nothing could be compared with the kernel: {self.lib_error}")
        diff, drift = self._diff(survey, wish, plan), self._differences(survey, wish, plan)
        failed: dict[str, str] = {}
        if plan.changes and not check:
            failed = self._change(survey, wish, plan, cgroups, tolerant)
        policies = self._predict(survey, wish, plan, cgroups) if check else self.describe(self.survey())
        return Outcome(plan.changes, diff, policies, warnings, {**plan.held_back, **failed}, drift)

    def _change(self, survey: Survey, wish: Wish, plan: Plan, cgroups: Cgroups, tolerant: bool) -> dict[str, str]:
        failed: dict[str, str] = {}
        for name in survey.unfinished:
            self._drop_new(name)
        fresh: dict[str, Loaded] = {}
        try:
            for name in plan.anew:
                try:
                    fresh[name] = self._load_beside(survey, wish, wish.manifests[name], cgroups)
                except BpfOomError as error:
                    if not tolerant:
                        raise
                    failed[name] = str(error)
            if plan.persists:
                for manifest in wish.manifests.values():
                    if manifest.inputs in wish.objects and self.store.object_problem(manifest):
                        self.store.put_object(manifest.inputs, wish.objects[manifest.inputs])
                self.store.switch(wish.manifests.values())
        except BaseException:
            # Whatever it was: the old policies are as they were, the new ones must go.
            for name in plan.anew:
                self._drop_new(name)
            self.store.collect_garbage()
            raise
        for name in fresh:
            # Replaces the old pin in one step; the kernel lets go of the old policy then.
            _loader.switch_pins(self.paths, name)
        for name in plan.drop:
            self._drop_pins(name)
        self._remember_tags(fresh, gone=set(plan.drop))
        if plan.persists or (survey.leftovers and not wish.load_only):
            self.store.collect_garbage()
        if self.lib is not None:
            for foreign in plan.foreign:
                _loader.remove_foreign(self.lib, foreign)
        return failed

    def _load_beside(self, survey: Survey, wish: Wish, manifest: Manifest, cgroups: Cgroups) -> Loaded:
        """Load the policy under its second pin and believe only what the kernel shows."""
        if self.lib is None:
            raise self.lib_error or BpfOomError("libbpf is not loaded", "install it")
        try:
            _loader.refuse_many(manifest, cgroups)
            _loader.load(self.lib, survey.capability, manifest, self._object(wish, manifest), self.paths)
            found = self._read(manifest.name, new=True)
            # Without the cgroups: one that went away since they were listed is nobody's fault.
            wrong = load_reasons(manifest, found, {})
            if wrong:
                raise BpfOomError(
                    f"policy '{manifest.name}' was loaded but reads back wrong: {'; '.join(wrong)}", "report this as a fault"
                )
        except BaseException:
            self._drop_new(manifest.name)
            raise
        return found

    def _drop_new(self, name: str) -> None:
        """What a change has made of a policy and not switched to."""
        self._unlink_pins(name, _loader.new_pins(self.paths, name))

    def _drop_pins(self, name: str) -> None:
        """Everything of a policy; the link first, with it the policy stops acting."""
        directory = os.path.join(self.paths.pins, name)
        names = sorted(os.listdir(directory), key=lambda each: (each != "link", each)) if os.path.isdir(directory) else []
        self._unlink_pins(name, [os.path.join(directory, each) for each in names])

    def _unlink_pins(self, name: str, pins: Iterable[str]) -> None:
        for pin in pins:
            try:
                os.unlink(pin)
            except FileNotFoundError:
                pass  # dropping is idempotent
        for directory in (os.path.join(self.paths.pins, name), self.paths.pins):
            try:
                os.rmdir(directory)
            except OSError:
                break  # still in use, or gone already

    def _remember_tags(self, fresh: Mapping[str, Loaded], gone: set[str]) -> None:
        data = {name: tags for name, tags in self._tags_at_load().items() if name not in gone}
        data.update({name: loaded.tags for name, loaded in fresh.items()})
        path = os.path.join(self.paths.run, "loaded.json")
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1, sort_keys=True)
        os.rename(path + ".new", path)

    def keep(self, name: str, check: bool = False) -> bool:
        """Keep the persisted set under a name; whether that changes anything."""
        check_name(name)
        stored = self.store.read_set()
        wrong = stored.problem or next(iter(stored.broken.values()), "")
        if wrong:
            raise BpfOomError(f"the persisted set is damaged and cannot be kept: {wrong}", "run the play again, it mends the set")
        same = name in self.store.kept() and self.store.read_set(name).manifests == stored.manifests
        if not same and not check:
            self.store.keep(name)
        return not same

    def restore(self, name: str, check: bool = False) -> Outcome:
        """Make a kept set the persisted and loaded one, as any other change is made."""
        if name not in self.store.kept():
            raise BpfOomError(f"no set is kept as '{name}' on this host", f"name one of {', '.join(self.store.kept()) or 'none'}")
        kept = self.store.read_set(name)
        wrong = kept.problem or next(iter(kept.broken.values()), "")
        if wrong:
            raise BpfOomError(f"the set kept as '{name}' is damaged: {wrong}", "set the policies by a play")
        survey = self.survey()
        wish = complete_wish(survey, kept.manifests.values(), set(), exclusive=True)
        blocked = self.blocked(survey, {each.name: each.kind for each in kept.manifests.values()}, check)
        return self.apply(survey, wish, blocked, check)

    def foresee(self, path: str) -> dict[str, dict[str, Any]]:
        """Each persisted policy: why it will not load on the kernel of which the file holds the BTF, and what it will lack."""
        stored = self.store.read_set()
        if stored.problem:
            raise BpfOomError(f"the persisted set is damaged: {stored.problem}", "run the play again, it mends the set")
        # Only this needs it, and a module's sources are compiled at each run.
        from . import _core

        target = _core.read_target(path)
        found: dict[str, dict[str, Any]] = {
            name: {"loads": False, "problems": [why], "degraded": []} for name, why in stored.broken.items()
        }
        for name, manifest in stored.manifests.items():
            unusable = self.store.object_problem(manifest)
            data = b"" if unusable else self.store.object_bytes(manifest)
            problems = [unusable] if unusable else _core.problems(data, target)
            found[name] = {
                "loads": not problems,
                "problems": problems,
                "degraded": [] if problems else _core.without(data, target),
            }
        return dict(sorted(found.items()))

    def forget(self, name: str, check: bool = False) -> bool:
        there = name in self.store.kept()
        if there and not check:
            self.store.forget(name)
        return there

    def unload_all(self, check: bool = False) -> list[str]:
        """Drop every pin of ours; needs neither libbpf nor a capable kernel."""
        names = sorted(os.listdir(self.paths.pins)) if os.path.isdir(self.paths.pins) else []
        for name in names if not check else ():
            self._drop_pins(name)
        return names

    def remove_everything(self, check: bool = False) -> Outcome:
        """Unload all and leave nothing below our directories."""
        survey = self.survey()
        nothing = Wish({}, set(), set(survey.loaded))
        plan = Plan(drop=dict.fromkeys(survey.loaded, "it is not wanted"), forget=set(survey.stored.manifests))
        diff = self._diff(survey, nothing, plan)
        changed = bool(self.unload_all(check=True)) or self.store.exists()
        if not check:
            # The switch, as with any other set: only then the policies go.
            self.store.forget_current()
            self.unload_all()
            self.store.remove_all()
            # The lock goes with it: who waits for it notices that the file is gone.
            shutil.rmtree(self.paths.run)
        return Outcome(changed, diff, {}, [])

    @contextmanager
    def locked(self, check: bool) -> Iterator[None]:
        """The host lock; a check only waits for it where there is one, and makes nothing."""
        if check and not os.path.isdir(self.paths.run):
            yield
            return
        self._require_root()
        bare = not os.path.isdir(self.paths.run)
        try:
            with host_lock(self.paths):
                try:
                    yield
                finally:
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

    def _predict(self, survey: Survey, wish: Wish, plan: Plan, cgroups: Cgroups) -> dict[str, dict[str, Any]]:
        found = {}
        for name, manifest in sorted(wish.manifests.items()):
            loaded = name in plan.anew or (name in survey.loaded and name not in plan.drop)
            why = plan.held_back.get(name, "") or idle(manifest, cgroups)
            if not why and observes(manifest):
                why = "it observes (mode: observe) and never acts"
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
        for foreign in self.foreign(survey):
            sentence = f"somebody else registered this {foreign['kind']} policy, map {foreign['map_id']}"
            found.append(_difference(foreign["name"], Reason("foreign", sentence)))
        return found

    def foreign(self, survey: Survey) -> list[dict[str, Any]]:
        """Policies that somebody else registered."""
        if self.lib is None or not survey.capability.structs:
            return []
        # What an interrupted change left beside is ours, too.
        ours = {each.map_id for each in [*survey.loaded.values(), *(self._read(name, new=True) for name in survey.unfinished)]}
        return _loader.read_foreign(self.lib, self.paths, ours)

    def _diff(self, survey: Survey, wish: Wish, plan: Plan) -> dict[str, str]:
        """One readable block a policy; a policy that keeps its state reads the same on both sides."""
        before, after = [], []
        for name in sorted(set(survey.stored.manifests) | set(survey.stored.broken) | set(survey.loaded) | set(wish.manifests)):
            manifest = wish.manifests.get(name)
            persisted = survey.stored.manifests.get(name)
            reasons = plan.anew.get(name, []) if name in survey.loaded else []
            old_load = "yes" if name in survey.loaded else "no"
            unsound: list[str] = [why for why in plan.persist.get(name, []) if persisted == manifest] or (
                [survey.stored.broken[name]] if name in survey.stored.broken else []
            )
            before += self._block(name, persisted, old_load + (f", but {'; '.join(reasons)}" if reasons else ""), unsound)
            if name in plan.anew:
                new_load = "yes"
            else:
                new_load = old_load if name not in plan.drop else "no"
            if manifest is not None or new_load == "yes":
                after += self._block(name, manifest, new_load, [])
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
            lines += [f"  {line}" for line in show(manifest.params)]
        persisted = "yes" if manifest is not None else "no"
        lines.append(f"  persisted: {persisted}" + (f", but {'; '.join(unsound)}" if unsound else ""))
        lines.append(f"  loaded: {loaded}")
        return lines


def _difference(name: str, reason: Reason) -> dict[str, str]:
    return {"policy": name, "aspect": reason.aspect, "what": str(reason)}


def neighbours(paths: Paths) -> list[str]:
    """The other OOM daemons that run here: they kill by rules of their own."""
    found = set()
    for name in os.listdir(paths.at("/proc")) if os.path.isdir(paths.at("/proc")) else ():
        try:
            comm = paths.read(f"/proc/{name}/comm").strip() if name.isdigit() else ""
        except OSError:
            continue  # it has ended meanwhile
        if comm in OTHER_KILLERS:
            found.add(comm)
    return sorted(found)


def room(paths: Paths) -> dict[str, int | None]:
    """Bytes that are free for the store and available as memory; None: it cannot be told."""
    found: dict[str, int | None] = {"store": None, "memory": None}
    try:
        disk = os.statvfs(os.path.dirname(paths.state))
        found["store"] = disk.f_bavail * disk.f_frsize
        match = re.search(r"^MemAvailable:\s+(\d+) kB$", paths.read("/proc/meminfo"), re.MULTILINE)
        found["memory"] = int(match[1]) * 1024 if match else None
    except OSError:
        pass
    return found


def pressure(paths: Paths) -> dict[str, float]:
    """The averages of the system's memory pressure over a minute, in percent, by level; empty without PSI."""
    try:
        text = paths.read("/proc/pressure/memory")
    except OSError:
        return {}
    return {level: float(value) for level, value in re.findall(r"^(some|full) .*avg60=([0-9.]+)", text, re.MULTILINE)}


def boot_unit(paths: Paths) -> dict[str, bool]:
    """Whether systemd will load the persisted set at boot, read from its directories."""
    installed = any(
        os.path.exists(paths.at(f"{directory}/{UNIT}"))
        for directory in ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
    )
    etc = paths.at("/etc/systemd/system")
    wants = [name for name in os.listdir(etc) if name.endswith((".wants", ".requires"))] if os.path.isdir(etc) else []
    return {
        "installed": installed,
        "enabled": installed and any(os.path.lexists(os.path.join(etc, name, UNIT)) for name in wants),
    }


def complete_wish(survey: Survey, wanted: Iterable[Manifest], absent: set[str], exclusive: bool) -> Wish:
    """What a play names, joined with what the host has: `exclusive` drops the rest, else the rest stays."""
    managed = {manifest.name: manifest for manifest in wanted}
    others = {} if exclusive else {name: each for name, each in survey.stored.manifests.items() if name not in absent}
    drop = {*survey.loaded, *survey.stray} - set(managed) if exclusive else set(absent)
    return Wish({**others, **managed}, set(managed), drop)
