# SPDX-License-Identifier: GPL-3.0-or-later
"""The persisted set as a whole: kept, restored, forgotten."""

from __future__ import annotations

from typing import Any

from .._common.errors import BpfOomError
from .._common.params import check_name
from .._engine.change import apply
from .._engine.engine import Engine, Outcome, complete_wish
from .._engine.run import result
from .._store.writer import Writer


def keep(engine: Engine, name: str, check: bool = False) -> bool:
    """Keep the persisted set under a name; whether that changes anything."""
    check_name(name)
    stored = engine.store.read_set()
    wrong = stored.problem or next(iter(stored.broken.values()), "")
    if wrong:
        raise BpfOomError(f"the persisted set is damaged and cannot be kept: {wrong}", "run the play again, it mends the set")
    same = name in engine.store.kept() and engine.store.read_set(name).manifests == stored.manifests
    if not same and not check:
        Writer(engine.paths).keep(name)
    return not same


def restore(engine: Engine, name: str, check: bool = False) -> Outcome:
    """Make a kept set the persisted and loaded one, as any other change is made."""
    if name not in engine.store.kept():
        others = ", ".join(engine.store.kept())
        raise BpfOomError(
            f"no set is kept as '{name}' on this host",
            f"name one of {others}" if others else "a rollout keeps one there, or policy_backup; the play brings other ones",
        )
    kept = engine.store.read_set(name)
    wrong = kept.problem or next(iter(kept.broken.values()), "")
    if wrong:
        raise BpfOomError(f"the set kept as '{name}' is damaged: {wrong}", "set the policies by a play")
    survey = engine.survey()
    wish = complete_wish(survey, kept.manifests.values(), set(), exclusive=True)
    blocked = engine.blocked(survey, {each.name: each.kind for each in kept.manifests.values()}, check)
    return engine.foretell(survey, wish, blocked) if check else apply(engine, survey, wish, blocked)


def forget(engine: Engine, name: str, check: bool = False) -> bool:
    there = name in engine.store.kept()
    if there and not check:
        Writer(engine.paths).forget(name)
    return there


def back_up(name: str, state: str, check: bool, engine: Engine | None = None) -> dict[str, Any]:
    """What the module policy_backup returns."""
    engine = engine or Engine()
    with engine.locked(check):
        if state == "restored":
            outcome = restore(engine, name, check)
            # Only what this host cannot load: anything else that fails undoes the whole change.
            done = ("Would be persisted", "would not be") if check else ("Persisted", "is not")
            outcome.warnings += [
                f"{done[0]}, but '{policy}' {done[1]} loaded: {why}" for policy, why in sorted(outcome.failed.items())
            ]
            return result(outcome, {})
        changed = keep(engine, name, check) if state == "kept" else forget(engine, name, check)
        what = f"a set kept as {name}\n"
        before, after = ("", what) if state == "kept" else (what, "")
        return {"changed": changed, "diff": {"before": before if changed else after, "after": after}, "policies": {}, "drift": []}
