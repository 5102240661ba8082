# SPDX-License-Identifier: GPL-3.0-or-later
"""Every policy of a host, as a change has left it and as a report tells of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .._common.errors import BpfOomError
from .._kernel.capability import LACKING
from .._store.manifest import Manifest
from .drift import observes
from .engine import Engine, Survey
from .inactive import Host, Inactive, reasons
from .loader import lacking
from .reader import unmatched


def describe(engine: Engine, survey: Survey) -> dict[str, dict[str, Any]]:
    """Every policy of ours: what its manifest wants, whether it is loaded, and whether it acts so."""
    stored = survey.stored
    host = Host(engine.paths, stored.manifests.values())
    found = {}
    for name in sorted(set(stored.manifests) | set(stored.broken) | set(survey.loaded)):
        manifest, loaded = stored.manifests.get(name), survey.loaded.get(name)
        drift = [stored.broken[name]] if name in stored.broken else []
        inactive: list[Inactive] = []
        if manifest is None:
            drift = drift or ["it is loaded but not persisted"]
            kind = loaded.struct[len("bpf_") : -len("_ops")] if loaded and loaded.struct else None
        else:
            kind = manifest.kind
            drift += engine.reasons(survey, manifest, host.cgroups)
            inactive = reasons(host, manifest, loaded, survey.capability.blocking(manifest.kind))
        bypass = host.bypass(loaded)
        whole = [each for each in inactive if each.whole]
        active = manifest is not None and loaded is not None and not drift and not whole
        # Why a policy is detached is said better by its reason.
        why = [each for each in drift if not (loaded and loaded.detached and each == loaded.problem)]
        why += [each.clause for each in whole]
        told = [{"id": "drift", "whole": True, "sentence": _sentence(each)} for each in drift]
        told += [each.report() for each in inactive]
        unusable = engine.store.object_problem(manifest) if manifest is not None else ""
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
            "observing": bool(manifest and observes(manifest) and loaded and not drift and len(whole) == 1),
            "why": "; ".join(why),
            "limits": [each.sentence for each in inactive if not each.whole],
            "reasons": told,
            "bypassed": asdict(bypass) if bypass else None,
            "drift": drift,
            "counters": loaded.counters if loaded else {},
            "decisions": [],  # whoever asks for some reads them
            "link_id": loaded.link_id if loaded else None,
            "tags": loaded.tags if loaded else {},
            "degraded": _degraded(engine, survey, manifest),
            "unmatched": unmatched(engine.paths, manifest) if manifest else [],
        }
    return found


def _sentence(clause: str) -> str:
    return f"{clause[:1].upper()}{clause[1:]}."


def _degraded(engine: Engine, survey: Survey, manifest: Manifest | None) -> list[str]:
    """What a policy cannot do on this kernel although it acts."""
    if manifest is None or engine.lib is None or not survey.capability.structs:
        return []
    try:
        missing = lacking(engine.lib, survey.capability, manifest, engine.store.object_bytes(manifest))
    except BpfOomError:
        # An object that cannot be used is told of as such.
        return []
    return [LACKING[name][1] for name in missing]
