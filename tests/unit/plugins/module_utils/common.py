# SPDX-License-Identifier: GPL-3.0-or-later
"""What several unit tests build from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.manifest import Manifest, digest

OBJECT = b"an object"


def manifest(name: str = "leaf", **changes: Any) -> Manifest:
    made = Manifest(
        name=name,
        kind="oom",
        order=100,
        program="largest_leaf",
        source="library",
        bundle="1" * 64,
        compiler="2" * 64,
        inputs="3" * 64,
        object=digest(OBJECT),
        params={"min_usage": {"type": "u64", "value": 5}},
    )
    return replace(made, **changes)
