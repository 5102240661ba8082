# SPDX-License-Identifier: GPL-3.0-or-later
"""The kill log: every OOM victim of the host, joined with the decision that chose it, to the journal and to Prometheus.

Victims come from a trace instance of our own, which goes on while the service restarts, so that nobody is missed. What could
not be read in time, or was read by a service that was killed before it wrote it down, is counted as lost.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .._common.errors import BpfOomError, printable
from .._kernel.libbpf import Library
from .._kernel.tracefs import Mark, Victims
from .._store.paths import Paths
from .._store.store import open_directory
from .._store.writer import write_atomic
from .decisions import readable
from .records import Record, read_records
from .standing import Policies, Standing

INSTANCE = "linuxmm_bpf_oom"
STATE = "/var/lib/linuxmm-bpf-oom-kill-log"
TEXTFILE = "/var/lib/prometheus/node-exporter/bpf_oom.prom"
#: The unit's message catalogue id of a kill, for `journalctl MESSAGE_ID=`.
MESSAGE_ID = "5c0f6a4e0a4b4f0c9d1c7e0f52a86a1b"
#: And of a bypass.
BYPASS_ID = "b8a2e3f14c5d4d0f9a6be1c27d3f9e54"
#: Whom no policy's record claims: the kernel's own choice, or that of a policy that keeps no record.
NOBODY = "(none)"
#: The record that would tell has been overwritten.
UNKNOWN = "(unknown)"
OTHERS = "(other)"
#: So many cgroups of a policy have a number of their own; cgroups come and go, a time series each would never end.
CGROUPS_MAX = 500
#: A decision that is not whole after so long will never be, s.
_PATIENCE = 10.0
#: Two looks at one bypass differ by less, whatever sets the day's clock; the shortest bypass lasts as long, s.
_SAME_BYPASS = 10.0
_REFRESH = 15.0  # the counters of the policies are looked at so often, s


@dataclass
class Kill:
    """A victim, who chose it and what is on record of that."""

    mark: Mark
    policy: str = NOBODY
    declared_by: str = ""
    cgroup: str = ""
    decision: dict[str, Any] = field(default_factory=dict)
    declaration: dict[str, Any] = field(default_factory=dict)  # the decision of who declared it
    observers: list[str] = field(default_factory=list)  # what policies in observe mode would have done


def read_readable(lib: Library, paths: Paths) -> dict[str, Record]:
    """What every policy keeps, its decisions readable ones."""
    found = read_records(lib, paths)
    for record in found.values():
        record.decisions = [readable(each) for each in record.decisions]
    return found


def _covers(decision: Mapping[str, Any], mark: Mark) -> bool:
    return bool(decision["time_ns"] <= mark.ns <= decision["time_ns"] + decision["spent_ns"])


def _casualty(decision: Mapping[str, Any], mark: Mark) -> Mapping[str, Any] | None:
    """The victim among those that the decision lists. A pid comes back in the end, so only the newest decision with it counts."""
    ours = (each for each in decision["died"] if each["pid"] in (mark.pid, mark.tgid))
    return next(ours, None) if 0 <= mark.ns - decision["time_ns"] < 600 * 10**9 else None


def _declared(decision: Mapping[str, Any], mark: Mark, cgroup: str) -> bool:
    """Whether a pressure policy's OOM took the victim: it waits for others' OOMs to end, so its time alone says nothing."""
    if decision["outcome"] != "declared" or not _covers(decision, mark):
        return False
    if _casualty(decision, mark):
        return True
    if decision["died_in_all"] <= len(decision["died"]):
        return False
    scope = decision["scope"].rstrip("/")
    return not scope or cgroup == scope or cgroup.startswith(f"{scope}/")


def join(mark: Mark, records: Mapping[str, Record]) -> Kill:
    """Whoever chose a victim did so between the begin and the end of a decision, as the kernel decides one OOM at a time.

    The decisions of `records` are readable ones.
    """
    kill = Kill(mark, cgroup=mark.cgroup)
    named: dict[str, Any] = {}
    for name, record in sorted(records.items()):
        if record.full and record.decisions and min(each["time_ns"] for each in record.decisions) > mark.ns:
            kill.policy = UNKNOWN if kill.policy == NOBODY else kill.policy
        newest: dict[str, Any] = {}
        for decision in record.decisions:
            casualty = _casualty(decision, mark)
            if casualty and decision["time_ns"] > newest.get("time_ns", 0):
                newest = decision
            if decision["trigger"] != "pressure" and _covers(decision, mark) and decision["outcome"] == "killed":
                kill.policy, kill.decision = name, decision
        if newest:
            casualty = _casualty(newest, mark) or {}
            kill.cgroup = casualty["cgroup"] or kill.cgroup
            if newest["trigger"] != "pressure" and newest["mode"] == "observe":
                kill.observers.append(f"{name} would have chosen {_choice(newest)}")
            named = named or newest
    if not kill.cgroup and kill.policy not in (NOBODY, UNKNOWN):
        # A decision lists the first victims only; of a cgroup that was killed as a whole that says enough.
        chosen = [each for each in kill.decision["ranked"] if each["verdict"] == "chosen"]
        kill.cgroup = chosen[0]["cgroup"] if chosen and chosen[0]["pid"] is None else ""
    for name, record in sorted(records.items()):
        for decision in record.decisions:
            if decision["trigger"] == "pressure" and _declared(decision, mark, kill.cgroup):
                kill.declared_by, kill.declaration = name, decision
    kill.decision = kill.decision or named
    return kill


def _choice(decision: Mapping[str, Any]) -> str:
    for each in decision["ranked"]:
        if each["verdict"] == "chosen":
            return f"{each['cgroup']}" + (f" process {each['pid']}" if each["pid"] else "")
    return "nobody"


def undecided(mark: Mark, records: Iterable[Record]) -> bool:
    """Whether a decision that may be about the victim is still being written."""
    return any(begun <= mark.ns for record in records for begun in record.writing)


def journal_fields(kill: Kill) -> dict[str, str]:
    mark, decision = kill.mark, kill.decision
    by = {NOBODY: "no policy of ours chose it", UNKNOWN: "which policy chose it is no longer on record"}.get(
        kill.policy, f"policy {kill.policy} chose it"
    )
    rss = sum(value for name, value in mark.numbers.items() if name.endswith("_rss"))
    size = f", {rss / 1024:.1f} MiB resident" if rss else ""
    declared = f", pressure policy {kill.declared_by} declared the OOM" if kill.declared_by else ""
    watched = "".join(f"; {each}" for each in kill.observers)
    found = {
        "MESSAGE": f"OOM killed {mark.comm or 'process'}[{mark.tgid}] in {kill.cgroup or 'a cgroup that is gone'}{size}:"
        f" {by}{declared}{watched}",
        "MESSAGE_ID": MESSAGE_ID,
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "bpf-oom",
        "BPF_OOM_POLICY": kill.policy,
        "BPF_OOM_PID": str(mark.tgid),
        "BPF_OOM_COMM": mark.comm,
        "BPF_OOM_CGROUP": kill.cgroup,
        "BPF_OOM_TIME_NS": str(mark.ns),
    }
    found.update({f"BPF_OOM_{name.upper()}": str(value) for name, value in mark.numbers.items() if name.isidentifier()})
    if decision:
        found["BPF_OOM_TRIGGER"] = decision["trigger"]
        found["BPF_OOM_SCOPE"] = decision["scope"] or "/"
        found["BPF_OOM_DECISION"] = str(decision["seq"])
    if kill.declared_by:
        found["BPF_OOM_DECLARED_BY"] = kill.declared_by
    if kill.observers:
        found["BPF_OOM_OBSERVED"] = "; ".join(kill.observers)
    found["MESSAGE"] = "".join(letter if letter.isprintable() else "?" for letter in found["MESSAGE"])
    return found


def bypass_fields(policy: str, reason: str, when: float, until: float) -> dict[str, str]:
    """The journal entry of a policy that the kernel has bypassed; `when` and `until` are seconds since 1970."""
    begin, end = (time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(each)) for each in (when, until))
    return {
        "MESSAGE": printable(
            f"The kernel has bypassed policy {policy} from {begin} to {end}, as {reason}; the next time is longer"
        ),
        "MESSAGE_ID": BYPASS_ID,
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "bpf-oom",
        "BPF_OOM_POLICY": policy,
        "BPF_OOM_BYPASS_REASON": reason,
        "BPF_OOM_BYPASS_TIME": f"{when:.3f}",
    }


def journal_entry(fields: Mapping[str, str]) -> bytes:
    """The journal's native protocol: a value with a newline is sent with its length, so nobody can add a field."""
    entry = b""
    for name, value in fields.items():
        raw = value.encode("utf-8", "replace")
        if b"\n" in raw:
            entry += name.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n"
        else:
            entry += name.encode() + b"=" + raw + b"\n"
    return entry


@dataclass
class Totals:
    """What outlives a restart of the service: counts since it first ran."""

    boot: str = ""
    taken: int = 0  # read from this boot's trace instance and written down
    overrun: int = 0  # of this boot's trace instance, in `lost` already
    lost: int = 0
    unsent: int = 0  # journal entries that the journal did not take
    kills: dict[str, dict[str, int]] = field(default_factory=dict)  # by policy and cgroup
    last: dict[str, float] = field(default_factory=dict)  # seconds since 1970, by policy
    bypassed: dict[str, float] = field(default_factory=dict)  # the last bypass told of, seconds since 1970, by policy

    def count(self, kill: Kill, when: float) -> None:
        cgroups = self.kills.setdefault(kill.policy, {})
        cgroup = kill.cgroup or UNKNOWN
        if cgroup not in cgroups and len(cgroups) >= CGROUPS_MAX:
            # The one that grew least makes room, so that nobody's throw-away cgroups displace all that come later.
            least = min((name for name in cgroups if name != OTHERS), key=lambda name: cgroups[name])
            cgroups[OTHERS] = cgroups.get(OTHERS, 0) + cgroups.pop(least)
        cgroups[cgroup] = cgroups.get(cgroup, 0) + 1
        self.last[kill.policy] = max(when, self.last.get(kill.policy, 0.0))


def parse_totals(text: str) -> Totals:
    """A damaged state is an empty one: a kill log that does not start helps nobody."""
    try:
        data = json.loads(text)
        found = Totals(**data)
        numbers = [found.taken, found.overrun, found.lost, found.unsent]
        numbers += [number for cgroups in found.kills.values() for number in cgroups.values()]
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            return Totals()
        times = [*found.last.values(), *found.bypassed.values()]
        if not all(isinstance(number, (int, float)) for number in times) or not isinstance(found.boot, str):
            return Totals()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Totals()
    return found


_COUNTERS = {
    "calls": "times that the policy was asked",
    "passes": "times that the policy left it to the next one",
    "errors": "times that the kernel refused something to the policy that should have worked",
    "decisions": "decisions on record since the policy was first loaded",
    "observed": "times that the policy would have acted but for mode: observe",
    "cooldowns": "times that the policy paused",
    "declared": "OOMs that the policy declared and of which somebody died",
}


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def metrics(totals: Totals, records: Mapping[str, Record], policies: Policies | None = None) -> str:
    """The text exposition format of Prometheus; `policies` as policy_info has them, None: whether they act is not known."""
    lines = []

    def metric(name: str, kind: str, text: str, samples: Sequence[tuple[str, Any]]) -> None:
        lines.extend([f"# HELP bpf_oom_{name} {text}", f"# TYPE bpf_oom_{name} {kind}"])
        lines.extend(f"bpf_oom_{name}{labels} {value}" for labels, value in samples)

    pairs = [
        (f'{{policy="{_label(policy)}",cgroup="{_label(cgroup)}"}}', number)
        for policy, cgroups in sorted(totals.kills.items())
        for cgroup, number in sorted(cgroups.items())
    ]
    metric("kills_total", "counter", "OOM victims by the policy that chose them and their cgroup.", pairs)
    last = [(f'{{policy="{_label(policy)}"}}', f"{when:.3f}") for policy, when in sorted(totals.last.items())]
    metric("last_kill_timestamp_seconds", "gauge", "When the policy's last victim was killed.", last)
    metric("kill_log_lost_total", "counter", "OOM victims that the kill log could not read in time.", [("", totals.lost)])
    metric("kill_log_unsent_total", "counter", "Entries that the journal did not take.", [("", totals.unsent)])
    for name, text in _COUNTERS.items():
        samples = [
            (f'{{policy="{_label(policy)}"}}', record.counters[f"nr_{name}"])
            for policy, record in sorted(records.items())
            if f"nr_{name}" in record.counters
        ]
        metric(f"policy_{name}_total", "counter", text.capitalize() + ".", samples)
    if policies is not None:
        _standing(metric, policies)
    return "\n".join(lines) + "\n"


def _standing(metric: Callable[[str, str, str, Sequence[tuple[str, Any]]], None], policies: Policies) -> None:
    def each(key: str) -> list[tuple[str, Any]]:
        return [(f'policy="{_label(name)}"', policy[key]) for name, policy in sorted(policies.items())]

    metric(
        "policy_active",
        "gauge",
        "Whether the policy is loaded as wanted and acts.",
        [(f"{{{label}}}", int(active)) for label, active in each("active")],
    )
    # Several of one kind, such as two files that lack the memory controller, are one.
    reasons = [
        (f'{{{label},reason="{_label(identity)}",extent="{extent}"}}', 1)
        for label, told in each("reasons")
        for identity, extent in sorted({(reason["id"], "whole" if reason["whole"] else "part") for reason in told})
    ]
    metric("policy_inactive_reason", "gauge", "Why the policy never acts (whole), or not always (part).", reasons)
    metric(
        "policy_bypassed_timestamp_seconds",
        "gauge",
        "When the kernel bypassed the policy last.",
        [(f"{{{label}}}", f"{bypass['time']:.3f}") for label, bypass in each("bypassed") if bypass],
    )


def _walk(directory: str) -> int:
    """Open the directory of the textfile, which may be the exporter's own: no link on the way, so nobody leads us elsewhere."""
    number = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in [name for name in directory.split("/") if name]:
        try:
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=number)
        except OSError as error:
            raise BpfOomError(
                f"the textfile's directory {directory} cannot be used: {os.strerror(error.errno or 0)} at '{name}'",
                "make it, or name another one; symbolic links are not followed",
            ) from None
        finally:
            os.close(number)
        number = inner
    if os.fstat(number).st_mode & stat.S_IWOTH:
        os.close(number)
        raise BpfOomError(f"the textfile's directory {directory} can be written by everybody", "name another one")
    return number


class KillLog:
    def __init__(self, paths: Paths, textfile: str = TEXTFILE, lib: Library | None = None, status: Sequence[str] = ()) -> None:
        """`status` is the command that says whether the policies act, see Standing."""
        self._paths = paths
        self._textfile = paths.at(textfile) if textfile else ""
        self._state = paths.at(STATE)
        self._lib = lib or Library()
        self._boot = paths.read("/proc/sys/kernel/random/boot_id").strip()
        self._held: list[Mark] = []
        self._standing = Standing(status)
        self._written: dict[str, str] = {}
        self._failing: set[str] = set()
        self._stuck = False  # the journal did not take an entry of this round
        self._journal: socket.socket | None = None
        if self._textfile:
            os.close(_walk(os.path.dirname(self._textfile)))  # refused before anything is traced
        os.makedirs(self._state, mode=0o700, exist_ok=True)
        self._lock = open_directory(self._state)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BpfOomError("a kill log runs on this host already", "stop it first: systemctl stop bpf-oom-kill-log") from None
        try:
            self._totals = parse_totals(paths.read(f"{STATE}/state.json"))
        except FileNotFoundError:
            self._totals = Totals()
        self._victims = Victims(paths, INSTANCE)
        if self._victims.fresh or self._totals.boot != self._boot:
            self._totals.boot, self._totals.taken, self._totals.overrun = self._boot, 0, 0
        # What another service read and did not write down, as it was killed in between.
        taken, _overrun = self._victims.counts()
        self._totals.lost += max(0, taken - self._totals.taken)
        self._totals.taken = taken

    def run(self) -> None:
        """Until SIGTERM or SIGINT; then what has happened is written down."""
        stopping: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda got, _frame: stopping.append(got))
        # A signal that comes between the look at `stopping` and poll() must wake poll().
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        signal.set_wakeup_fd(writer.fileno())
        self._victims.wake_for(reader.fileno())
        self.look()
        notify_ready()
        while not stopping:
            self._victims.wait(0.05 if self._held else _REFRESH)
            self.look()
        # A decision of the last victims may still be in the making.
        until = time.monotonic() + _PATIENCE
        while self._held and time.monotonic() < until:
            time.sleep(0.05)
            self.look()
        self.close()

    def close(self) -> None:
        """The trace instance goes on and keeps what happens for the next one."""
        self._victims.close()
        self._standing.close()
        os.close(self._lock)

    def look(self) -> None:
        """One round: read, join, write down. What fails is tried again in the next; nobody is forgotten meanwhile."""
        self._stuck = False
        self._held += self._victims.read()
        records = read_readable(self._lib, self._paths)
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        waiting: list[Mark] = []
        try:
            while self._held:
                mark = self._held[0]
                if undecided(mark, records.values()) and now - mark.ns < _PATIENCE * 1e9:
                    waiting.append(self._held.pop(0))
                    continue
                kill = join(mark, records)
                if not self._send(journal_entry(journal_fields(kill))):
                    self._totals.unsent += 1
                self._totals.count(kill, time.time() - (now - mark.ns) / 1e9)
                self._totals.taken += 1
                self._held.pop(0)
        finally:
            self._held = waiting + self._held
        _taken, overrun = self._victims.counts()
        self._totals.lost += max(0, overrun - self._totals.overrun)
        self._totals.overrun = overrun
        self._look_at_policies()
        self._write(records)

    def _look_at_policies(self) -> None:
        try:
            self._standing.look()
            self._failing.discard("status")
        except BpfOomError as error:
            if "status" not in self._failing:
                self._failing.add("status")
                self._complain(str(error))
        for name, policy in (self._standing.policies or {}).items():
            bypass = policy["bypassed"]
            if not bypass or abs(bypass["time"] - self._totals.bypassed.get(name, 0.0)) < _SAME_BYPASS:
                continue
            if self._send(journal_entry(bypass_fields(name, bypass["reason"], bypass["time"], bypass["until"]))):
                self._totals.bypassed[name] = bypass["time"]

    def _write(self, records: Mapping[str, Record]) -> None:
        """The state and the textfile, each by itself: a full disk or an exporter that is gone takes neither the other nor us."""
        state = json.dumps(asdict(self._totals))
        text = metrics(self._totals, records, self._standing.policies)
        directory, name = os.path.split(self._textfile)
        wanted = [("state", state, self._state, "state.json")] + [("textfile", text, directory, name)] * bool(self._textfile)
        for what, content, place, file in wanted:
            if self._written.get(what) == content:
                continue
            try:
                number = open_directory(place) if what == "state" else _walk(place)
                self._replace(number, file, content.encode("utf-8", "replace"), 0o600 if what == "state" else 0o644)
                self._written[what] = content
                self._failing.discard(what)
            except (BpfOomError, OSError) as error:
                self._written.pop(what, None)
                if what not in self._failing:
                    self._failing.add(what)
                    self._complain(f"the {what} cannot be written, I go on without: {error}")

    def _complain(self, text: str) -> None:
        fields = {"MESSAGE": printable(text), "PRIORITY": "3", "SYSLOG_IDENTIFIER": "bpf-oom"}
        self._send(journal_entry(fields))

    @staticmethod
    def _replace(directory: int, name: str, data: bytes, mode: int) -> None:
        try:
            write_atomic(name, data, directory, mode)
        finally:
            os.close(directory)

    def _send(self, entry: bytes) -> bool:
        """Whether the journal has it. It waits for a busy journal, so that a burst is not lost, but once in a round only."""
        for _attempt in range(2):
            try:
                if self._journal is None:
                    self._journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                    self._journal.connect(self._paths.at("/run/systemd/journal/socket"))
                self._journal.settimeout(0.0 if self._stuck else 5.0)
                self._journal.send(entry)
                return True
            except (socket.timeout, BlockingIOError):
                self._stuck = True
                return False
            except OSError:
                # The journal was restarted, or there is none.
                if self._journal is not None:
                    self._journal.close()
                self._journal = None
        return False


def notify_ready() -> None:
    """Tell systemd that no victim is missed from now on (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
            notifier.connect("\0" + address[1:] if address.startswith("@") else address)
            notifier.send(b"READY=1")


def forget(paths: Paths, textfile: str) -> None:
    """Remove what the service leaves when it stops: its trace instance, its state and its textfile."""
    Victims.remove(paths, INSTANCE)
    try:
        for path in (
            f"{paths.at(STATE)}/state.json",
            f"{paths.at(STATE)}/.state.json.new",
            paths.at(textfile) if textfile else "",
        ):
            if path and os.path.lexists(path):
                os.unlink(path)
        if os.path.isdir(paths.at(STATE)):
            os.rmdir(paths.at(STATE))
    except OSError as error:
        raise BpfOomError(
            f"{error.filename} cannot be removed: {os.strerror(error.errno or 0)}", "see what else is there, and run again"
        ) from None


__all__ = [
    "Kill",
    "KillLog",
    "Totals",
    "bypass_fields",
    "forget",
    "join",
    "journal_entry",
    "journal_fields",
    "metrics",
    "parse_totals",
    "read_readable",
    "undecided",
]
