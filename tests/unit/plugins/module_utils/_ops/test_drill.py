# SPDX-License-Identifier: GPL-3.0-or-later
"""The drill: what it refuses, what it believes, and that it cannot reach anybody else."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.params import covers
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops import drill as _drill
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.drill import (
    Drill,
    Result,
    answering,
    check_drill,
    judge,
    refuse,
)
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.records import Record
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.witness import Witness
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.manifest import Manifest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.store import StoredSet
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.module_utils.common import manifest

ASKED: dict[str, Any] = {
    "kind": "memcg",
    "parent": "/",
    "processes": None,
    "limit_mib": None,
    "expect": ["largest"],
    "policy": None,
    "witness": "auto",
    "timeout": 60,
}


def asked(**changes: Any) -> Drill:
    return check_drill({**ASKED, **changes})


def policy(name: str = "leaf", kind: str = "oom", scope: tuple[str, ...] = (), mode: str = "enforce") -> Manifest:
    params = {
        "scope": {"type": "selectors", "value": list(scope)},
        "mode": {"type": "choice", "value": mode, "number": int(mode == "observe")},
    }
    return manifest(name=name, kind=kind, params=params)


def test_by_default_the_last_one_does_not_fit() -> None:
    drill = asked()
    assert (drill.path, drill.limit_mib, sum(each["mib"] for each in drill.processes)) == ("/bpf-oom-drill", 80, 100)
    assert asked(parent="/a.slice").path == "/a.slice/bpf-oom-drill"


def one(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "a", "mib": 10, "oom_score_adj": 0, **changes}, {"name": "largest", "mib": 20}]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parent": "relative"}, "is not absolute"),
        ({"parent": "/a/../b"}, "component '..'"),
        ({"parent": "/a*"}, "is a glob"),
        ({"parent": "/a\nb"}, "newline or a zero byte"),
        ({"processes": one(name="../x")}, "can be no process"),
        ({"processes": one(name="cgroup.procs")}, "can be no process"),
        ({"processes": one(name="x" * 16)}, "can be no process"),
        ({"processes": one(name="a\nb")}, "can be no process"),
        ({"processes": one(name="largest")}, "two processes called largest"),
        ({"processes": one(mib=0)}, "has 0 MiB"),
        ({"processes": one(mib=-5)}, "has -5 MiB"),
        ({"processes": one(oom_score_adj=1001)}, "oom_score_adj 1001"),
        ({"processes": [{"name": f"p{number}", "mib": 1} for number in range(65)]}, "65 processes"),
        ({"limit_mib": 100}, "want 100 MiB"),
        ({"limit_mib": 3}, "limit is 3 MiB"),
        ({"expect": []}, "expects nobody"),
        ({"expect": ["stranger"]}, "expects stranger"),
        ({"expect": ["guarded"]}, "which -1000 forbids"),
        ({"processes": [*one(), {"name": "g", "mib": 30, "oom_score_adj": -1000}], "limit_mib": 30}, "do not fit the limit"),
        ({"timeout": 0}, "timeout is 0"),
    ],
)
def test_a_drill_that_cannot_be(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BpfOomError, match=says) as caught:
        asked(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("glob", "path", "below", "expected"),
    [
        ("/", "/a", True, True),
        ("/", "/a", False, False),
        ("/", "/", False, True),
        ("/a", "/a/b", True, True),
        ("/a", "/ab", True, False),
        ("/a/*", "/a/b", False, True),
        ("/a/*", "/a/b/c", False, False),
        ("/a/*.service", "/a/x.service/y", True, True),
        ("/a.c", "/abc", True, False),
        ("/a\\x2db", "/a\\x2db", False, True),
        ("/a?", "/a\n", False, True),
        ("/??", "/\u00e9", False, True),
        ("/?", "/\u00e9", False, False),
        ("/a?", "/a\udcff", False, True),
        ("/a/*", "/a", True, False),
    ],
)
def test_scopes_are_read_as_the_policies_read_them(glob: str, path: str, below: bool, expected: bool) -> None:
    assert covers(glob, path, below) == expected


def test_who_answers_for_the_scratch_cgroup() -> None:
    found = [
        policy("all"),
        policy("slice", scope=("/a.slice",)),
        policy("other", scope=("/b",)),
        policy("above", kind="psi", scope=("/a.slice",)),
        policy("itself", kind="psi", scope=("/a.slice/*",)),
    ]
    drill = asked(parent="/a.slice")
    assert [each.name for each in answering(drill, found, "oom")] == ["all", "slice"]
    assert [each.name for each in answering(drill, found, "psi")] == ["itself"]


class Engine:
    """What a drill asks of a host."""

    def __init__(self, root: Path, *policies: Manifest, drift: tuple[str, ...] = ()) -> None:
        self.paths = Paths(str(root))
        self._drift = drift
        self.stored = StoredSet({each.name: each for each in policies})
        self.others: list[dict[str, Any]] = []

    def foreign(self, _survey: Any) -> list[dict[str, Any]]:
        return self.others

    def describe(self, _survey: Any) -> dict[str, Any]:
        return {
            name: {
                "kind": each.kind,
                "loaded": True,
                "drift": ["gone"] if name in self._drift else [],
                "why": "gone" if name in self._drift else "",
                "observing": each.params["mode"]["value"] == "observe",
            }
            for name, each in self.stored.manifests.items()
        }


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_drill, "describe", Engine.describe)
    for name in ("proc/sys/vm", "sys/fs/cgroup/a.slice/b.slice"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "proc/sys/vm/panic_on_oom").write_text("1\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 900000 kB\nMemAvailable: 800000 kB\n")
    (tmp_path / "sys/fs/cgroup/cgroup.subtree_control").write_text("cpu memory\n")
    for name in ("a.slice", "a.slice/b.slice"):
        limits(tmp_path, name)
    return tmp_path


def limits(root: Path, name: str, maximum: str = "max", high: str = "max", control: str = "memory") -> None:
    directory = root / "sys/fs/cgroup" / name
    (directory / "memory.max").write_text(f"{maximum}\n")
    (directory / "memory.high").write_text(f"{high}\n")
    (directory / "memory.current").write_text("1048576\n")
    (directory / "cgroup.subtree_control").write_text(f"{control}\n")


def refused(root: Path, drill: Drill, *policies: Manifest, others: Any = (), **changes: Any) -> str:
    engine: Any = Engine(root, *policies, **changes)
    engine.others = list(others)
    with pytest.raises(BpfOomError) as caught:
        refuse(engine, engine, drill)
    return str(caught.value)


def accepted(root: Path, drill: Drill, *policies: Manifest) -> bool:
    engine: Any = Engine(root, *policies)
    return refuse(engine, engine, drill)


def test_a_drill_that_an_active_policy_answers_for(root: Path) -> None:
    assert accepted(root, asked(), policy())
    assert accepted(root, asked(policy="leaf", parent="/a.slice/b.slice"), policy(scope=("/a.slice",)))
    # One that only watches may be there as well.
    assert accepted(root, asked(), policy("first", mode="observe"), policy("second"))


def test_no_policy_to_drill(root: Path) -> None:
    assert "no active oom policy answers for /bpf-oom-drill" in refused(root, asked()).lower()
    assert "no active oom policy" in refused(root, asked(), policy(scope=("/b",))).lower()
    assert "no active oom policy" in refused(root, asked(), policy(), drift=("leaf",)).lower()


def test_a_policy_that_only_observes_would_make_the_result_meaningless(root: Path) -> None:
    assert "it observes" in refused(root, asked(), policy(mode="observe"))
    assert "observes and kills nobody" in refused(root, asked(policy="leaf"), policy(mode="observe"), policy("other"))


def test_the_policy_that_is_named(root: Path) -> None:
    assert "no policy 'leaf'" in refused(root, asked(policy="leaf"), policy("other"))
    assert "does not answer for" in refused(root, asked(policy="leaf"), policy(scope=("/b",)))
    assert "is not active: gone" in refused(root, asked(policy="leaf"), policy(), policy("other"), drift=("leaf",))
    assert "answers for pressure" in refused(root, asked(policy="p"), policy("p", kind="psi"), policy())


def test_pressure_needs_a_policy_that_watches_the_scratch_cgroup_and_nobody_above(root: Path) -> None:
    drill = asked(kind="pressure", parent="/a.slice")
    itself = policy("itself", kind="psi", scope=("/a.slice/bpf-oom-*",))
    assert accepted(root, drill, itself, policy()) is True
    assert accepted(root, drill, itself) is False
    assert "no active psi policy" in refused(root, drill, policy()).lower()
    for scope in ((), ("/",), ("/a.slice",), ("/*",)):
        assert "might kill outside" in refused(root, drill, itself, policy("above", kind="psi", scope=scope))
    assert accepted(root, drill, itself, policy("above", kind="psi", scope=(), mode="observe")) is False
    assert accepted(root, drill, itself, policy("beside", kind="psi", scope=("/b.slice",))) is False


@pytest.mark.parametrize("kind", ["memcg", "pressure"])
def test_a_pressure_policy_of_which_nobody_is_sure_what_it_watches(root: Path, kind: str) -> None:
    itself = policy("itself", kind="psi", scope=("/bpf-oom-drill",))
    drill = asked(kind=kind)
    assert accepted(root, drill, itself, policy())
    assert "is not sure: gone" in refused(root, drill, itself, policy("p", kind="psi", scope=("/b",)), policy(), drift=("p",))
    others = [{"name": "x", "kind": "psi", "map_id": 3, "link_id": None}]
    assert "nobody knows what it watches" in refused(root, drill, itself, policy(), others=others)
    assert "might kill outside" in refused(root, drill, itself, policy("above", kind="psi"), policy())


@pytest.mark.parametrize("value", ["2", "", "x"])
def test_a_host_that_a_memcg_oom_would_end(root: Path, value: str) -> None:
    (root / "proc/sys/vm/panic_on_oom").write_text(value)
    assert "would end the machine" in refused(root, asked(), policy())


def test_too_little_memory_on_the_host(root: Path) -> None:
    (root / "proc/meminfo").write_text("MemTotal: 900000 kB\nMemAvailable: 100000 kB\n")
    assert "97 MiB are available and the drill wants 152 MiB" in refused(root, asked(), policy())


@pytest.mark.parametrize("limit", ["maximum", "high"])
def test_a_limit_further_up_that_would_be_hit_first(root: Path, limit: str) -> None:
    limits(root, "a.slice", **{limit: str(150 << 20)})
    assert "of /a.slice leaves 149 MiB" in refused(root, asked(parent="/a.slice/b.slice"), policy())


def test_a_parent_without_memory_controller(root: Path) -> None:
    limits(root, "a.slice", control="cpu")
    assert "no memory controller" in refused(root, asked(parent="/a.slice"), policy())
    assert "cannot be used" in refused(root, asked(parent="/missing"), policy())


class Dead:
    """A process after a drill."""

    def __init__(self, name: str, pid: int, exit: int | None = None) -> None:
        self.name, self.pid, self.exit, self.died_ns = name, pid, exit, 3_000_000 if exit is not None else 0


def seen(**changes: Any) -> Result:
    witness = Witness()
    witness.marks = {5: 2_000_000}
    decision = {
        "seq": 1, "time_ns": 1_000_000, "spent_ns": 1_500_000, "trigger": "memcg", "scope": "/bpf-oom-drill",
        "mode": "enforce", "outcome": "killed", "ranked": [], "died_in_all": 1,
        "died": [{"pid": 5, "cgroup": "/bpf-oom-drill/largest"}],
    }  # fmt: skip
    processes: Any = [Dead("bait", 4), Dead("largest", 5, -signal.SIGKILL), Dead("second", 6)]
    found = Result(processes, witness, {"leaf": Record([decision], [], {}, False)}, {"largest": 1})
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def failures(drill: Drill, result: Result, chooses: bool = True) -> list[str]:
    report = judge(drill, result, chooses)
    wrong = [proof["claim"] for proof in report["proofs"] if not proof["holds"]]
    assert report["passed"] == (not wrong)
    return wrong


def test_a_drill_that_went_as_expected() -> None:
    assert failures(asked(policy="leaf"), seen()) == []
    (victim,) = judge(asked(), seen(), True)["victims"]
    assert (victim["policy"], victim["chosen_ms"], victim["latency_ms"]) == ("leaf", 1.0, 2.0)


def test_somebody_else_died() -> None:
    processes: Any = [Dead("bait", 5, -signal.SIGKILL), Dead("largest", 4), Dead("second", 6)]
    wrong = failures(asked(), seen(processes=processes, kills={"bait": 1}))
    assert wrong == ["largest died, nobody else"]


def test_one_more_died() -> None:
    processes: Any = [Dead("bait", 4, -signal.SIGKILL), Dead("largest", 5, -signal.SIGKILL)]
    assert "largest died, nobody else" in failures(asked(), seen(processes=processes))


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"kills": {}}, "memory.events.local says oom_kill 1"),
        ({"kills": {"largest": 2}}, "memory.events.local says oom_kill 1"),
        ({"kills": {"largest": 1, "second": 1}}, "it lives, and nothing was killed"),
        ({"records": {}}, "a policy chose it"),
        ({"timed_out": "nobody died"}, "came to its end"),
        ({"processes": [Dead("largest", 5, 1)]}, "wait status is SIGKILL"),
        ({"witness": Witness()}, "saw oom:mark_victim"),
    ],
)
def test_a_kill_without_one_of_its_proofs_is_none(changes: dict[str, Any], claim: str) -> None:
    assert any(claim in wrong for wrong in failures(asked(), seen(**changes)))


def test_another_policy_than_the_named_one_chose() -> None:
    assert failures(asked(policy="other"), seen()) == ["largest: that was other"]


def test_pressure_has_to_be_declared_by_a_policy() -> None:
    drill = asked(kind="pressure")
    assert failures(drill, seen()) == ["largest: by its record a pressure policy declared the OOM"]


def test_others_that_were_killed_meanwhile_are_told() -> None:
    result = seen()
    result.witness.marks[77] = 1
    assert judge(asked(), result, True)["bystanders"] == [77]


def test_a_check_makes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = Engine(root, policy())
    made.survey = lambda: made
    made.locked = _Unlocked
    monkeypatch.setattr(_drill, "carry_out", pytest.fail)
    result = _drill.run_drill(ASKED, True, made)
    assert result["skipped"] and not result["changed"]
    assert "largest 30 MiB adj 0, second 20 MiB adj 0, and expect that largest die" in result["msg"]
    assert not (root / "sys/fs/cgroup/bpf-oom-drill").exists()


class _Unlocked:
    def __init__(self, _check: bool) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
