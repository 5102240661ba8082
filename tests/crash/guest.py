# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends a change of the persisted set at every step it makes, and looks at what is there then.

guest.py sweep NAME     in the order of all steps: kill the change with SIGKILL at one, look, complete it, look again
guest.py count SET      change to the set, and note the steps
guest.py power N/CUTS   look at what the last power cut left, begin the other set, and stand still at a step for cut N

The first program of a machine that has Debian's files and none of its services. What it changes, the host's own code of the
collection changes, out of the packed command. A step is a system call that changes something that outlives the process: strace
counts them, and delivers the signal when the process enters one, that is, after all those before. Results are lines of JSON.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import functools
import json
import mmap
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
COMMAND = "/usr/lib/linuxmm-bpf-oom/bpf-oom.pyz"
LINK = "/usr/sbin/bpf-oom"
UNIT = pathlib.Path("/etc/systemd/system/bpf-oom.service")
WANTED = UNIT.parent / "basic.target.wants/bpf-oom.service"
LIMIT = 120.0  # seconds for any one condition; emulated machines are slow
MIB = 1 << 20

CALLS = (
    "mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,symlink,symlinkat,link,linkat,fsync,fdatasync,"
    "chmod,fchmod,fchown,ftruncate,truncate,write,pwrite64,writev,mount,umount2,bpf"
)
#: What of bpf() outlives the process; what it only holds open goes with it, and the rest only asks.
BPF_STEPS = ("BPF_OBJ_PIN", "BPF_LINK_CREATE", "BPF_LINK_UPDATE", "BPF_LINK_DETACH", "BPF_RAW_TRACEPOINT_OPEN")

sys.path.insert(0, str(HERE / "modules.zip"))

from bpf_oom._engine.drift import load_reasons  # type: ignore[import-not-found]  # noqa: E402
from bpf_oom._engine.engine import Engine  # type: ignore[import-not-found]  # noqa: E402
from bpf_oom._engine.reader import matching_cgroups  # type: ignore[import-not-found]  # noqa: E402
from bpf_oom._engine.run import run  # type: ignore[import-not-found]  # noqa: E402
from bpf_oom._ops import cli  # type: ignore[import-not-found]  # noqa: E402
from bpf_oom._ops.install import Installation  # type: ignore[import-not-found]  # noqa: E402
from bpf_oom._ops.report import boot_unit, report  # type: ignore[import-not-found]  # noqa: E402
from bpf_oom._store.manifest import digest, sort_key  # type: ignore[import-not-found]  # noqa: E402
from bpf_oom._store.paths import Paths  # type: ignore[import-not-found]  # noqa: E402

PATHS = Paths()
REQUESTS: dict[str, Any] = {"nothing": {"state": "absent"}, **json.loads((HERE / "requests.json").read_text())}
Manifests = dict[str, Any]


class Wrong(Exception):
    """What a change left that must not be."""


def insist(condition: object, what: str) -> None:
    if not condition:
        raise Wrong(what)


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + LIMIT
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise Wrong(f"waited {LIMIT:.0f} s in vain: {what}")
        time.sleep(0.01)
    return found


# ---------------------------------------------------------------------- what can be done, each in a process of its own


def change(name: str) -> Any:
    """What the module policy_set does on a host; the result of the module."""
    blobs = {path.stem: str(path) for path in (HERE / "objects").iterdir()}
    return run({**REQUESTS[name], "blobs": blobs}, check=False)


def command(name: str) -> Any:
    """What the module boot_cli does on a host."""
    path = HERE / f"{name}.pyz"
    wanted = digest(path.read_bytes())
    return Installation(COMMAND, [LINK]).ensure("present", wanted, {wanted: str(path)}, check=False)


def silently(work: Callable[[str], Any], name: str) -> Callable[[], None]:
    """The same without its result: how long that is must not change the number of steps."""
    return lambda: work(name) and None


def boot() -> Any:
    """What the boot unit does."""
    insist(cli.main(["apply"]) == 0, "`bpf-oom apply` failed")
    return {}


class Child:
    """A process that waits until it is told to do something, and its answer."""

    def __init__(self, work: Callable[[], Any]) -> None:
        waiting, self._go = os.pipe()
        self._answer, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._go)
            os.read(waiting, 1)
            try:
                text = json.dumps({"result": work()})
            except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is told
                text = json.dumps({"error": f"{error}\n{traceback.format_exc()}"})
            with os.fdopen(answer, "w") as file:
                file.write(text)
            os._exit(0)
        os.close(waiting)
        os.close(answer)

    def begin(self) -> None:
        os.write(self._go, b"g")
        os.close(self._go)

    def end(self) -> tuple[int, Any]:
        """Its exit status (minus the signal that killed it) and what it said."""
        with os.fdopen(self._answer) as file:
            text = file.read()
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return status, json.loads(text) if text else {}


def do(work: Callable[[], Any]) -> Any:
    child = Child(work)
    child.begin()
    status, said = child.end()
    if status or "error" in said:
        raise Wrong(f"it ended with {status} and said: {said.get('error')}")
    return said["result"]


class Trace:
    """A child whose calls strace counts; with a signal, which it gets when it enters the call of that name and number."""

    def __init__(self, work: Callable[[], Any], signal_name: str = "", at: tuple[str, int] = ("", 0)) -> None:
        self.child = Child(work)
        arguments = ["strace", "--quiet=attach,exit,personality", "--trace", CALLS, "--attach", str(self.child.pid)]
        if signal_name:
            arguments.append(f"--inject={at[0]}:signal={signal_name}:when={at[1]}")
        self._strace = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        status = pathlib.Path(f"/proc/{self.child.pid}/status")
        wait_for(lambda: not re.search(r"^TracerPid:\t0$", status.read_text(), re.MULTILINE), "strace to attach")
        self.child.begin()

    def lines(self) -> Iterator[str]:
        assert self._strace.stderr is not None
        yield from self._strace.stderr

    def end(self) -> tuple[list[str], int, Any]:
        """The calls as strace shows them, and how the child ended."""
        calls = [line for line in self.lines() if re.match(r"[a-z0-9_]+\(", line)]
        status, said = self.child.end()
        self._strace.wait()
        return calls, status, said


def kind(call: str) -> str:
    """The name of a call, and for bpf() its command: what must be the same in each run."""
    found = re.match(r"([a-z0-9_]+)\((BPF_[A-Z_]+)?", call)
    return " ".join(word for word in found.groups() if word) if found else call


def steps_of(calls: list[str]) -> list[tuple[str, int, str]]:
    """The steps among the calls, as strace counts them: name, how often it came until then, and the call itself.

    A call that fails changes nothing.
    """
    counts: collections.Counter[str] = collections.Counter()
    found = []
    for call in calls:
        name, _space, what = kind(call).partition(" ")
        counts[name] += 1
        if (name != "bpf" or what in BPF_STEPS) and " = -1 E" not in call:
            found.append((name, counts[name], call.strip()[:160]))
    return found


# ---------------------------------------------------------------------- what is there


@functools.cache
def library() -> Any:
    """One for all looks; it reads the kernel's BTF once."""
    lib = Engine().lib
    # libbpf tries some features of the kernel when first asked to make something, and remembers them: whether a child has that
    # from here would change the number of its calls.
    Engine(lib=lib).survey()
    return lib


def looking() -> Any:
    return Engine(lib=library())


def stored() -> Manifests:
    """The persisted set, which must be whole whenever one looks."""
    engine = looking()
    found = engine.store.read_set()
    insist(not found.problem and not found.broken, f"the persisted set is damaged: {found.problem} {found.broken}")
    for manifest in found.manifests.values():
        unusable = engine.store.object_problem(manifest)
        insist(not unusable, f"{manifest.name}: {unusable}")
    return dict(found.manifests)


def loaded_as(name: str, manifest: Any) -> list[str]:
    found = looking().read(name)
    return list(load_reasons(manifest, found, matching_cgroups(PATHS, [manifest])))


def look(old: Manifests, new: Manifests) -> str:
    """What was left is the old set or the new; what is in both has not stopped acting. Says which is persisted."""
    now = stored()
    insist(now in (old, new), f"{sorted(now)} is persisted, neither the old set nor the new")
    survey = looking().survey()
    for name in sorted(set(survey.loaded) | (set(old) & set(new))):
        choices = [each[name] for each in (old, new) if name in each]
        insist(choices, f"{name} is loaded, and in neither set")
        reasons = [loaded_as(name, each) for each in (choices if now != old else choices[:1])]
        insist([] in reasons, f"{name} is neither as it was nor as it shall be: {reasons}")
    if now == old:
        insist(set(survey.loaded) == set(old), f"{sorted(survey.loaded)} are loaded, and the old set is persisted")
    insist(boot_unit(PATHS) == {"installed": True, "enabled": True}, "the boot unit is not what it was")
    return "old" if now == old else "new"


def insist_all(wanted: Manifests) -> None:
    """Exactly this is persisted, loaded, in order, and nothing else is left."""
    insist(stored() == wanted, f"{sorted(stored())} is persisted, not {sorted(wanted)}")
    loaded_only(wanted)
    state = pathlib.Path(PATHS.state)
    there = sorted(str(path.relative_to(state)) for path in state.rglob("*") if not path.is_dir() or path.is_symlink())
    target = os.readlink(state / "current") if wanted else ""
    expected = [f"{target}/{name}.json" for name in wanted] + ["current"] if wanted else []
    expected += sorted({f"objects/{each.inputs}.o" for each in wanted.values()})
    insist(there == sorted(expected), f"the store holds {there}, not {sorted(expected)}")


def loaded_only(wanted: Manifests) -> None:
    survey = looking().survey()
    insist(set(survey.loaded) == set(wanted), f"{sorted(survey.loaded)} are loaded, not {sorted(wanted)}")
    insist(not survey.unfinished and not survey.stray, f"pins are left: {survey.unfinished} {survey.stray}")
    for name, manifest in wanted.items():
        insist(not loaded_as(name, manifest), f"{name}: {loaded_as(name, manifest)}")
    chain = [each.name for each in sorted(wanted.values(), key=sort_key) if each.kind == "oom"]
    insist(chain == sorted(chain, key=lambda name: survey.loaded[name].link_id), f"the chain is not {chain}")


def kernel_objects() -> dict[str, int]:
    return {what: len(list(library().ids(what))) for what in ("prog", "map", "link")}


def settled_objects() -> dict[str, int]:
    """Once the kernel has let go of what the changes before needed: it does so when all CPUs have moved on."""
    last, same = kernel_objects(), 0
    while same < 20:
        time.sleep(0.05)
        now = kernel_objects()
        last, same = now, same + 1 if now == last else 0
    return last


def insist_objects(expected: dict[str, int]) -> None:
    """The kernel holds no more of BPF than after a change that nothing came between; it lets go after a grace period."""
    try:
        wait_for(lambda: kernel_objects() == expected, "")
    except Wrong:
        raise Wrong(f"the kernel holds {kernel_objects()}, after a change in one go it is {expected}") from None


def tail(directory: str) -> list[str]:
    return sorted(str(path) for path in pathlib.Path(directory).rglob("*") if path.name.startswith(".") or ".new" in path.name)


# ---------------------------------------------------------------------- the sweeps


def reset(name: str) -> Manifests:
    """Bring the machine to a set in one go, from wherever it is."""
    do(silently(change, name))
    return stored()


def sweep_change(old_name: str, new_name: str, through_boot: bool) -> None:
    """Kill the change from one set to another at each of its steps."""
    work = silently(change, new_name)
    reset("nothing")
    old = reset(old_name)
    objects_old = settled_objects()
    new = reset(new_name)
    objects_new = settled_objects()
    reset(old_name)
    insist_objects(objects_old)
    calls, status, said = Trace(work).end()
    insist(status == 0 and "error" not in said, f"the change itself fails: {said}")
    insist_all(new)
    steps = steps_of(calls)
    say(event="steps", calls=len(calls), steps=len(steps))
    for name, number, call in steps:
        reset(old_name)
        insist_objects(objects_old)
        killed, status, _said = Trace(work, "SIGKILL", (name, number)).end()
        wrong, left = "", ""
        try:
            insist(status == -signal.SIGKILL, f"it was not killed but ended with {status}")
            insist(kind(killed[-1]) == kind(call), f"it was killed at {killed[-1]}")
            left = look(old, new)
            if through_boot:
                do(boot)
                loaded_only(old if left == "old" else new)
            do(work)
            insist_all(new)
            insist_objects(objects_new)
            insist(not do(lambda: change(new_name))["changed"], "the run after the completing one changes something")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong, and the sweep goes on
            wrong = "".join(traceback.format_exception_only(error)).strip()
        say(event="point", step=call, left=left, wrong=wrong)


def sweep_command() -> None:
    """Kill the replacement of the installed command at each of its steps."""
    command("old")
    calls, status, _said = Trace(silently(command, "new")).end()
    insist(status == 0, "the replacement itself fails")
    steps = steps_of(calls)
    say(event="steps", calls=len(calls), steps=len(steps))
    digests = {digest((HERE / f"{name}.pyz").read_bytes()): name for name in ("old", "new")}
    for name, number, call in steps:
        do(silently(command, "old"))
        killed, status, _said = Trace(silently(command, "new"), "SIGKILL", (name, number)).end()
        wrong, left = "", ""
        try:
            insist(status == -signal.SIGKILL, f"it was not killed but ended with {status}")
            insist(kind(killed[-1]) == kind(call), f"it was killed at {killed[-1]}")
            left = digests.get(digest(pathlib.Path(COMMAND).read_bytes()), "")
            insist(left, "the command is neither the old one nor the new")
            insist(os.stat(COMMAND).st_mode & 0o7777 == 0o755, "the command has another mode")
            insist(subprocess.run([LINK, "--help"], stdout=subprocess.DEVNULL, check=False).returncode == 0, "it does not run")
            do(silently(command, "new"))
            insist(digests[digest(pathlib.Path(COMMAND).read_bytes())] == "new", "the next run did not complete it")
            insist(not tail(os.path.dirname(COMMAND)), f"left: {tail(os.path.dirname(COMMAND))}")
            insist(not do(lambda: command("new"))["changed"], "the run after that changes something")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong, and the sweep goes on
            wrong = "".join(traceback.format_exception_only(error)).strip()
        say(event="point", step=call, left=left, wrong=wrong)


# ---------------------------------------------------------------------- the power cut


def run_out_of_memory() -> int:
    """A process in a cgroup that is too small for it; its number."""
    cgroup = pathlib.Path("/sys/fs/cgroup/work")
    cgroup.mkdir(exist_ok=True)
    (cgroup / "memory.max").write_text(str(16 * MIB))
    pid = os.fork()
    if pid == 0:
        (cgroup / "cgroup.procs").write_text("0")
        memory = mmap.mmap(-1, 64 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for offset in range(0, len(memory), mmap.PAGESIZE):
            memory[offset] = 1
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    insist(status == -signal.SIGKILL, f"the process was not killed but ended with {status}")
    return pid


def insist_acting(wanted: Manifests) -> str:
    """The first of the chain that enforces kills in a real OOM; its name."""
    pid = run_out_of_memory()
    policies = report(looking(), decisions=1)["policies"]
    for name in wanted:
        insist(policies[name]["active"] or policies[name]["observing"], f"{name}: {policies[name]['why']}")
    killers = [name for name in wanted for each in policies[name]["decisions"] for died in each["died"] if died["pid"] == pid]
    insist(killers, f"nobody has recorded the death of {pid}: {[policies[name]['decisions'] for name in wanted]}")
    return killers[0]


NOTES = pathlib.Path("/var/lib/crash-notes.json")


def start(known: dict[str, Any]) -> tuple[str, str]:
    """Boot with what is persisted, and tidy up what a cut left; which set it is, and who of it kills. Empty for none."""
    now = stored()
    texts = {key: manifest.text() for key, manifest in now.items()}
    found = next((name for name, each in known["texts"].items() if each == texts), "")
    insist(found or not now, f"{sorted(now)} is persisted, neither set")
    insist(boot_unit(PATHS) == {"installed": True, "enabled": True}, "the boot unit is not what it was")
    subprocess.run([LINK, "apply"], stdin=subprocess.DEVNULL, check=True)
    loaded_only(now)
    killer = insist_acting(now) if now else ""
    if now:
        do(silently(change, found))
        insist_all(now)
    return found, killer


def count(name: str) -> None:
    """Note the steps of a change after a boot, as those that are cut are, and what it makes."""
    known = json.loads(NOTES.read_text()) if NOTES.exists() else {"steps": {}, "texts": {}}
    start(known)
    calls, status, said = Trace(silently(change, name)).end()
    insist(status == 0 and "error" not in said, f"the change itself fails: {said}")
    known["texts"][name] = {key: manifest.text() for key, manifest in stored().items()}
    # The last of them tells us the result.
    known["steps"][name] = steps_of(calls)[:-1]
    NOTES.write_text(json.dumps(known))


def power(number: int, cuts: int) -> None:
    """Each boot is cut at another of all steps, and one more completes the last change."""
    known = json.loads(NOTES.read_text())
    found, killer = start(known)
    insist(found, "nothing is persisted")
    other = "b" if found == "a" else "a"
    if number > cuts:
        do(silently(change, other))
        insist({key: manifest.text() for key, manifest in stored().items()} == known["texts"][other], "another set is persisted")
        insist_all(stored())
        say(event="cut", found=found, killer=killer, step="")
        return
    steps_now = known["steps"][other]
    name, count, call = steps_now[(number - 1) * (len(steps_now) - 1) // max(cuts - 1, 1)]
    trace = Trace(silently(change, other), "SIGSTOP", (name, count))
    if not any("stopped by SIGSTOP" in line for line in trace.lines()):
        raise Wrong(f"the change to {other} ended before {call}: {trace.child.end()}")
    say(event="cut", found=found, killer=killer, step=call)
    select.select([], [], [])


# ---------------------------------------------------------------------- the machine


def say(**fields: Any) -> None:
    with open("/dev/ttyS1", "w", encoding="utf-8") as results:
        results.write(json.dumps(fields) + "\n")


def mount(kind_of: str, target: str, *options: str) -> None:
    os.makedirs(target, exist_ok=True)
    subprocess.run(["mount", "-t", kind_of, *options, kind_of, target], check=True)


def set_up() -> None:
    mount("proc", "/proc")
    mount("sysfs", "/sys")
    mount("bpf", "/sys/fs/bpf", "-o", "mode=0700")
    mount("cgroup2", "/sys/fs/cgroup")
    mount("tmpfs", "/run", "-o", "mode=0755")
    pathlib.Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+memory")
    pathlib.Path("/sys/fs/cgroup/demo.slice").mkdir()
    # Nothing is written before somebody insists: what is not synced is lost with the power.
    pathlib.Path("/proc/sys/vm/dirty_writeback_centisecs").write_text("0")
    if not WANTED.is_symlink():
        UNIT.write_bytes((HERE / "bpf-oom.service").read_bytes())
        WANTED.parent.mkdir(exist_ok=True)
        WANTED.symlink_to(UNIT)
        command("new")
        os.sync()


def main() -> None:
    what, argument = sys.argv[1:]
    try:
        set_up()
        if what == "power":
            power(*map(int, argument.split("/")))
        elif what == "count":
            count(argument)
        elif argument == "command":
            sweep_command()
        else:
            old, new = argument.split("-")
            sweep_change(old, new, through_boot=old == "b")
        say(event="end")
    except Exception:  # noqa: BLE001 - the host is told, and the machine must end
        say(event="failed", why=traceback.format_exc())
    with contextlib.suppress(Exception):
        os.sync()
    ctypes.CDLL(None).reboot(0x01234567)  # RB_AUTOBOOT, which ends this QEMU


if __name__ == "__main__":
    main()
