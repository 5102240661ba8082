# SPDX-License-Identifier: GPL-3.0-or-later
"""Who the globs of a policy stand for on a host."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.typed import type_params
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.reader import matching_cgroups, unmatched
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.module_utils.common import manifest

SPECS = {
    "scope": {"type": "selectors", "of": ["cgroup"], "default": []},
    "protect": {"type": "selectors", "of": ["cgroup", "name", "uid"], "default": ["/kubelet.service", "name:sshd"]},
    "priorities": {"type": "weights", "range": [-9, 9], "default": {}},
}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    for name in ("a.slice/db@1.service", "a.slice/web\\x2d1.service", "bare"):
        (tmp_path / "sys/fs/cgroup" / name).mkdir(parents=True)
        if name != "bare":
            (tmp_path / "sys/fs/cgroup" / name / "memory.max").touch()
    return Paths(str(tmp_path))


def named(paths: Paths, **given: object) -> list[str]:
    return unmatched(paths, manifest(params=type_params(SPECS, [], given, "leaf")))


def test_a_glob_of_the_site_that_is_nobody_is_told(paths: Paths) -> None:
    assert named(paths, protect=["/a.slice/db@*", "/a.slice/dbs@*", "name:nobody", "uid:7"]) == [
        "no cgroup matches /a.slice/dbs@* in its protect now"
    ]
    assert named(paths, priorities={"/gone": 1, "/": 2, "/a.slice": 3}) == ["no cgroup matches /gone in its priorities now"]


def test_a_default_list_names_what_only_some_hosts_have(paths: Paths) -> None:
    assert named(paths) == []
    assert named(paths, protect=["/kubelet.service", "name:sshd"]) == []
    assert named(paths, protect=["/kubelet.service"]) == ["no cgroup matches /kubelet.service in its protect now"]


def test_whoever_has_no_memory_controller_can_be_protected_but_not_watched(paths: Paths) -> None:
    assert named(paths, protect=["/bare"]) == []
    wanted = manifest(params=type_params(SPECS, [], {"scope": ["/bare", "/a.slice/web\\x2d*"]}, "leaf"))
    found = matching_cgroups(paths, [wanted])
    assert list(found["/bare"]) == [] and list(found["/a.slice/web\\x2d*"]) == ["/a.slice/web\\x2d1.service"]
