# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a policy does not act: each reason from files as a kernel shows them, and that whoever tells of a policy tells of it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine import change
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.drift import Loaded, expected_rodata
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.engine import Engine, Wish
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.inactive import REASONS, Host, Inactive, reasons
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.bypass import bypasses
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.capability import Capability
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.libbpf import Library
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.cli import OK, main
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.manifest import Manifest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.writer import Writer
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.module_utils.common import OBJECT, manifest


def files(root: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A host on which everything acts: two cgroups below /t, all that the kernel has as it comes."""
    files(
        tmp_path,
        {
            "proc/sys/vm/panic_on_oom": "0\n",
            "proc/sys/vm/oom_kill_allocating_task": "0\n",
            "proc/sys/kernel/bpf_psi_max_triggers": "256\n",
            "proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            "sys/fs/cgroup/cgroup.subtree_control": "cpu memory pids\n",
            "sys/fs/cgroup/cgroup.pressure": "1\n",
            "sys/fs/cgroup/t/cgroup.subtree_control": "memory pids\n",
            "sys/fs/cgroup/t/memory.max": "max\n",
            "sys/fs/cgroup/t/a/memory.max": "max\n",
            "sys/fs/cgroup/t/a/cgroup.pressure": "1\n",
            "sys/fs/cgroup/t/b/memory.max": "max\n",
            "sys/fs/cgroup/t/b/cgroup.pressure": "1\n",
        },
    )
    return Paths(str(tmp_path))


def policy(kind: str = "oom", scope: list[str] | None = None, mode: str = "enforce", name: str = "leaf") -> Manifest:
    params = {
        "scope": {"type": "selectors", "value": scope or []},
        "mode": {"type": "choice", "value": mode, "number": int(mode == "observe")},
    }
    return manifest(name=name, kind=kind, params=params)


def held(paths: Paths, wanted: Manifest, **changes: Any) -> Loaded:
    """What the kernel holds of a policy that is loaded as wanted and watches its scope."""
    watched = {os.stat(f"{paths.cgroup}/t/{name}").st_ino for name in ("a", "b") if os.path.isdir(f"{paths.cgroup}/t/{name}")}
    made = Loaded(wanted.name, 1, 9, f"bpf_{wanted.kind}_ops", rodata=expected_rodata(wanted))
    made.watched = watched if wanted.kind == "psi" else None
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def told(paths: Paths, wanted: Manifest, loaded: Loaded | None = None, capability: Capability | None = None) -> list[Inactive]:
    problems = capability.blocking(wanted.kind) if capability else []
    found = reasons(Host(paths, [wanted]), wanted, loaded or held(paths, wanted), problems)
    for each in found:
        # A sentence with the remedy, whatever it is.
        assert each.sentence.lower() == f"{each.cause}; {each.remedy}.".lower() and "\n" not in each.sentence
    return found


@pytest.mark.parametrize("kind", ["oom", "psi"])
@pytest.mark.parametrize("scope", [[], ["/t/*"], ["/"]])
def test_who_acts_has_no_reason(paths: Paths, kind: str, scope: list[str]) -> None:
    assert told(paths, policy(kind, scope)) == []


@pytest.mark.parametrize(
    ("sysctl", "value", "kind", "scope", "whole", "says"),
    [
        ("panic_on_oom", 1, "oom", [], False, "vm.panic_on_oom is 1, so the kernel panics when the whole system is out of"),
        ("panic_on_oom", 1, "oom", ["/"], False, "vm.panic_on_oom is 1"),
        # The kernel panics only at an OOM of the whole system then, of which this policy would not be asked.
        ("panic_on_oom", 1, "oom", ["/t/*"], None, ""),
        ("panic_on_oom", 1, "psi", [], None, ""),
        ("panic_on_oom", 2, "oom", [], True, "vm.panic_on_oom is 2, so the kernel panics at any OOM before it asks a policy"),
        ("panic_on_oom", 2, "oom", ["/t/*"], True, "vm.panic_on_oom is 2"),
        ("panic_on_oom", 2, "psi", ["/t/*"], True, "vm.panic_on_oom is 2, so the kernel panics at an OOM that it declares"),
        ("oom_kill_allocating_task", 1, "oom", [], False, "vm.oom_kill_allocating_task is on, so when the whole system"),
        ("oom_kill_allocating_task", 1, "oom", ["/t/*"], None, ""),
        ("oom_kill_allocating_task", 1, "psi", [], None, ""),
    ],
)
def test_a_sysctl_that_keeps_the_kernel_from_asking(
    paths: Paths, sysctl: str, value: int, kind: str, scope: list[str], whole: bool | None, says: str
) -> None:
    """FAULTS.md B3: such a policy was called active without a word."""
    files(Path(paths.root), {f"proc/sys/vm/{sysctl}": f"{value}\n"})
    found = told(paths, policy(kind, scope))
    assert [each.whole for each in found] == ([] if whole is None else [whole])
    for each in found:
        assert each.cause.startswith(says) and "set it to 0" in each.remedy
        assert each.id == {"panic_on_oom": "panic_on_oom", "oom_kill_allocating_task": "allocating_task"}[sysctl]


@pytest.mark.parametrize("kind", ["oom", "psi"])
def test_a_scope_that_stands_for_nothing(paths: Paths, kind: str) -> None:
    (found,) = told(paths, policy(kind, ["/gone/*"]))
    assert (found.id, found.whole) == ("scope", True)
    assert found.sentence == "No cgroup matches its scope (/gone/*) now; start what it names, or correct the globs."


@pytest.mark.parametrize("lacks", ["sys/fs/cgroup", "sys/fs/cgroup/t"])
def test_a_scope_without_a_memory_controller_says_what_lacks_it(paths: Paths, lacks: str) -> None:
    """FAULTS.md B5: "no cgroup matches its scope"."""
    root = Path(paths.root)
    files(root, {f"{lacks}/cgroup.subtree_control": "cpu pids\n"})
    (root / "sys/fs/cgroup/t/a/memory.max").unlink()
    (part,) = told(paths, policy(scope=["/t/*"]))
    assert (part.id, part.whole) == ("memory_controller", False)
    assert part.cause == f"there is no memory controller in /t/a of its scope, as /{lacks}/cgroup.subtree_control lacks it"
    assert part.remedy.startswith(f"write +memory to /{lacks}/cgroup.subtree_control")
    (root / "sys/fs/cgroup/t/b/memory.max").unlink()
    (found,) = told(paths, policy("psi", ["/t/*"]))
    assert (found.id, found.whole) == ("memory_controller", True)
    assert "in /t/a, /t/b of its scope" in found.cause
    # A threaded cgroup can have none although everybody above hands it down.
    files(root, {"sys/fs/cgroup/cgroup.subtree_control": "memory\n", "sys/fs/cgroup/t/cgroup.subtree_control": "memory\n"})
    assert "threaded" in told(paths, policy(scope=["/t/*"]))[0].remedy


def test_of_many_cgroups_a_few_are_named(paths: Paths) -> None:
    files(Path(paths.root), {f"sys/fs/cgroup/u/{number}/x": "" for number in range(9)})
    files(Path(paths.root), {"sys/fs/cgroup/u/cgroup.subtree_control": "\n"})
    assert "in /u/0, /u/1, /u/2 and 6 more of its scope" in told(paths, policy(scope=["/u/*"]))[0].cause


def test_pressure_that_somebody_has_switched_off(paths: Paths) -> None:
    """CASES.md 21, FAULTS.md B4: the others are watched, and that one is named."""
    files(Path(paths.root), {"sys/fs/cgroup/t/a/cgroup.pressure": "0\n"})
    wanted = policy("psi", ["/t/*"])
    (part,) = told(paths, wanted)
    assert (part.id, part.whole) == ("pressure_off", False)
    assert part.sentence.startswith("Pressure is not watched in /t/a, where cgroup.pressure is 0; write 1 to that file")
    # Whether it was watched before or could not be from the begin.
    loaded = held(paths, wanted, watched={os.stat(f"{paths.cgroup}/t/b").st_ino})
    assert told(paths, wanted, loaded) == [part]
    files(Path(paths.root), {"sys/fs/cgroup/t/b/cgroup.pressure": "0\n"})
    assert [each.whole for each in told(paths, wanted)] == [True]
    assert told(paths, policy("oom", ["/t/*"])) == []
    assert told(paths, policy("psi")) == []
    files(Path(paths.root), {"sys/fs/cgroup/cgroup.pressure": "0\n"})
    assert [(each.id, each.whole) for each in told(paths, policy("psi"))] == [("pressure_off", True)]


@pytest.mark.parametrize(("limit", "raises"), [("256\n", False), ("2\n", True), (None, False)])
def test_room_for_cgroups_that_is_used_up(paths: Paths, limit: str | None, raises: bool) -> None:
    sysctl = Path(paths.root) / "proc/sys/kernel/bpf_psi_max_triggers"
    sysctl.unlink() if limit is None else sysctl.write_text(limit)
    wanted = policy("psi", ["/t/*"])
    one = os.stat(f"{paths.cgroup}/t/a").st_ino
    full = {one, *range(10**9, 10**9 + (1 if raises else 255))}
    (found,) = told(paths, wanted, held(paths, wanted, watched=full))
    assert (found.id, found.whole) == ("room", False)
    assert found.cause == f"it watches {len(full)} cgroups, has room for no more, and leaves out /t/b"
    assert ("bpf_psi_max_triggers" in found.remedy) == raises
    # With room it is a difference that a run heals, and no reason of this kind.
    assert told(paths, wanted, held(paths, wanted, watched={one})) == []


@pytest.mark.parametrize(
    ("identity", "kind", "lasts"),
    [("kernel", "oom", True), ("version", "oom", True), ("psi_off", "psi", True), ("memcg", "", True), ("lockdown", "", False)],
)
def test_what_a_host_has_lost_since(paths: Paths, identity: str, kind: str, lasts: bool) -> None:
    capability = Capability()
    capability.add(identity, "the kernel has lost it", "bring it back", kind)
    wanted = policy(kind or "oom")
    assert [each.id for each in told(paths, wanted, capability=capability)] == [identity] * lasts
    # Of a policy that is not loaded everything is a reason that keeps it so.
    found = reasons(Host(paths, [wanted]), wanted, None, capability.blocking(wanted.kind))
    assert [(each.id, each.whole) for each in found] == [(identity, True)]


def test_who_observes_never_acts(paths: Paths) -> None:
    (found,) = told(paths, policy(mode="observe"))
    assert (found.id, found.whole, found.cause) == ("observe", True, "it observes (mode: observe) and never acts")


SLOW = "3 calls in a row took more than 1000 ms of CPU time"
IDLE = "it claimed progress 3 times in a row and made none"


def bypassed(paths: Paths, text: str) -> None:
    files(Path(paths.root), {"proc/sys/vm/bpf_oom_bypassed": text})


def test_a_bypass_lasts_for_a_time(paths: Paths) -> None:
    """FAULTS.md B8 and B9: when, until when and why, of the very link that is loaded."""
    now = time.time()
    bypassed(paths, f"1 4000 16000 {SLOW}\n7 60000 0 {IDLE}\nrubbish\n8 x 1 y\n\n")
    found = bypasses(paths)
    assert {link: (each.reason, each.lasts) for link, each in found.items()} == {1: (SLOW, True), 7: (IDLE, False)}
    assert abs(found[1].time - (now - 4)) < 2 and abs(found[1].until - (now + 16)) < 2
    wanted = policy()
    (why,) = told(paths, wanted)
    assert (why.id, why.whole) == ("bypassed", True)
    begin, end = (time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(each)) for each in (found[1].time, found[1].until))
    assert why.cause.startswith("the kernel bypasses it from ") and why.cause.endswith(f"UTC, as {SLOW}")
    assert len(begin) == len(end) and " to " in why.cause
    # One that has been loaded anew since has another link, and one whose bypass is over acts.
    assert told(paths, wanted, held(paths, wanted, link_id=2)) == []
    assert told(paths, wanted, held(paths, wanted, link_id=7)) == []


@pytest.mark.parametrize("text", ["", "\n"])
def test_nobody_is_bypassed(paths: Paths, text: str) -> None:
    bypassed(paths, text)
    assert bypasses(paths) == {} and told(paths, policy()) == []


def test_a_policy_that_was_detached(paths: Paths) -> None:
    wanted = policy()
    (why,) = told(paths, wanted, held(paths, wanted, detached=True, problem="it is detached"))
    assert (why.id, why.whole) == ("detached", True) and "bpf-oom apply" in why.remedy


# ---------------------------------------------------------------- everybody who tells of a policy


@pytest.fixture
def engine(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A host on which policies of both kinds are persisted and loaded as wanted."""
    if os.geteuid() != 0:
        pytest.fail("the engine is for root: run these tests as root")
    for name in ("var/lib", "run"):
        (Path(paths.root) / name).mkdir(parents=True)
    wanted = [policy(), policy("psi", ["/t/*"], name="pressure")]
    writer = Writer(paths)
    writer.put_object(wanted[0].inputs, OBJECT)
    writer.switch(wanted)
    for each in wanted:
        files(Path(paths.root), {paths.pin(each.name)[len(paths.root) + 1 :]: ""})
    made = Engine(paths, Library(minimum=(1, 0)))
    made.held = {each.name: held(paths, each) for each in wanted}  # type: ignore[attr-defined]
    monkeypatch.setattr(made, "read", lambda name, new=False: made.held[name])  # type: ignore[attr-defined]
    monkeypatch.setattr(Capability, "blocking", lambda _self, _kind: [])
    return made


def status(engine: Engine, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    assert main(["status", "--json"], engine) == OK
    found = json.loads(capsys.readouterr().out)["policies"]
    assert main(["status"], engine) == OK
    return found, capsys.readouterr().out


def test_the_status_of_policies_that_act(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    found, said = status(engine, capsys)
    for name in ("leaf", "pressure"):
        assert found[name]["active"] and not found[name]["why"] and found[name]["reasons"] == found[name]["limits"] == []
        assert found[name]["bypassed"] is None
    assert "leaf (oom, order 100, largest_leaf): active\n" in said and "NOT" not in said


def test_the_status_of_policies_that_do_not_always_act(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    """CASES.md 23 and 21."""
    files(Path(engine.paths.root), {"proc/sys/vm/panic_on_oom": "1\n", "sys/fs/cgroup/t/a/cgroup.pressure": "0\n"})
    found, said = status(engine, capsys)
    for name, begins in (("leaf", "vm.panic_on_oom is 1"), ("pressure", "Pressure is not watched in /t/a")):
        assert found[name]["active"] and found[name]["why"] == ""
        (sentence,) = found[name]["limits"]
        assert sentence.startswith(begins) and f"  NOT ALWAYS: {sentence}\n" in said
        (reason,) = found[name]["reasons"]
        assert (reason["whole"], reason["sentence"]) == (False, sentence) and reason["id"] in REASONS


def test_the_status_of_policies_that_never_act(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    bypassed(engine.paths, f"7 60000 20000 {SLOW}\n")
    engine.held["leaf"].link_id = 7  # type: ignore[attr-defined]
    files(Path(engine.paths.root), {f"sys/fs/cgroup/t/{name}/cgroup.pressure": "0\n" for name in "ab"})
    found, said = status(engine, capsys)
    assert not found["leaf"]["active"] and not found["pressure"]["active"]
    assert found["leaf"]["why"].startswith("the kernel bypasses it from ") and SLOW in found["leaf"]["why"]
    # It is loaded as wanted: nobody has to load it anew.
    assert found["leaf"]["drift"] == []
    assert found["leaf"]["bypassed"]["reason"] == SLOW and abs(found["leaf"]["bypassed"]["time"] - time.time() + 60) < 2
    assert abs(found["leaf"]["bypassed"]["until"] - time.time() - 20) < 2
    assert [each["id"] for each in found["leaf"]["reasons"]] == ["bypassed"]
    assert [each["id"] for each in found["pressure"]["reasons"]] == ["pressure_off"]
    assert f"leaf (oom, order 100, largest_leaf): NOT ACTIVE: {found['leaf']['why']}\n" in said
    assert "pressure (psi, order 100, largest_leaf): NOT ACTIVE: pressure is not watched in /t/a, /t/b" in said


def test_who_is_not_watched_for_a_lasting_reason_is_no_drift(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    """Each run would load the policy anew, and it would be the same."""
    files(Path(engine.paths.root), {"sys/fs/cgroup/t/a/cgroup.pressure": "0\n"})
    pressure = engine.held["pressure"]  # type: ignore[attr-defined]
    pressure.watched = {os.stat(f"{engine.paths.cgroup}/t/b").st_ino}
    assert status(engine, capsys)[0]["pressure"]["drift"] == []
    files(Path(engine.paths.root), {"sys/fs/cgroup/t/a/cgroup.pressure": "1\n"})
    (drift,) = status(engine, capsys)[0]["pressure"]["drift"]
    assert "does not watch the cgroup /t/a" in drift
    pressure.watched |= set(range(10**9, 10**9 + 255))
    found = status(engine, capsys)[0]["pressure"]
    assert found["drift"] == [] and "has room for no more, and leaves out /t/a" in found["limits"][0]


@pytest.mark.parametrize("check", [True, False])
def test_a_play_warns_of_each_reason(engine: Engine, check: bool) -> None:
    files(Path(engine.paths.root), {"proc/sys/vm/panic_on_oom": "2\n", "sys/fs/cgroup/t/a/cgroup.pressure": "0\n"})
    stored = engine.store.read_set().manifests
    with engine.locked(check):
        survey, wish = engine.survey(), Wish(stored, set(stored), set())
        outcome = engine.foretell(survey, wish, {}) if check else change.apply(engine, survey, wish, {})
    assert [warning.split(", ")[0] for warning in outcome.warnings] == [
        "Policy 'leaf' is not active: vm.panic_on_oom is 2",
        "Policy 'pressure' is not active: vm.panic_on_oom is 2",
        "Policy 'pressure' does not always act: pressure is not watched in /t/a",
    ]
    assert [outcome.policies[name]["active"] for name in stored] == [False, False]
