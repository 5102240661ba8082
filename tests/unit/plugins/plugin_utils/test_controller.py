# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part, with the real library of policies and the real clang."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._policies import (
    LIBRARY,
    Resolver,
    library_names,
    read_bundle,
    read_metadata,
    unanswered,
)
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.plugin_utils.common import vaulted


@pytest.fixture
def resolver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolver:
    monkeypatch.setenv("BPF_OOM_CACHE", str(tmp_path / "cache"))
    return Resolver("controller", lambda src: str(tmp_path / src))


def test_every_policy_of_the_library_resolves(resolver: Resolver) -> None:
    request = resolver.request({name.replace("_", "-"): {"policy": name} for name in library_names()})
    assert [policy["program"] for policy in request["policies"].values()] == library_names()
    assert set(resolver.blobs) == {policy["inputs"] for policy in request["policies"].values()}


def test_the_host_mode_sends_sources(tmp_path: Path) -> None:
    resolver = Resolver("host", str)
    policy = resolver.request({"a": {"policy": "largest_leaf"}})["policies"]["a"]
    assert "inputs" not in policy
    assert list(resolver.blobs) == [policy["bundle"]]
    assert policy["main"] == "policy.bpf.c"


def test_a_source_brings_the_headers_beside_it(tmp_path: Path) -> None:
    for name in ("own.bpf.c", "own.h", "README"):
        (tmp_path / name).write_text("")
    assert {"own.bpf.c", "own.h", "include/bpf_oom/policy.h"} <= set(read_bundle(tmp_path / "own.bpf.c"))
    assert "README" not in read_bundle(tmp_path / "own.bpf.c")


def test_absent_needs_no_policy(resolver: Resolver) -> None:
    assert resolver.request({"a": {"state": "absent"}}) == {"policies": {}, "absent": ["a"], "blobs": {}}


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("Bad", {"policy": "largest_leaf"}, "no policy name"),
        ("a", "largest_leaf", "no description of a policy"),
        ("a", {}, "needs either 'policy' or 'src'"),
        ("a", {"policy": "largest_leaf", "src": "x"}, "needs either 'policy' or 'src'"),
        ("a", {"policy": "nonsense"}, "no policy 'nonsense' in the library; use one of .*largest_leaf"),
        ("a", {"policy": "../../etc"}, "no policy"),
        ("a", {"policy": "largest_leaf", "colour": 1}, "no option 'colour'"),
        ("a", {"policy": "largest_leaf", "kind": "psi"}, "of kind oom, not psi"),
        ("a", {"policy": "largest_leaf", "order": "first"}, "order is 'first'"),
        ("a", {"policy": "largest_leaf", "order": True}, "order is True"),
        ("a", {"policy": "largest_leaf", "order": "--10"}, "order is '--10'; give a whole number from -2147483648 to"),
        ("a", {"policy": "largest_leaf", "order": "\u00b2"}, "give a whole number"),
        ("a", {"policy": "largest_leaf", "order": "1e3"}, "give a whole number"),
        ("a", {"policy": "largest_leaf", "order": 2**31}, "give a whole number"),
        ("a", {"policy": "largest_leaf", "order": [1]}, "give a whole number"),
        ("a", None, "None is no description of a policy"),
        ("a", {"policy": "largest_leaf", "params": None}, "params is null"),
        ("a", {"policy": "largest_leaf", "params": ""}, "params"),
        ("a", {"policy": "largest_leaf", "kind": "both"}, "value of kind must be one of: oom, psi"),
        ("a", {"policy": "largest_leaf", "state": "gone"}, "value of state must be one of: present, absent, got: gone"),
        ("a", {"policy": "largest_leaf", "params": {"nonsense": 1}}, "no parameter 'nonsense'; use one of"),
        ("a", {"policy": "largest_leaf", "params": [1]}, "'params' is of type .* unable to convert to dict"),
        ("a", {"policy": "pressure_oom", "params": {"threshold_us": 2000000}}, "threshold_us <= window_us"),
        ("a", {"policy": "pressure_oom", "params": {"window_us": 10000001}}, "from 1 to 10000000"),
        ("a", {"policy": "pressure_oom", "params": {"scope": ["relative"]}}, "not absolute"),
        ("a", {"src": "own.bpf.c"}, "give kind: oom or kind: psi"),
    ],
)
def test_refused_on_the_controller(resolver: Resolver, tmp_path: Path, name: str, given: Any, says: str) -> None:
    (tmp_path / "own.bpf.c").write_text("")
    with pytest.raises(BpfOomError, match=says) as caught:
        resolver.request({name: given})
    assert str(caught.value).startswith(f"Policy '{name}': ")
    assert "\n" not in str(caught.value)
    assert resolver.blobs == {}


def test_the_wrong_module_for_a_kind(resolver: Resolver) -> None:
    with pytest.raises(BpfOomError, match="kind psi; manage it with the module psi_policy"):
        resolver.request({"a": {"policy": "pressure_oom"}}, "oom")


def test_a_source_that_does_not_compile(resolver: Resolver, tmp_path: Path) -> None:
    (tmp_path / "own.bpf.c").write_text("nonsense\n")
    with pytest.raises(BpfOomError, match=r"own\.bpf\.c does not compile: own\.bpf\.c:1:1: error: ") as caught:
        resolver.request({"a": {"src": "own.bpf.c", "kind": "oom"}})
    assert caught.value.details


def test_a_skeleton_brings_its_parameters_and_the_policy_changes_their_defaults() -> None:
    metadata = read_metadata(LIBRARY / "policies/youngest/policy.yml")
    assert metadata["parameters"]["victim"]["default"] == "process"
    assert metadata["parameters"]["victim"]["choices"] == {"process": 0, "cgroup": 1, "oom_group": 2}
    assert "name:sshd" in metadata["parameters"]["protect"]["default"]
    assert ["protect", "shares nothing with", "prefer"] in metadata["constraints"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: oom\nskeleton: nonsense\n", "no skeleton 'nonsense'"),
        ("kind: oom\nskeleton: rank_cgroups\nparameters: [a]\n", "not a dictionary of dictionaries"),
        ("kind: oom\nskeleton: rank_cgroups\nparameters:\n  victim: {type: float}\n", "none of the types"),
    ],
)
def test_a_skeleton_that_cannot_be_used(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "policy.yml").write_text(text)
    with pytest.raises(BpfOomError, match=says):
        read_metadata(tmp_path / "policy.yml")


def test_the_policy_of_the_documentation_resolves() -> None:
    source = LIBRARY.parent / "docs/examples/biggest_swapper/policy.bpf.c"
    request = Resolver("host", lambda _src: str(source)).request({"swapper": {"src": "x", "params": {"mode": "observe"}}})
    params = request["policies"]["swapper"]["params"]
    assert (params["mode"]["value"], params["victim"]["value"]) == ("observe", "process")


@pytest.mark.parametrize("order", [5, "5", "-5", None])
def test_an_order_may_be_text(resolver: Resolver, order: Any) -> None:
    policy = resolver.request({"a": {"policy": "largest_leaf", "order": order}})["policies"]["a"]
    assert policy["order"] == (100 if order is None else int(order))


def test_an_object_in_the_cache_that_is_damaged_is_made_anew(tmp_path: Path, resolver: Resolver) -> None:
    whole = resolver.request({"a": {"policy": "largest_leaf"}})["policies"]["a"]["object"]
    (cached,) = resolver.blobs.values()
    assert isinstance(cached, Path)
    good = cached.read_bytes()
    for damaged in (good[:-1], b"", good[:100] + b"x" + good[101:]):
        cached.write_bytes(damaged)
        again = Resolver("controller", str)
        assert again.request({"a": {"policy": "largest_leaf"}})["policies"]["a"]["object"] == whole
        assert cached.read_bytes() == good
    # A cache of an earlier version has no digests, and one cut short has half of one.
    for note in (None, b"", b"0" * 64):
        beside = cached.with_suffix(".sha256")
        beside.unlink() if note is None else beside.write_bytes(note)
        cached.write_bytes(b"damaged")
        Resolver("controller", str).request({"a": {"policy": "largest_leaf"}})
        assert cached.read_bytes() == good


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BPF_OOM_CACHE", str(tmp_path / "file"))
    with pytest.raises(BpfOomError, match=r"cache of compiled policies, .*/file/objects, cannot be written: .*BPF_OOM_CACHE\.$"):
        Resolver("controller", str).request({"a": {"policy": "largest_leaf"}})


@pytest.mark.parametrize(
    "given",
    [
        {"policy": vaulted("s3cret")},
        {"policy": "largest_leaf", "order": vaulted("s3cret")},
        {"policy": "largest_leaf", "state": vaulted("s3cret")},
        {"policy": "largest_leaf", "kind": vaulted("s3cret")},
        {"policy": "largest_leaf", "params": {"min_usage": vaulted("s3cret\n")}},
        {"policy": "largest_leaf", "params": {"scope": [vaulted("s3cret")]}},
        {"policy": "largest_leaf", "params": vaulted("s3cret")},
        {"src": vaulted("s3cret")},
        [vaulted("s3cret")],
    ],
)
def test_a_message_tells_no_vaulted_value(resolver: Resolver, given: Any) -> None:
    with pytest.raises(BpfOomError) as caught:
        resolver.request({"a": given})
    assert "s3cret" not in f"{caught.value} {caught.value.details}"


def test_vaulted_values_are_taken(resolver: Resolver) -> None:
    given = {
        "policy": vaulted("largest_leaf"),
        "order": vaulted("5"),
        "params": {"min_usage": vaulted("64M"), "scope": vaulted("/a")},
    }
    policy = resolver.request({"a": given})["policies"]["a"]
    assert (policy["program"], policy["order"]) == ("largest_leaf", 5)
    assert (policy["params"]["min_usage"]["value"], policy["params"]["scope"]["value"]) == (64 << 20, ["/a"])
    json.dumps(policy)


def test_the_first_example_is_a_rehearsal_that_cannot_kill(resolver: Resolver) -> None:
    readme = (LIBRARY.parent / "README.md").read_text(encoding="utf-8")
    (play,) = yaml.safe_load(readme.partition("```yaml\n")[2].partition("```")[0])
    policies = resolver.request(play["roles"][1]["bpf_oom_policies"])["policies"]
    assert {policy["kind"] for policy in policies.values()} == {"oom", "psi"}
    assert {policy["params"]["mode"]["value"] for policy in policies.values()} == {"observe"}
    assert unanswered(policies) == []


def test_a_warning_of_pressure_that_only_the_kernel_answers(resolver: Resolver) -> None:
    def told(**modes: str) -> list[str]:
        kinds = {"leaf": "largest_leaf", "young": "youngest", "stall": "pressure_oom"}
        return unanswered(
            resolver.request({name: {"policy": kinds[name], "params": {"mode": modes[name]}} for name in modes})["policies"]
        )

    assert told(leaf="observe", stall="enforce")[0].startswith("stall declares OOMs while every OOM policy")
    assert told(leaf="observe", young="enforce", stall="enforce") == []
    assert told(leaf="observe", stall="observe") == told(stall="enforce") == told(leaf="observe") == []
