# SPDX-License-Identifier: GPL-3.0-or-later
"""One request of the controller, carried out on the host: what the module policy_set does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Dict

from .._common.errors import BpfOomError
from .._common.params import USER, Params
from .._kernel.capability import together
from .._store.manifest import Manifest, digest
from .engine import Engine, Outcome, Survey, complete_wish

if TYPE_CHECKING:
    from .compiler import Toolchain

_UNKNOWN = "0" * 64
Request = Dict[str, Any]


def run(request: Request, check: bool, engine: Engine | None = None) -> dict[str, Any]:
    """The result for exit_json, or {'needs': digests of what the controller must send first}.

    What a look does not need is imported where it is needed: a module's sources are compiled at each run.
    """
    engine = engine or Engine()
    with engine.locked(check):
        if request["state"] == "absent":
            from .change import remove_everything

            return result(remove_everything(engine, check), {})
        survey = engine.survey()
        policies: dict[str, dict[str, Any]] = request["policies"]
        for policy in policies.values():
            resolve_users(policy["params"])
        kinds = {name: policy["kind"] for name, policy in policies.items()}
        blocked = engine.blocked(survey, kinds, check, bool(request.get("interface_announced")))
        capability = survey.capability.report()
        warnings = []
        if blocked:
            why = together(problem for problems in blocked.values() for problem in problems)
            if request["on_incapable"] == "fail":
                raise why
            if request["on_incapable"] == "skip":
                from .describe import describe

                outcome = Outcome(False, {"before": "", "after": ""}, describe(engine, survey), [])
                outcome.warnings.append(f"Nothing was done on this host: {why}")
                outcome.drift = [
                    {"policy": name, "aspect": "capability", "what": str(together(found))}
                    for name, found in sorted(blocked.items())
                ]
                return result(outcome, capability)
            done = ("Would be persisted", "would not be") if check else ("Persisted", "is not")
            warnings += [
                f"{done[0]}, but '{name}' {done[1]} loaded: {together(found)}" for name, found in sorted(blocked.items())
            ]
        needs = Needs(engine, survey, request["blobs"], check)
        manifests = [needs.manifest(name, policy) for name, policy in policies.items()]
        if needs.missing:
            return {"changed": False, "needs": needs.missing}
        wish = complete_wish(survey, manifests, set(request["absent"]), request["exclusive"])
        wish.objects.update(needs.objects)
        wish.alone = request.get("foreign") == "remove"
        if check:
            outcome = engine.foretell(survey, wish, blocked)
        else:
            from .change import apply

            outcome = apply(engine, survey, wish, blocked)
        outcome.warnings += warnings + needs.warnings
        return result(outcome, capability)


def resolve_users(params: Params) -> None:
    """Users by name become numbers where they are users; None for who is not known here."""
    for param in params.values():
        names = (
            [text.partition(":")[2] for text in param["value"] if text.startswith(f"{USER}:")]
            if param["type"] == "selectors"
            else []
        )
        if names:
            # Few name any, and a module's sources are compiled at each run.
            import pwd

            param["users"] = {}
            for name in names:
                try:
                    param["users"][name] = pwd.getpwnam(name).pw_uid
                except KeyError:
                    param["users"][name] = None


def result(outcome: Outcome, capability: dict[str, Any]) -> dict[str, Any]:
    return {
        "changed": outcome.changed,
        "diff": outcome.diff,
        "policies": outcome.policies,
        "capability": capability,
        "drift": outcome.drift,
        "warnings": outcome.warnings,
    }


class Needs:
    """Manifests with their objects: from the store, from what was sent, or compiled here."""

    def __init__(self, engine: Engine, survey: Survey, blobs: dict[str, str], check: bool) -> None:
        self._engine = engine
        self._survey = survey
        self._blobs = blobs
        self._check = check
        self._toolchain: Toolchain | None = None
        self.objects: dict[str, bytes] = {}
        self.missing: list[str] = []
        self.warnings: list[str] = []

    def manifest(self, name: str, policy: dict[str, Any]) -> Manifest:
        if "inputs" in policy:
            found = Manifest(name=name, **{key: policy[key] for key in Manifest.__dataclass_fields__ if key != "name"})
            if not self._check and self._engine.store.object_problem(found):
                self._from_blob(found.inputs, found.object)
            return found
        return self._compiled_here(name, policy)

    def _from_blob(self, blob: str, expected: str) -> bytes | None:
        path = self._blobs.get(blob)
        if path is None:
            if blob not in self.missing:
                self.missing.append(blob)
            return None
        with open(path, "rb") as file:
            data = file.read()
        if digest(data) != expected:
            raise BpfOomError(f"what arrived as {blob[:12]} is damaged", "run again")
        self.objects[blob] = data
        return data

    def _compiled_here(self, name: str, policy: dict[str, Any]) -> Manifest:
        from . import compiler

        common = {key: policy[key] for key in ("kind", "order", "program", "source", "bundle", "params")}
        try:
            self._toolchain = self._toolchain or compiler.find_toolchain()
        except BpfOomError as error:
            if not self._check:
                raise
            # The same play may be about to install it.
            self.warnings.append(f"The object of policy '{name}' is not known yet: {error}")
            return Manifest(name=name, compiler=_UNKNOWN, inputs=_UNKNOWN, object=_UNKNOWN, **common)
        identity = self._toolchain.identity
        inputs = compiler.input_digest(policy["program"], policy["bundle"], identity)
        for known in self._survey.stored.manifests.values():
            if known.inputs == inputs and not self._engine.store.object_problem(known):
                return Manifest(name=name, compiler=identity, inputs=inputs, object=known.object, **common)
        sent = self._from_blob(policy["bundle"], policy["bundle"])
        if sent is None:
            return Manifest(name=name, compiler=identity, inputs=inputs, object=_UNKNOWN, **common)
        files = dict(json.loads(sent))
        data = self.objects.get(inputs) or compiler.compile_bundle(policy["program"], files, policy["main"], self._toolchain)
        self.objects[inputs] = data
        return Manifest(name=name, compiler=identity, inputs=inputs, object=digest(data), **common)
