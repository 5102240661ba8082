# SPDX-License-Identifier: GPL-3.0-or-later
"""The kill log: who chose a victim, what is written down, and that nobody is counted twice or forgotten."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.text import as_text
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.tracefs import Mark
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops import kill_log
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.kill_log import (
    CGROUPS_MAX,
    NOBODY,
    OTHERS,
    UNKNOWN,
    Kill,
    KillLog,
    Totals,
    forget,
    join,
    journal_entry,
    journal_fields,
    metrics,
    parse_totals,
    undecided,
)
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.records import Record
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths
from prometheus_client.parser import text_string_to_metric_families

TEXTFILE = "/var/lib/exporter/bpf_oom.prom"


def decision(**changes: Any) -> dict[str, Any]:
    ranked = {"verdict": "chosen", "cgroup": "/big", "pid": None}
    found = {"seq": 1, "time_ns": 1000, "spent_ns": 500, "trigger": "memcg", "scope": "/a", "mode": "enforce"}
    made = {**found, "outcome": "killed", "ranked": [ranked], "died": [], **changes}
    return {"died_in_all": len(made["died"]), **made}


def died(pid: int, cgroup: str = "/a/b") -> dict[str, Any]:
    return {"pid": pid, "comm": "hog", "cgroup": cgroup, "cgroup_id": 3, "oom_score_adj": 0}


def record(*decisions: dict[str, Any], writing: tuple[int, ...] = (), full: bool = False) -> Record:
    return Record(list(decisions), list(writing), {"nr_calls": 9, "nr_passes": 2, "nr_errors": 1}, full)


def victim(ns: int = 1200, pid: int = 5, **changes: Any) -> Mark:
    return Mark(ns, pid, 1, changes.pop("comm", "hog"), {"anon_rss": 2048, "oom_score_adj": 0}, tgid=pid, **changes)


def test_who_chose_is_whose_decision_was_being_made() -> None:
    other = decision(time_ns=1600, died=[died(6)])
    kill = join(victim(), {"leaf": record(decision(died=[died(5)]), other), "late": record(other)})
    assert (kill.policy, kill.cgroup, kill.decision["time_ns"]) == ("leaf", "/a/b", 1000)


def test_also_when_more_died_than_the_decision_lists() -> None:
    kill = join(victim(pid=99), {"leaf": record(decision(died=[died(5)]))})
    assert (kill.policy, kill.cgroup) == ("leaf", "/big")
    one = [{"verdict": "chosen", "cgroup": "/big", "pid": 5}]
    assert join(victim(pid=99), {"leaf": record(decision(ranked=one, died=[died(5)]))}).cgroup == ""


def test_a_policy_that_passed_on_chose_nobody() -> None:
    passed = decision(outcome="no_victim", died=[died(5)])
    kill = join(victim(ns=1700), {"leaf": record(passed)})
    assert (kill.policy, kill.cgroup, kill.decision) == (NOBODY, "/a/b", passed)


def test_what_an_observer_would_have_done_stands_beside_it() -> None:
    records = {"leaf": record(decision()), "rehearsal": record(decision(mode="observe", outcome="observed", died=[died(5)]))}
    kill = join(victim(), records)
    assert (kill.policy, kill.observers) == ("leaf", ["rehearsal would have chosen /big"])


def test_who_declared_the_oom_is_told_apart_from_who_chose() -> None:
    pressure = decision(trigger="pressure", outcome="declared", time_ns=900, spent_ns=5000, died=[died(5)])
    kill = join(victim(), {"leaf": record(decision()), "pressure": record(pressure)})
    assert (kill.policy, kill.declared_by) == ("leaf", "pressure")


def test_somebody_elses_victim_in_the_time_of_a_declared_oom_is_not_its() -> None:
    pressure = decision(trigger="pressure", outcome="declared", scope="/a", time_ns=900, spent_ns=5000, died=[died(5)])
    assert join(victim(pid=9, cgroup="/b"), {"pressure": record(pressure)}).declared_by == ""
    # Of more victims than it lists those count that are in its scope.
    many = {**pressure, "died_in_all": 9}
    assert join(victim(pid=9, cgroup="/a/x"), {"pressure": record(many)}).declared_by == "pressure"
    assert join(victim(pid=9, cgroup="/ab"), {"pressure": record(many)}).declared_by == ""


def test_of_two_decisions_with_the_same_pid_the_newer_counts() -> None:
    old = decision(outcome="no_victim", time_ns=100, seq=1, died=[died(5, "/old")])
    new = decision(outcome="no_victim", time_ns=1000, seq=2, died=[died(5, "/new")])
    for both in ([old, new], [new, old]):
        kill = join(victim(ns=1700), {"leaf": record(*both)})
        assert (kill.cgroup, kill.decision["seq"]) == ("/new", 2)


def test_what_the_record_has_forgotten_is_not_called_the_kernels_choice() -> None:
    assert join(victim(ns=10), {"leaf": record(decision(), full=True)}).policy == UNKNOWN
    assert join(victim(ns=10), {"leaf": record(decision(), full=False)}).policy == NOBODY


def test_a_decision_in_the_making_is_waited_for() -> None:
    assert undecided(victim(ns=1200), [record(writing=(1100,))])
    assert not undecided(victim(ns=1200), [record(writing=(1300,))])


def test_a_newline_in_a_name_adds_no_journal_field() -> None:
    fields = journal_fields(Kill(victim(comm="x\nBPF_OOM_POLICY=forged"), policy="leaf", cgroup="/a\nMESSAGE=y"))
    entry = journal_entry(fields)
    text = b"x\nBPF_OOM_POLICY=forged"
    assert b"BPF_OOM_COMM\n" + struct.pack("<Q", len(text)) + text + b"\n" in entry
    assert "\n" not in fields["MESSAGE"] and "?" in fields["MESSAGE"]
    assert entry.count(b"\nBPF_OOM_POLICY=leaf\n") == 1


def test_the_message_says_who_died_where_and_why() -> None:
    kill = join(victim(), {"leaf": record(decision(died=[died(5)]))})
    fields = journal_fields(kill)
    assert fields["MESSAGE"] == "OOM killed hog[5] in /a/b, 2.0 MiB resident: policy leaf chose it"
    assert (fields["BPF_OOM_POLICY"], fields["BPF_OOM_TRIGGER"], fields["BPF_OOM_SCOPE"]) == ("leaf", "memcg", "/a")


def test_metrics_escape_names_and_have_every_number() -> None:
    totals = Totals(lost=3, kills={"leaf": {'/a"\\\n': 2}}, last={"leaf": 12.5})
    text = metrics(totals, {"leaf": record()})
    assert 'bpf_oom_kills_total{policy="leaf",cgroup="/a\\"\\\\\\n"} 2' in text.splitlines()
    assert "bpf_oom_kill_log_lost_total 3" in text
    assert 'bpf_oom_last_kill_timestamp_seconds{policy="leaf"} 12.500' in text
    assert 'bpf_oom_policy_passes_total{policy="leaf"} 2' in text
    assert 'bpf_oom_policy_errors_total{policy="leaf"} 1' in text


NAMES = [b"/a.slice/db\\x2d1.service", b'/a:b c"d*', b"/x\xff", b"/x\xfe", b"/x\\xff", "/x\ufffd".encode()]
NAMES += [b"/x\\n", b"/x\r", b"/x\x1b[2J", b"/x ", b"/x"]


def test_the_official_parser_reads_every_name_back(paths: Paths, buffer: Buffer, journal: socket.socket) -> None:
    """CASES.md 26: two names that differ in one byte that is no UTF-8 were one, from whichever source they came."""
    names = [as_text(name) for name in NAMES]
    buffer.waiting = [victim(pid=5 + number, cgroup=name) for number, name in enumerate(names)]
    start(paths).look()
    text = Path(paths.at(TEXTFILE)).read_bytes().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    series = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples]
    assert len(set(series)) == len(series)
    found = {sample.labels["cgroup"]: sample.value for sample in samples if sample.name == "bpf_oom_kills_total"}
    assert found == dict.fromkeys(names, 1.0) and len(found) == len(NAMES)


def test_cgroups_without_end_share_one_number() -> None:
    totals = Totals()
    for number in range(CGROUPS_MAX + 5):
        totals.count(Kill(victim(), policy="leaf", cgroup=f"/pod{number}"), 1.0)
    assert totals.kills["leaf"][OTHERS] == 5 and len(totals.kills["leaf"]) == CGROUPS_MAX + 1
    assert sum(totals.kills["leaf"].values()) == CGROUPS_MAX + 5
    assert f"/pod{CGROUPS_MAX + 4}" in totals.kills["leaf"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}x",
        '{"unknown": 1}',
        '{"lost": -1}',
        '{"lost": "1"}',
        '{"kills": []}',
        '{"kills": {"a": {"b": "c"}}}',
        "[" * 5000,
    ],
)
def test_a_damaged_state_is_an_empty_one(text: str) -> None:
    assert parse_totals(text) == Totals()


class Buffer:
    """A trace instance: what is in it, and what was read from it since it was made."""

    fresh = False

    def __init__(self) -> None:
        self.waiting: list[Mark] = []
        self.taken = self.overrun = 0

    def read(self) -> list[Mark]:
        found, self.waiting = self.waiting, []
        self.taken += len(found)
        return found

    def counts(self) -> tuple[int, int]:
        return self.taken, self.overrun


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    for name in ("proc/sys/kernel/random", "var/lib/exporter", "run/systemd/journal"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("this boot\n")
    return Paths(str(tmp_path))


@pytest.fixture
def buffer(monkeypatch: pytest.MonkeyPatch) -> Buffer:
    made = Buffer()
    monkeypatch.setattr(kill_log, "Victims", lambda _paths, _name: made)
    monkeypatch.setattr(kill_log, "read_records", lambda _lib, _paths: {})
    return made


@pytest.fixture
def journal(paths: Paths) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(paths.at("/run/systemd/journal/socket"))
        listener.settimeout(5)
        yield listener


LOGS: list[KillLog] = []


def start(paths: Paths, status: Sequence[str] = ()) -> KillLog:
    """A new service; the one before it has ended."""
    while LOGS:
        with contextlib.suppress(OSError):
            os.close(LOGS.pop()._lock)
    LOGS.append(KillLog(paths, TEXTFILE, lib=object(), status=status))  # type: ignore[arg-type]
    return LOGS[-1]


def total(paths: Paths, what: str) -> int:
    lines = [line for line in paths.read(TEXTFILE).splitlines() if line.startswith(what)]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


def test_a_victim_reaches_journal_and_textfile(paths: Paths, buffer: Buffer, journal: socket.socket) -> None:
    log = start(paths)
    buffer.waiting = [victim(cgroup="/a")]
    log.look()
    assert b"BPF_OOM_CGROUP=/a\n" in journal.recv(65536)
    assert f'bpf_oom_kills_total{{policy="{NOBODY}",cgroup="/a"}} 1' in paths.read(TEXTFILE)
    assert os.stat(paths.at(TEXTFILE)).st_mode & 0o777 == 0o644


def test_numbers_go_on_after_a_restart(paths: Paths, buffer: Buffer, journal: socket.socket) -> None:
    buffer.waiting = [victim(), victim(pid=6)]
    start(paths).look()
    buffer.waiting = [victim(pid=7)]  # while nobody ran
    start(paths).look()
    assert (total(paths, "bpf_oom_kills_total"), total(paths, "bpf_oom_kill_log_lost_total")) == (3, 0)


def test_what_a_killed_service_had_read_counts_as_lost(paths: Paths, buffer: Buffer, journal: socket.socket) -> None:
    start(paths).look()
    buffer.waiting = [victim()]
    buffer.read()
    log = start(paths)
    log.look()
    assert (total(paths, "bpf_oom_kills_total"), total(paths, "bpf_oom_kill_log_lost_total")) == (0, 1)
    log.look()
    assert total(paths, "bpf_oom_kill_log_lost_total") == 1


def test_what_nobody_could_read_in_time_counts_as_lost(paths: Paths, buffer: Buffer, journal: socket.socket) -> None:
    log = start(paths)
    buffer.overrun = 4
    log.look()
    buffer.overrun = 6
    log.look()
    assert total(paths, "bpf_oom_kill_log_lost_total") == 6


def test_another_boot_begins_anew_and_keeps_the_totals(paths: Paths, buffer: Buffer, journal: socket.socket) -> None:
    buffer.waiting = [victim()]
    start(paths).look()
    Path(paths.at("/proc/sys/kernel/random/boot_id")).write_text("the next boot\n")
    buffer.taken, buffer.waiting = 0, [victim()]
    start(paths).look()
    assert (total(paths, "bpf_oom_kills_total"), total(paths, "bpf_oom_kill_log_lost_total")) == (2, 0)


def test_without_a_journal_the_numbers_are_right_and_say_so(paths: Paths, buffer: Buffer) -> None:
    log = start(paths)
    buffer.waiting = [victim()]
    log.look()
    assert (total(paths, "bpf_oom_kills_total"), total(paths, "bpf_oom_kill_log_unsent_total")) == (1, 1)


def test_the_textfiles_directory_must_be_safe(paths: Paths, buffer: Buffer) -> None:
    directory = Path(paths.at("/var/lib/exporter"))
    directory.chmod(0o777)
    with pytest.raises(BpfOomError, match="written by everybody"):
        start(paths)
    directory.rmdir()
    directory.symlink_to("/etc")
    with pytest.raises(BpfOomError, match="at 'exporter'"):
        start(paths)


def test_only_one_runs(paths: Paths, buffer: Buffer) -> None:
    start(paths)
    with pytest.raises(BpfOomError, match="runs on this host already"):
        KillLog(paths, TEXTFILE, lib=object())  # type: ignore[arg-type]


def test_a_textfile_that_cannot_be_written_stops_nothing(paths: Paths, buffer: Buffer, journal: socket.socket) -> None:
    log = start(paths)
    directory = Path(paths.at("/var/lib/exporter"))
    (directory / ".bpf_oom.prom.new").mkdir()
    buffer.waiting = [victim(cgroup="/a")]
    log.look()
    assert b"BPF_OOM_CGROUP=/a\n" in journal.recv(65536)
    assert b"the textfile cannot be written" in journal.recv(65536)
    shutil.rmtree(directory)
    log.look()
    directory.mkdir()
    log.look()
    assert total(paths, "bpf_oom_kills_total") == 1


def test_a_round_that_fails_forgets_nobody(
    paths: Paths, buffer: Buffer, journal: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = start(paths)
    buffer.waiting = [victim()]
    with monkeypatch.context() as broken:
        broken.setattr(kill_log, "read_records", lambda _lib, _paths: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            log.look()
    log.look()
    assert total(paths, "bpf_oom_kills_total") == 1


def test_a_victim_that_cannot_be_told_of_takes_nobody_along(
    paths: Paths, buffer: Buffer, journal: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = start(paths)
    buffer.waiting = [victim(pid=5), victim(pid=6), victim(pid=7)]
    whole = kill_log.journal_fields
    with monkeypatch.context() as broken:
        broken.setattr(kill_log, "journal_fields", lambda kill: whole(kill) if kill.mark.pid == 5 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            log.look()
    log.look()
    assert total(paths, "bpf_oom_kills_total") == 3


def test_a_link_in_the_place_of_the_textfile_is_replaced_not_followed(
    paths: Paths, buffer: Buffer, journal: socket.socket, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text("precious")
    Path(paths.at(TEXTFILE)).symlink_to(other)
    start(paths).look()
    assert other.read_text() == "precious"
    assert not Path(paths.at(TEXTFILE)).is_symlink()


def test_forgetting_leaves_nothing(paths: Paths, buffer: Buffer, journal: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    start(paths).look()
    monkeypatch.undo()
    forget(paths, TEXTFILE)
    assert not os.path.exists(paths.at(TEXTFILE)) and not os.path.exists(paths.at("/var/lib/linuxmm-bpf-oom-kill-log"))
    forget(paths, TEXTFILE)


def test_the_state_is_valid_json_that_only_root_reads(paths: Paths, buffer: Buffer, journal: socket.socket) -> None:
    start(paths).look()
    path = Path(paths.at("/var/lib/linuxmm-bpf-oom-kill-log/state.json"))
    assert json.loads(path.read_text())["boot"] == "this boot"
    assert path.stat().st_mode & 0o777 == 0o600


# ---------------------------------------------------------------- whether the policies act

SLOW = "3 calls in a row took more than 1000 ms of CPU time"


def standing(*reasons: tuple[str, bool], when: float | None = None) -> dict[str, Any]:
    told = [{"id": identity, "whole": whole, "sentence": "X; y."} for identity, whole in reasons]
    bypassed = None if when is None else {"reason": SLOW, "time": when, "until": when + 20}
    return {"active": not any(whole for _identity, whole in reasons), "reasons": told, "bypassed": bypassed}


def saying(file: Path, policies: dict[str, Any] | None = None) -> list[str]:
    """A command that says what `bpf-oom status --json` would, as the file has it when it is asked."""
    file.write_text(json.dumps({"policies": policies or {}}))
    return [sys.executable, "-c", "import sys; print(open(sys.argv[1]).read())", str(file)]


def until(log: KillLog, there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        log.look()
        time.sleep(0.02)


def test_metrics_of_who_acts_and_why_not() -> None:
    """Rule 5 and FAULTS.md B8: a policy that cannot act showed in the status alone."""
    policies = {
        "acts": standing(),
        "partly": standing(("panic_on_oom", False), ("memory_controller", False), ("memory_controller", False)),
        "gone": standing(("drift", True), ("bypassed", True), when=1e9),
    }
    text = metrics(Totals(), {}, policies)
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("bpf_oom_policy_")
    }
    assert samples == {
        ("bpf_oom_policy_active", "acts"): 1,
        ("bpf_oom_policy_active", "partly"): 1,
        ("bpf_oom_policy_active", "gone"): 0,
        ("bpf_oom_policy_inactive_reason", "panic_on_oom", "part", "partly"): 1,
        ("bpf_oom_policy_inactive_reason", "memory_controller", "part", "partly"): 1,
        ("bpf_oom_policy_inactive_reason", "drift", "gone", "whole"): 1,
        ("bpf_oom_policy_inactive_reason", "bypassed", "gone", "whole"): 1,
        ("bpf_oom_policy_bypassed_timestamp_seconds", "gone"): 1e9,
    }
    assert text.count("partly") == 3, "a series twice"
    # What is not known is not there, rather than 0.
    assert "policy_active" not in metrics(Totals(), {})


def test_a_bypass_reaches_journal_and_textfile_once(paths: Paths, buffer: Buffer, journal: socket.socket, tmp_path: Path) -> None:
    command = saying(tmp_path / "status", {"leaf": standing(("bypassed", True), when=1e9)})
    log = start(paths, command)
    until(log, lambda: "policy_active" in paths.read(TEXTFILE) if os.path.exists(paths.at(TEXTFILE)) else False)
    entry = journal.recv(65536).decode()
    times = "from 2001-09-09 01:46:40 UTC to 2001-09-09 01:47:00 UTC"
    assert f"MESSAGE=The kernel has bypassed policy leaf {times}, as {SLOW};" in entry
    assert "\nBPF_OOM_POLICY=leaf\n" in entry and f"\nBPF_OOM_BYPASS_REASON={SLOW}\n" in entry
    assert 'bpf_oom_policy_active{policy="leaf"} 0' in paths.read(TEXTFILE)
    # Neither the next look nor the next service tells it again, whatever the clocks did meanwhile; another bypass is told.
    for when, more in ((1e9 + 3, 0), (1e9 + 3600, 1)):
        saying(tmp_path / "status", {"leaf": standing(("bypassed", True), when=when)})
        log = start(paths, command)
        until(log, lambda log=log: log._standing.policies is not None)
        log.look()
        journal.setblocking(False)
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(journal.recv(65536))
        assert len(found) == more
        assert log._totals.bypassed == {"leaf": 1e9 + 3600 if more else 1e9}


def test_a_bypass_that_the_journal_did_not_take_is_told_later(paths: Paths, buffer: Buffer, tmp_path: Path) -> None:
    command = saying(tmp_path / "status", {"leaf": standing(("bypassed", True), when=1e9)})
    log = start(paths, command)
    until(log, lambda: log._standing.policies is not None)
    assert log._totals.bypassed == {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(paths.at("/run/systemd/journal/socket"))
        log.look()
        assert b"BPF_OOM_BYPASS_REASON" in listener.recv(65536)
    assert log._totals.bypassed == {"leaf": 1e9}


@pytest.mark.parametrize(
    "program",
    [
        """print('{"policies": {}}'); raise SystemExit(1)""",
        "print('nonsense')",
        "print('[]')",
        "print('{}')",
    ],
)
def test_a_status_that_is_not_to_be_had_stops_nothing(paths: Paths, buffer: Buffer, journal: socket.socket, program: str) -> None:
    log = start(paths, [sys.executable, "-c", program])
    until(log, lambda: "status" in log._failing)
    assert b"whether the policies act is not known" in journal.recv(65536).lower()
    buffer.waiting = [victim(cgroup="/a")]
    log.look()
    assert total(paths, "bpf_oom_kills_total") == 1
    assert "policy_active" not in paths.read(TEXTFILE)
    # It is asked again when it is time, and not before.
    assert log._standing._child is None and log._standing._due > time.monotonic()


def test_a_status_that_takes_long_is_not_waited_for(paths: Paths, buffer: Buffer, journal: socket.socket) -> None:
    log = start(paths, [sys.executable, "-c", "import time; time.sleep(600)"])
    log.look()
    child = log._standing._child
    assert child is not None and child.poll() is None
    buffer.waiting = [victim(cgroup="/a")]
    log.look()
    assert total(paths, "bpf_oom_kills_total") == 1
    log._standing._begun -= 200
    log.look()
    assert "status" in log._failing and child.poll() is not None
