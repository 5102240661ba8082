# SPDX-License-Identifier: GPL-3.0-or-later
"""The policies are loaded and persisted, they decide who dies, and without them somebody else does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Scenario
from testinfra.host import Host

from machine import Machine, splats
from proofs import Expectation, dead, failures, judge

POLICY = "demo-largest-leaf"
PRESSURE_POLICY = "demo-pressure"
OOM = Expectation(victims=("cg3/cg4",), policy=POLICY, constraint="CONSTRAINT_MEMCG")
PRESSURE = Expectation(victims=("hog",), policy=POLICY, constraint="CONSTRAINT_BPF_PSI_MEM")
Status = Callable[[Host], dict[str, Any]]


@pytest.fixture(scope="class")
def unloaded(host: Host) -> Iterator[None]:
    host.check_output("bpf-oom unload")
    yield
    host.check_output("bpf-oom apply")


def test_both_policies_are_active(host: Host, status: Status) -> None:
    policies = status(host)["policies"]
    assert {name: policy["kind"] for name, policy in policies.items() if policy["active"]} == {
        POLICY: "oom",
        PRESSURE_POLICY: "psi",
    }


def test_nothing_has_drifted(host: Host) -> None:
    assert host.run("bpf-oom verify").stdout == ""


def test_what_the_kernel_lacks_is_told(host: Host, status: Status) -> None:
    """FLAVOUR=plain boots a kernel with the plain first version of the interface: all works, with less."""
    fleet = os.environ.get("FLAVOUR") != "plain"
    stock = os.environ.get("BPF_OOM_MACHINE_KERNEL", "debian") == "debian"
    report = status(host)
    features = {"cgroup_online": fleet, "averages": fleet, "bypass": fleet, "own_report": not stock, "free_memory": True}
    assert report["capability"]["features"] == features
    assert report["capability"]["interface"] == ("module" if stock else "kernel")
    assert (report["module"]["running"] is not None) == stock
    assert report["policies"][POLICY]["degraded"] == []
    told = report["policies"][PRESSURE_POLICY]["degraded"]
    assert told == [] if fleet else "does not tell about new cgroups" in " ".join(told)


def test_boot_unit_is_enabled(host: Host) -> None:
    assert host.service("bpf-oom.service").is_enabled


def decisions(host: Host, policy: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(host.check_output("bpf-oom decisions %s --json", policy))[policy]
    return found


def test_oom_kills_the_largest_leaf(host: Host, scenario: Scenario) -> None:
    report = scenario("oom")
    assert failures(judge(report, OOM)) == []
    victim = dead(report)[0]
    decision = next(each for each in decisions(host, POLICY) if victim["pid"] in [died["pid"] for died in each["died"]])
    assert (decision["outcome"], decision["trigger"]) == ("killed", "memcg")
    # The largest of all is excepted by its -1000, and the record says so.
    for list_name, verdict, cgroup in (("skipped", "unkillable", "cg2"), ("ranked", "chosen", "cg4")):
        first = decision[list_name][0]
        assert (first["verdict"], first["cgroup"].rpartition("/")[2]) == (verdict, cgroup)
    assert decision["ranked"][0]["cgroup_id"] == victim["cgroup_id"]


def test_replacing_keeps_counters_and_decisions(host: Host, status: Status) -> None:
    """A lost pin of the record is drift, and healing it means loading the policy anew."""
    before, known = status(host)["policies"][POLICY], decisions(host, POLICY)
    assert before["counters"]["nr_kills"] > 0
    host.check_output("rm /sys/fs/bpf/linuxmm_bpf_oom/%s/decision_end", POLICY)
    drift = host.run("bpf-oom verify")
    assert drift.rc == 3
    assert "decision_end, is not attached" in drift.stdout
    host.check_output("bpf-oom apply")
    after = status(host)["policies"][POLICY]
    assert after["active"] and after["link_id"] > before["link_id"]
    assert after["counters"] == before["counters"]
    assert decisions(host, POLICY) == known
    assert host.run("bpf-oom verify").stdout == ""


def test_pressure_kills_the_hog(host: Host, scenario: Scenario, status: Status) -> None:
    before = {name: policy["counters"] for name, policy in status(host)["policies"].items()}
    assert failures(judge(scenario("pressure"), PRESSURE)) == []
    after = {name: policy["counters"] for name, policy in status(host)["policies"].items()}
    assert after[POLICY]["nr_kills"] == before[POLICY]["nr_kills"] + 1
    assert after[PRESSURE_POLICY]["nr_declared"] == before[PRESSURE_POLICY]["nr_declared"] + 1


@pytest.mark.usefixtures("unloaded")
class TestUnloaded:
    """What happens without our policies; and the proof of the tests above must then fail."""

    def test_the_kernel_kills_another_and_the_proof_fails(self, host: Host, scenario: Scenario, status: Status) -> None:
        assert not any(policy["active"] for policy in status(host)["policies"].values())
        report = scenario("oom")
        assert dead(report)[0]["name"] == "cg1"
        assert {kill["policy"] for kill in report["kills"]} == {"default"}
        broken = failures(judge(report, OOM))
        assert any("names policy" in claim for claim in broken)
        assert any("nobody else" in claim for claim in broken)

    def test_pressure_kills_nobody_and_the_proof_fails(self, scenario: Scenario) -> None:
        report = scenario("pressure")
        assert dead(report) == []
        assert report["stalled_us"] > 1_000_000
        assert any("SIGKILL" in claim for claim in failures(judge(report, PRESSURE)))


def test_policies_are_loaded_again(host: Host, status: Status) -> None:
    assert all(policy["active"] for policy in status(host)["policies"].values())


def test_kernel_log_has_no_splat(host: Host) -> None:
    assert splats(host.check_output("dmesg")) == []
    assert splats(Machine(os.environ["BPF_OOM_MACHINE"]).log()) == []
