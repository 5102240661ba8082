# SPDX-License-Identifier: GPL-3.0-or-later
"""A drill: run out of memory on purpose in a scratch cgroup of our own, and see who dies.

Nothing outside can be touched: the scratch cgroup has limits of its own, below those of everything above it, and a memcg OOM
kills inside of the cgroup that is out of memory. A drill that cannot keep to that is refused before anything is made.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import mmap
import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._common.errors import BpfOomError, from_errno
from .._common.params import check_glob, check_meant, covers
from .._engine.describe import describe
from .._engine.drift import scope_globs
from .._engine.engine import Engine, Survey
from .._kernel.tracefs import Mark
from .._store.manifest import Manifest, sort_key
from .._store.paths import Paths
from .kill_log import NOBODY, UNKNOWN, Kill, join, read_readable, undecided
from .records import Record
from .witness import Witness, die_with_parent, open_witness

NAME = "bpf-oom-drill"
MIB = 1 << 20
#: What must stay free beside the drill: of the machine, and below each limit further up; and at least so much of either.
MARGIN_MIB = 64
MARGIN_PERCENT = 5
PROCESSES_MAX = 64
_PROCESS = re.compile(r"[a-z0-9][a-z0-9_-]{0,14}\Z")
_CLEAN_LIMIT = 30.0

#: Name, MiB, oom_score_adj; filled in this order, which decides who is largest when memory runs out.
TREE = (
    {"name": "bait", "mib": 10, "oom_score_adj": 1000},
    {"name": "guarded", "mib": 40, "oom_score_adj": -1000},
    {"name": "largest", "mib": 30, "oom_score_adj": 0},
    {"name": "second", "mib": 20, "oom_score_adj": 0},
)


@dataclass
class Drill:
    """What is asked for, checked."""

    kind: str
    parent: str  # path of the cgroup that the scratch cgroup is made in
    processes: list[dict[str, Any]]
    limit_mib: int
    expect: list[str]
    policy: str  # whose choice it must have been, "" for any
    witness: str
    timeout: float  # s

    @property
    def path(self) -> str:
        return f"{self.parent.rstrip('/')}/{NAME}"

    @property
    def need_mib(self) -> int:
        """What it may use at most, with the page tables and the stacks of its processes."""
        return self.ceiling_mib + 2 * len(self.processes)

    @property
    def ceiling_mib(self) -> int:
        """memory.max of the scratch cgroup. A drill of pressure is slowed down at its limit, and gets little further."""
        return self.limit_mib if self.kind == "memcg" else self.limit_mib + 32

    def words(self) -> str:
        tree = ", ".join(f"{each['name']} {each['mib']} MiB adj {each['oom_score_adj']}" for each in self.processes)
        return f"make the cgroup {self.path} of {self.limit_mib} MiB with {tree}, and expect that {', '.join(self.expect)} die"


def check_drill(params: Mapping[str, Any]) -> Drill:
    """A drill that can be carried out, or why it cannot."""
    parent = check_meant(check_glob(params["parent"]))
    if re.search(r"[*?]", parent):
        raise BpfOomError(f"the parent {parent!r} is a glob", "name one cgroup")
    processes = [dict(each) for each in params["processes"] or TREE]
    if len(processes) > PROCESSES_MAX:
        raise BpfOomError(f"the drill has {len(processes)} processes", f"give {PROCESSES_MAX} at most")
    names: set[str] = set()
    for each in processes:
        each["oom_score_adj"] = each.get("oom_score_adj") or 0
        if not _PROCESS.match(each["name"]) or "." in each["name"]:
            raise BpfOomError(
                f"{each['name']!r} can be no process of a drill", "use 1 to 15 lower-case letters, digits, '_' and '-'"
            )
        if each["name"] in names:
            raise BpfOomError(f"the drill has two processes called {each['name']}", "give each its own name")
        names.add(each["name"])
        if not 1 <= each["mib"] <= 1 << 20:
            raise BpfOomError(f"process {each['name']} has {each['mib']} MiB", "give 1 to 1048576 MiB")
        if not -1000 <= each["oom_score_adj"] <= 1000:
            raise BpfOomError(f"process {each['name']} has the oom_score_adj {each['oom_score_adj']}", "give -1000 to 1000")
    total = sum(each["mib"] for each in processes)
    kind = params["kind"]
    limit = params["limit_mib"]
    if limit is None:
        # Whoever comes last must not fit.
        limit = total - processes[-1]["mib"]
    if not 4 <= limit < total:
        raise BpfOomError(
            f"the limit is {limit} MiB and the processes want {total} MiB", "choose a limit of 4 MiB or more below that"
        )
    expect = list(dict.fromkeys(params["expect"]))
    unknown = [name for name in expect if name not in names]
    if unknown or not expect:
        raise BpfOomError(
            f"the drill expects {unknown[0] if unknown else 'nobody'} to die", f"name some of its processes: {', '.join(names)}"
        )
    spared = [each for each in processes if each["oom_score_adj"] == -1000]
    if any(each["name"] in expect for each in spared):
        raise BpfOomError(f"the drill expects {spared[0]['name']} to die, which -1000 forbids", "expect another one")
    # With nobody left to kill the kernel would look for somebody again and again.
    if sum(each["mib"] for each in spared) > limit - 4:
        raise BpfOomError(
            f"the processes with oom_score_adj -1000 do not fit the limit of {limit} MiB", "raise the limit, or make them smaller"
        )
    if params["timeout"] < 1:
        raise BpfOomError(f"the timeout is {params['timeout']} s", "give 1 s or more")
    return Drill(kind, parent, processes, limit, expect, params["policy"] or "", params["witness"], float(params["timeout"]))


# ---------------------------------------------------------------------- may it be done here?


def answering(drill: Drill, manifests: Sequence[Manifest], kind: str) -> list[Manifest]:
    """The policies that the kernel will ask about the scratch cgroup, in the order in which it asks."""
    found = []
    for manifest in sorted(manifests, key=sort_key):
        globs = scope_globs(manifest)
        if manifest.kind == kind == "oom" and (not globs or any(covers(glob, drill.path, below=True) for glob in globs)):
            found.append(manifest)
        if manifest.kind == kind == "psi" and any(covers(glob, drill.path, below=False) for glob in globs):
            found.append(manifest)
    return found


def _bystanders(drill: Drill, manifests: Sequence[Manifest]) -> list[str]:
    """Pressure policies that would kill outside: they watch the system, or a cgroup further up."""
    found = []
    parts = drill.path.split("/")
    above = ["/".join(parts[:length]) or "/" for length in range(1, len(parts))]
    for manifest in manifests:
        globs = scope_globs(manifest)
        if manifest.kind == "psi" and (not globs or any(covers(glob, path, below=False) for glob in globs for path in above)):
            found.append(manifest.name)
    return found


def refuse(engine: Engine, survey: Survey, drill: Drill) -> bool:
    """Nothing is made where the result would mean nothing, or where something else could be hit.

    Returns whether a policy will choose the victim; without one, an OOM that a pressure policy declares is the kernel's to solve.
    """
    described = describe(engine, survey)
    _refuse_panic(engine.paths)
    manifests = [each for name, each in survey.stored.manifests.items() if described[name]["loaded"]]
    asked = {kind: answering(drill, manifests, kind) for kind in ("psi", "oom")}
    sound = {kind: [each.name for each in found if _acts(described[each.name], each)] for kind, found in asked.items()}
    if drill.policy:
        _refuse_policy(drill, described, asked, sound)
    for kind in ("oom",) if drill.kind == "memcg" else ("psi", "oom"):
        observing = [each.name for each in asked[kind] if described[each.name]["observing"]]
        if not sound[kind] and observing:
            raise BpfOomError(
                f"of what answers for {drill.path} only policy '{observing[0]}' could act, and it observes",
                "drill a policy that enforces, or read its decisions",
            )
        if not sound[kind] and (kind == "psi" or drill.kind == "memcg"):
            raise BpfOomError(f"no active {kind} policy answers for {drill.path}", "choose a parent in the scope of one")
    _refuse_bystanders(engine, survey, drill, described)
    _refuse_memory(engine.paths, drill)
    return bool(sound["oom"])


def _refuse_bystanders(engine: Engine, survey: Survey, drill: Drill, described: Mapping[str, Mapping[str, Any]]) -> None:
    """A drill makes pressure above its cgroup, too. Whoever may declare an OOM there would kill outside."""
    stored = survey.stored.manifests
    for name, policy in sorted(described.items()):
        if policy["loaded"] and policy["kind"] != "oom" and (policy["drift"] or name not in stored):
            raise BpfOomError(
                f"what the pressure policy '{name}' watches is not sure: {policy['why']}", "run the play again, it mends that"
            )
    for foreign in engine.foreign(survey):
        if foreign["kind"] == "psi":
            raise BpfOomError(
                f"somebody else registered the pressure policy '{foreign['name']}', and nobody knows what it watches",
                "drill without it",
            )
    loaded = [stored[name] for name, policy in described.items() if policy["loaded"] and name in stored]
    outside = [name for name in _bystanders(drill, loaded) if _enforces(stored[name])]
    if outside:
        raise BpfOomError(
            f"policy '{outside[0]}' also watches what is above {drill.path} and might kill outside of it",
            "choose another parent, or drill without that policy",
        )


def _refuse_panic(paths: Paths) -> None:
    try:
        panics = paths.read("/proc/sys/vm/panic_on_oom").strip()
    except OSError:
        panics = "unknown"
    # 1 spares memcg OOMs and those that a policy declares for a cgroup.
    if panics not in ("0", "1"):
        raise BpfOomError(f"vm.panic_on_oom is {panics}, a drill would end the machine", "drill where it is 0 or 1")


def _refuse_policy(
    drill: Drill,
    described: Mapping[str, Mapping[str, Any]],
    asked: Mapping[str, Sequence[Manifest]],
    sound: Mapping[str, Sequence[str]],
) -> None:
    if drill.policy not in described:
        raise BpfOomError(f"there is no policy '{drill.policy}' on this host", "name one that is loaded")
    policy = described[drill.policy]
    if drill.kind == "memcg" and policy["kind"] == "psi":
        raise BpfOomError(f"policy '{drill.policy}' answers for pressure", "drill with kind: pressure")
    if not policy["loaded"] or policy["drift"]:
        raise BpfOomError(f"policy '{drill.policy}' is not active: {policy['why']}", "make it active first")
    if drill.policy not in [each.name for each in asked[policy["kind"]]]:
        raise BpfOomError(f"policy '{drill.policy}' does not answer for {drill.path}", "choose a parent in its scope")
    if drill.policy not in sound[policy["kind"]]:
        raise BpfOomError(f"policy '{drill.policy}' observes and kills nobody", "drill one that enforces, or read its decisions")


def _acts(policy: Mapping[str, Any], manifest: Manifest) -> bool:
    """Whether a policy that will be asked can act. One whose scope has nobody yet gets somebody with the scratch cgroup."""
    return bool(policy["loaded"] and not policy["drift"] and _enforces(manifest))


def _enforces(manifest: Manifest) -> bool:
    return bool(manifest.params.get("mode", {}).get("value", "enforce") == "enforce")


def _refuse_memory(paths: Paths, drill: Drill) -> None:
    try:
        meminfo = dict(re.findall(r"^(\w+):\s+(\d+) kB$", paths.read("/proc/meminfo"), re.MULTILINE))
        free, total = int(meminfo["MemAvailable"]) // 1024, int(meminfo["MemTotal"]) // 1024
    except (OSError, KeyError):
        raise BpfOomError("/proc/meminfo does not say how much memory is available", "see who hides it") from None
    want = drill.need_mib + max(MARGIN_MIB, total * MARGIN_PERCENT // 100)
    if free < want:
        raise BpfOomError(f"{free} MiB are available and the drill wants {want} MiB", "make it smaller, or free memory")
    parts = drill.path.split("/")
    for length in range(2, len(parts)):
        above = "/".join(parts[:length])
        for name in ("memory.max", "memory.high"):
            try:
                limit = paths.read(f"/sys/fs/cgroup{above}/{name}").strip()
                used = int(paths.read(f"/sys/fs/cgroup{above}/memory.current"))
            except OSError as error:
                raise BpfOomError(
                    f"the parent {drill.parent} cannot be used: {error.filename}: {os.strerror(error.errno or 0)}",
                    "name a cgroup that exists and has the memory controller",
                ) from None
            if limit == "max":
                continue
            most = drill.need_mib + max(MARGIN_MIB, int(limit) // MIB * MARGIN_PERCENT // 100)
            if int(limit) - used < most * MIB:
                raise BpfOomError(
                    f"{name} of {above} leaves {max(0, int(limit) - used) // MIB} MiB and the drill wants {most} MiB",
                    "choose another parent, or make the drill smaller",
                )
    control = paths.read(f"/sys/fs/cgroup{drill.parent.rstrip('/')}/cgroup.subtree_control").split()
    if "memory" not in control and drill.parent != "/":
        raise BpfOomError(
            f"the cgroups in {drill.parent} have no memory controller", "name a slice, or the cgroup of a delegated unit"
        )


# ---------------------------------------------------------------------- do it


def _fields(path: str) -> dict[str, int]:
    with open(path, encoding="ascii") as file:
        return {name: int(value) for name, value in (line.split() for line in file.read().splitlines())}


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


class Process:
    """Held back in a frozen cgroup of its own until it is told to fill its memory."""

    def __init__(self, tree: str, asked: Mapping[str, Any]) -> None:
        self.name, self.mib, self.adj = str(asked["name"]), int(asked["mib"]), int(asked["oom_score_adj"])
        self.cgroup = os.path.join(tree, self.name)
        os.mkdir(self.cgroup)
        self.cgroup_id = os.stat(self.cgroup).st_ino
        _write(os.path.join(self.cgroup, "cgroup.freeze"), "1")
        self._reader, writer = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._work(writer, parent)
        os.close(writer)
        self.filled = False
        self.exit: int | None = None
        self.died_ns = 0

    def held(self) -> bool:
        events = _fields(os.path.join(self.cgroup, "cgroup.events"))
        return bool(events["populated"] and events["frozen"])

    def _work(self, writer: int, parent: int) -> None:
        try:
            die_with_parent(parent)
            _write("/proc/self/oom_score_adj", str(self.adj))
            _write("/proc/self/comm", self.name)
            _write(os.path.join(self.cgroup, "cgroup.procs"), "0")
            memory = mmap.mmap(-1, self.mib * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for offset in range(0, len(memory), mmap.PAGESIZE):
                memory[offset] = 1
            os.write(writer, b"filled")
            while True:
                signal.pause()
        finally:
            os._exit(1)

    def thaw(self) -> None:
        _write(os.path.join(self.cgroup, "cgroup.freeze"), "0")

    def look(self) -> None:
        if not self.filled and select.select([self._reader], [], [], 0)[0]:
            self.filled = os.read(self._reader, 16) == b"filled"
        if self.exit is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.died_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                self.exit = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    @property
    def settled(self) -> bool:
        return self.filled or self.exit is not None

    def oom_kills(self) -> int:
        return _fields(os.path.join(self.cgroup, "memory.events.local")).get("oom_kill", 0)

    def close(self) -> None:
        if self.exit is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._reader)


def clean(paths: Paths, path: str) -> bool:
    """End what is in a scratch cgroup and remove it, also that of a drill that was killed; whether there was one."""
    tree = paths.cgroup + path
    if not os.path.isdir(tree):
        return False
    deadline = time.monotonic() + _CLEAN_LIMIT
    try:
        _write(os.path.join(tree, "cgroup.kill"), "1")
        for directory, _names, _files in os.walk(tree, topdown=False):
            while True:
                try:
                    os.rmdir(directory)
                    break
                except OSError as error:
                    # A killed process is there until it is reaped.
                    if error.errno != errno.EBUSY or time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
    except OSError as error:
        raise from_errno(f"the scratch cgroup {tree} cannot be removed", error.errno or 0) from None
    return True


@dataclass
class Result:
    """What was seen. `kills` is what memory.events.local says, by process."""

    processes: list[Process]
    witness: Witness
    records: dict[str, Record] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    timed_out: str = ""


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _clean_all(paths: Paths, drill: Drill) -> None:
    """Also what a drill that was killed has left elsewhere; where it was is noted in a directory that is root's alone."""
    note = os.path.join(paths.run, "drill")
    try:
        with open(note, encoding="utf-8") as file:
            left = file.read()
    except FileNotFoundError:
        left = ""
    if left.endswith(f"/{NAME}"):
        clean(paths, check_glob(left))
    clean(paths, drill.path)
    with open(note, "w", encoding="utf-8") as file:
        file.write(drill.path)


@contextlib.contextmanager
def _scratch(paths: Paths, drill: Drill) -> Iterator[str]:
    tree = paths.cgroup + drill.path
    try:
        _clean_all(paths, drill)
        if drill.parent == "/":
            _write(paths.cgroup + "/cgroup.subtree_control", "+memory")
        os.mkdir(tree)
        _write(f"{tree}/memory.max", str(drill.ceiling_mib * MIB))
        if drill.kind == "pressure":
            _write(f"{tree}/memory.high", str(drill.limit_mib * MIB))
        for name, value in (("memory.swap.max", "0"), ("pids.max", str(2 * PROCESSES_MAX))):
            if os.path.exists(f"{tree}/{name}"):  # missing where there is nothing to control
                _write(f"{tree}/{name}", value)
        _write(f"{tree}/cgroup.subtree_control", "+memory")
        yield tree
    except OSError as error:
        raise from_errno(f"the drill cannot use {error.filename or 'another process'}", error.errno or 0) from None
    finally:
        clean(paths, drill.path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(paths.run, "drill"))


def carry_out(engine: Engine, drill: Drill, witness: Witness) -> Result:
    """Everything that was seen; the scratch cgroup and all in it are gone afterwards, whatever happens."""
    result = Result([], witness)
    with _scratch(engine.paths, drill) as tree:
        # What is shared with us stays shared, so that the sizes are what was asked for.
        gc.collect()
        gc.freeze()
        try:
            for asked in drill.processes:
                result.processes.append(Process(tree, asked))
            _refuse_memory(engine.paths, drill)  # once more: others may have taken it
            _run(engine, drill, result)
        finally:
            for process in result.processes:
                process.close()
            gc.unfreeze()
    return result


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Whoever ends us lets us clean up."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(engine: Engine, drill: Drill, result: Result) -> None:
    processes, witness = result.processes, result.witness
    if not _wait(lambda: all(process.held() for process in processes), drill.timeout):
        result.timed_out = "its processes did not start"
        return

    def look() -> None:
        for process in processes:
            process.look()
        witness.look()

    def dead() -> list[str]:
        return [process.name for process in processes if process.exit is not None]

    for process in processes:
        process.thaw()

        def settled(current: Process = process) -> bool:
            look()
            # Pressure slows down the last, and its policy may end the drill before that is full.
            return current.settled or (drill.kind == "pressure" and set(drill.expect) <= set(dead()))

        if not _wait(settled, drill.timeout):
            result.timed_out = f"nobody died and {process.name} could not fill its memory"
            break

    def witnessed() -> bool:
        look()
        # Nobody is left who wants memory: whoever lives now will.
        return all(process.pid in witness.marks for process in processes if process.exit is not None)

    if not result.timed_out and not _wait(witnessed, drill.timeout):
        result.timed_out = f"{witness.kind} did not see everybody die who did"
    result.kills = {process.name: process.oom_kills() for process in processes}
    lib = engine.lib
    if lib is not None:

        def decided() -> bool:
            result.records = read_readable(lib, engine.paths)
            return not any(undecided(_mark(process, result), result.records.values()) for process in processes)

        _wait(decided, drill.timeout)


# ---------------------------------------------------------------------- was it right?


def _mark(process: Process, result: Result) -> Mark:
    return Mark(result.witness.marks.get(process.pid, 0), process.pid, 0, tgid=process.pid)


def judge(drill: Drill, result: Result, chooses: bool) -> dict[str, Any]:
    """The report: who died by whom, how fast, and each claim with what was seen."""
    proofs: list[dict[str, Any]] = []

    def claim(text: str, holds: bool, evidence: str) -> None:
        proofs.append({"claim": text, "holds": holds, "evidence": evidence})

    dead = sorted((each for each in result.processes if each.exit is not None), key=lambda each: each.died_ns)
    names = [each.name for each in dead]
    claim(f"{', '.join(drill.expect)} died, nobody else", sorted(names) == sorted(drill.expect), f"died: {names}")
    if result.timed_out:
        claim("the drill came to its end", False, f"waited {drill.timeout:g} s: {result.timed_out}")
    victims = []
    for process in dead:
        marked = process.pid in result.witness.marks
        kill = join(_mark(process, result), result.records) if marked else Kill(_mark(process, result))
        number = result.kills.get(process.name, 0)
        claim(f"{process.name}: its wait status is SIGKILL", process.exit == -signal.SIGKILL, f"exit {process.exit}")
        claim(f"{process.name}: {result.witness.kind} saw oom:mark_victim for it", marked, f"pid {process.pid}")
        claim(f"{process.name}: memory.events.local says oom_kill 1", number == 1, f"oom_kill {number}")
        if chooses:
            claim(f"{process.name}: by its record a policy chose it", kill.policy not in (NOBODY, UNKNOWN), kill.policy)
        if drill.kind == "pressure":
            claim(f"{process.name}: by its record a pressure policy declared the OOM", bool(kill.declared_by), kill.declared_by)
        if drill.policy:
            claim(
                f"{process.name}: that was {drill.policy}",
                drill.policy in (kill.policy, kill.declared_by),
                f"chosen by {kill.policy}" + (f", declared by {kill.declared_by}" if kill.declared_by else ""),
            )
        begin = (kill.declaration or kill.decision).get("time_ns") if marked else None
        victims.append(
            {
                "name": process.name,
                "pid": process.pid,
                "cgroup": f"{drill.path}/{process.name}",
                "policy": kill.policy,
                "declared_by": kill.declared_by,
                "chosen_ms": round((kill.mark.ns - begin) / 1e6, 1) if begin else None,
                "latency_ms": round((process.died_ns - begin) / 1e6, 1) if begin else None,
            }
        )
    for process in result.processes:
        if process.exit is None:
            number = result.kills.get(process.name, 0)
            claim(f"{process.name}: it lives, and nothing was killed in its cgroup", number == 0, f"oom_kill {number}")
    ours = {process.pid for process in result.processes}
    return {
        "passed": all(proof["holds"] for proof in proofs),
        "victims": victims,
        "proofs": proofs,
        "bystanders": sorted(set(result.witness.marks) - ours),
        "witness": result.witness.kind,
        "cgroup": drill.path,
    }


def run_drill(params: Mapping[str, Any], check: bool, engine: Engine | None = None) -> dict[str, Any]:
    """What the module drill returns. In a check nothing is made, but whatever would be refused is."""
    engine = engine or Engine()
    drill = check_drill(params)
    with engine.locked(check):
        refuse(engine, engine.survey(), drill)
    if check:
        return {"changed": False, "skipped": True, "msg": f"No drill in check mode; it would {drill.words()}."}
    with _ended_by_signals():
        # Before the lock, as bcc takes its time: the off switch must not wait for it. So the host is looked at again.
        witness, why = open_witness(engine.paths, drill.witness)
        try:
            with engine.locked(check):
                chooses = refuse(engine, engine.survey(), drill)
                result = carry_out(engine, drill, witness)
        finally:
            witness.close()
    report = judge(drill, result, chooses)
    warnings = [f"bcc could not be the witness: {why}"] if why else []
    if report["bystanders"]:
        pids = ", ".join(map(str, report["bystanders"]))
        warnings.append(f"Meanwhile the kernel killed others on this host, which the drill cannot reach: {pids}")
    return {**report, "changed": False, "warnings": warnings}


__all__ = ["Drill", "answering", "carry_out", "check_drill", "clean", "judge", "refuse", "run_drill"]
