# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's hands: what a plan says, done to the kernel and the store.

Apart from engine since a look at a host does without: a module's sources are compiled at each run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping

from .._common.errors import BpfOomError
from .._store.manifest import Manifest
from .._store.paths import Paths
from .._store.writer import Writer
from . import loader
from .describe import describe
from .drift import Loaded, load_reasons
from .engine import Blocked, Engine, Outcome, Plan, Survey, Wish, complete_wish
from .reader import new_pins


def apply(engine: Engine, survey: Survey, wish: Wish, blocked: Blocked, tolerant: bool = False) -> Outcome:
    """Make it so, all or nothing. `tolerant` is for the boot: one broken policy does not stop the others."""
    plan, _host, outcome = engine.prepare(survey, wish, blocked, tolerant)
    if plan.changes:
        failed, warnings = change(engine, survey, wish, plan, tolerant)
        outcome.failed.update(failed)
        outcome.warnings += warnings
    outcome.policies = describe(engine, engine.survey())
    return outcome


def bring_back(engine: Engine, survey: Survey) -> Outcome:
    """Load what is persisted, as a boot does: one broken policy does not keep the others away."""
    wish = complete_wish(survey, survey.stored.manifests.values(), set(), exclusive=True)
    blocked = engine.blocked(survey, {name: each.kind for name, each in wish.manifests.items()}, check=False)
    wish.load_only = True
    # What cannot be read cannot say that it is no longer wanted.
    wish.drop = set() if survey.stored.problem else wish.drop - set(survey.stored.broken)
    return apply(engine, survey, wish, blocked, tolerant=True)


def change(engine: Engine, survey: Survey, wish: Wish, plan: Plan, tolerant: bool) -> tuple[dict[str, str], list[str]]:
    """Do it. What failed, by policy, which only a `tolerant` change survives, and warnings."""
    failed: dict[str, str] = {}
    warnings: list[str] = []
    store = Writer(engine.paths)
    for name in survey.unfinished:
        _drop_new(engine.paths, name)
    fresh: dict[str, Loaded] = {}
    try:
        for name in plan.anew:
            try:
                fresh[name], anew = _load_beside(engine, survey, wish, wish.manifests[name])
                warnings += anew
            except BpfOomError as error:
                if not tolerant:
                    raise
                failed[name] = str(error)
        if plan.persists:
            for manifest in wish.manifests.values():
                if manifest.inputs in wish.objects and store.object_problem(manifest):
                    store.put_object(manifest.inputs, wish.objects[manifest.inputs])
            store.switch(wish.manifests.values())
    except BaseException:
        # Whatever it was: the old policies are as they were, the new ones must go.
        for name in plan.anew:
            _drop_new(engine.paths, name)
        store.collect_garbage()
        raise
    for name in fresh:
        # Replaces the old pin in one step; the kernel lets go of the old policy then.
        loader.switch_pins(engine.paths, name)
    for name in plan.drop:
        _drop_pins(engine.paths, name)
    _remember_tags(engine, fresh, gone=set(plan.drop))
    if plan.persists or (survey.leftovers and not wish.load_only):
        store.collect_garbage()
    if engine.lib is not None:
        for foreign in plan.foreign:
            loader.remove_foreign(engine.lib, foreign)
    return failed, warnings


def _load_beside(engine: Engine, survey: Survey, wish: Wish, manifest: Manifest) -> tuple[Loaded, list[str]]:
    """Load the policy under its second pin and believe only what the kernel shows; what could not be kept, a sentence each."""
    if engine.lib is None:
        raise engine.lib_error or BpfOomError("libbpf is not loaded", "install it")
    try:
        anew = loader.load(engine.lib, survey.capability, manifest, _object(engine, wish, manifest), engine.paths)
        found = engine.read(manifest.name, new=True)
        # Without the cgroups: one that went away since they were listed is nobody's fault.
        wrong = load_reasons(manifest, found, {})
        if wrong:
            raise BpfOomError(
                f"policy '{manifest.name}' was loaded but reads back wrong: {'; '.join(wrong)}", "report this as a fault"
            )
    except BaseException:
        _drop_new(engine.paths, manifest.name)
        raise
    return found, anew


def _object(engine: Engine, wish: Wish, manifest: Manifest) -> bytes:
    return wish.objects[manifest.inputs] if manifest.inputs in wish.objects else engine.store.object_bytes(manifest)


def _drop_new(paths: Paths, name: str) -> None:
    """What a change has made of a policy and not switched to."""
    _unlink_pins(paths, name, new_pins(paths, name))


def _drop_pins(paths: Paths, name: str) -> None:
    """Everything of a policy; the link first, with it the policy stops acting."""
    directory = os.path.join(paths.pins, name)
    names = sorted(os.listdir(directory), key=lambda each: (each != "link", each)) if os.path.isdir(directory) else []
    _unlink_pins(paths, name, [os.path.join(directory, each) for each in names])


def _unlink_pins(paths: Paths, name: str, pins: Iterable[str]) -> None:
    for pin in pins:
        try:
            os.unlink(pin)
        except FileNotFoundError:
            pass  # dropping is idempotent
    for directory in (os.path.join(paths.pins, name), paths.pins):
        try:
            os.rmdir(directory)
        except OSError:
            break  # still in use, or gone already


def _remember_tags(engine: Engine, fresh: Mapping[str, Loaded], gone: set[str]) -> None:
    data = {name: tags for name, tags in engine.tags_at_load().items() if name not in gone}
    data.update({name: loaded.tags for name, loaded in fresh.items()})
    path = os.path.join(engine.paths.run, "loaded.json")
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(data, file, indent=1, sort_keys=True)
    os.rename(path + ".new", path)


def unload_all(paths: Paths, check: bool = False) -> list[str]:
    """Drop every pin of ours; needs neither libbpf nor a capable kernel."""
    names = sorted(os.listdir(paths.pins)) if os.path.isdir(paths.pins) else []
    for name in names if not check else ():
        _drop_pins(paths, name)
    return names


def remove_everything(engine: Engine, check: bool = False) -> Outcome:
    """Unload all and leave nothing below our directories."""
    survey = engine.survey()
    nothing = Wish({}, set(), set(survey.loaded))
    plan = Plan(drop=dict.fromkeys(survey.loaded, "it is not wanted"), forget=set(survey.stored.manifests))
    diff = engine.diff(survey, nothing, plan)
    changed = bool(unload_all(engine.paths, check=True)) or engine.store.exists()
    if not check:
        store = Writer(engine.paths)
        # The switch, as with any other set: only then the policies go.
        store.forget_current()
        unload_all(engine.paths)
        store.remove_all()
        # The lock goes with it: who waits for it notices that the file is gone.
        shutil.rmtree(engine.paths.run)
    return Outcome(changed, diff, {}, [])
