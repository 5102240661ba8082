# SPDX-License-Identifier: GPL-3.0-or-later
"""Conditions of psi policies: what the inventory may say, and what a kernel that lacks something is told."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine import loader
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.capability import Capability
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.manifest import Manifest
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._policies import Resolver
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.module_utils.common import manifest


def resolved(params: dict[str, Any], policy: str = "pressure_oom") -> dict[str, Any]:
    request = Resolver("host", str).request({"own": {"policy": policy, "params": params}})
    found = request["policies"]["own"]["params"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("policy", ["pressure_oom", "pressure_and_swap", "watch"])
def test_every_psi_policy_has_them(policy: str) -> None:
    assert resolved({"free_memory_below_percent": 5}, policy)["free_memory_below_percent"]["value"] == 5


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"free_memory_below_percent": 101}, "'free_memory_below_percent' is 101; give a whole number from 0 to 100 percent"),
        ({"free_swap_below_percent": 101}, "'free_swap_below_percent' is 101; give a whole number from 0 to 100 percent"),
        ({"free_swap_below_percent": 5, "free_swap_below_bytes": 1}, "give one of them, they contradict each other"),
        ({"free_memory_below_bytes": -1}, "'free_memory_below_bytes' is -1; give a whole number from 0"),
        (
            {"free_memory_below_percent": 5, "free_memory_below_bytes": 2**30},
            "'free_memory_below_percent' is 5 and 'free_memory_below_bytes' is 1073741824; give one of them, they contradict",
        ),
    ],
)
def test_bad_conditions_are_refused(params: dict[str, Any], says: str) -> None:
    with pytest.raises(BpfOomError, match=says):
        resolved(params)


def test_a_kind_that_has_none_says_so() -> None:
    with pytest.raises(BpfOomError, match="'free_memory_below_percent' is a condition, and 'largest_leaf' is a policy of"):
        resolved({"free_memory_below_percent": 5}, "largest_leaf")


def psi(params: dict[str, Any]) -> Manifest:
    return manifest("pressure", kind="psi", program="pressure_oom", params=resolved(params))


def test_free_memory_that_the_kernel_hides() -> None:
    """Who asks for it is refused, who does not is told, and who has no use for it is not."""
    hides = Capability()
    asking: list[dict[str, Any]] = [{"free_memory_below_percent": 5}, {"free_memory_below_bytes": 4096, "scope": ["/a"]}]
    for params in (*asking, {"free_swap_below_percent": 0}, {"free_swap_below_bytes": 1}):
        with pytest.raises(BpfOomError, match=r"asks how much memory or swap is free, .* set kernel.kptr_restrict to 0 or 1"):
            loader.refuse_unknown_memory(hides, psi(params))
    (told,) = loader.refuse_unknown_memory(hides, psi({}))
    assert "however much memory is free" in told
    assert loader.refuse_unknown_memory(hides, psi({"scope": ["/a"]})) == []
    assert loader.refuse_unknown_memory(hides, psi({"free_memory_below_percent": 100})) == []
    assert loader.refuse_unknown_memory(hides, manifest()) == []
    shows = Capability(features={"free_memory": True})
    assert loader.refuse_unknown_memory(shows, psi({"free_memory_below_percent": 5})) == []
