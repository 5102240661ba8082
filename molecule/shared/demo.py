# SPDX-License-Identifier: GPL-3.0-or-later
"""From nothing to a process that died because our policy chose it, explained on the way; behind `make demo`.

Everything shown is read from reports of the machine, and a missing proof ends the demonstration with an error. KEEP=1 in the
environment leaves the machine up.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import image
import witness
from machine import Machine, MachineError, splats
from proofs import Expectation, dead, failures, judge

NAME = "bpf-oom-demo"
SHARED = pathlib.Path(__file__).resolve().parent
TARGET = "/usr/local/lib/bpf-oom-scenarios"
STEP = image.repository() / "tests/tools/step"
POLICY, PRESSURE_POLICY = "demo-largest-leaf", "demo-pressure"
PIN = f"/sys/fs/bpf/linuxmm_bpf_oom/{POLICY}/link"
EXPECTED = {
    "oom": Expectation(victims=("cg3/cg4",), policy=POLICY, constraint="CONSTRAINT_MEMCG"),
    "pressure": Expectation(victims=("hog",), policy=POLICY, constraint="CONSTRAINT_BPF_PSI_MEM"),
}
Report = dict[str, Any]


class DemoError(Exception):
    """The demonstration did not show what it promises."""


def tell(text: str) -> None:
    print(textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="  "), flush=True)


def show(lines: list[str]) -> None:
    for line in lines:
        print(f"      {line}", flush=True)


def insist(holds: object, claim: str) -> None:
    if not holds:
        raise DemoError(claim)
    print(f"    [proved] {claim}", flush=True)


class Times:
    """The chapters of the demonstration and how long each took."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def chapter(self, title: str) -> Iterator[None]:
        print(f"\n== {title}", flush=True)
        began = time.monotonic()
        yield
        self.taken.append((title, time.monotonic() - began))

    def summary(self) -> None:
        print("\n== What it took", flush=True)
        width = max(len(title) for title, _seconds in self.taken)
        for title, seconds in [*self.taken, ("all of it", sum(seconds for _title, seconds in self.taken))]:
            print(f"  {title:<{width}}  {int(seconds) // 60:>2} min {seconds % 60:04.1f} s", flush=True)


def patient(title: str, command: list[str]) -> str:
    """Run a command that shows its own progress and, when interrupted, ends what it has started; its standard output."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output)
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if status:
            raise DemoError(f"{title}: ended with status {status}")
        output.seek(0)
        return output.read()


def step(name: str, title: str, estimate: int, command: list[str]) -> str:
    """Run a command with progress on the screen; its output."""
    log = image.cache_root() / "logs" / f"demo-{name}.log"
    words = [str(STEP), "--name", f"demo-{name}", "--title", title, "--estimate", str(estimate), "--log", str(log), "--"]
    patient(title, [*words, *command])
    return log.read_text(errors="replace")


def play(machine: Machine, name: str, title: str, estimate: int, *options: str) -> tuple[int, list[str]]:
    """Run the fleet's playbook; how many tasks changed something, and all diffs."""
    inventories = [f"--inventory={machine.directory / 'inventory.json'}", f"--inventory={SHARED / 'inventory/fleet.yml'}"]
    command = ["ansible-playbook", *inventories, "--diff", *options, str(SHARED / "converge.yml")]
    output = step(name, title, estimate, ["env", "ANSIBLE_NOCOLOR=1", "ANSIBLE_TIMEOUT=120", *command])
    recap = re.search(rf"^{NAME}\s+: .*changed=(\d+)", output, re.MULTILINE)
    if not recap:
        raise DemoError(f"ansible-playbook told no result for {NAME}")
    return int(recap[1]), diffs(output)


def diffs(output: str) -> list[str]:
    """The diffs that a playbook printed, each up to its empty line."""
    lines: list[str] = []
    inside = False
    for line in output.splitlines():
        inside = bool(line) and (inside or line.startswith("--- "))
        if inside:
            lines.append(line)
    return lines


def run_scenario(machine: Machine, name: str, title: str, estimate: int, with_policy: bool) -> Report:
    machine_command = machine.ssh_command(["/usr/bin/python3", f"{TARGET}/scenario.py", name])
    output = step(f"{name}-{'policy' if with_policy else 'kernel'}", title, estimate, machine_command)
    report: Report = json.loads(output)
    return report


def fate(report: Report, name: str) -> str:
    process = next(process for process in report["processes"] if process["name"] == name)
    if process["death"]:
        policies = [kill["policy"] for kill in report["kills"] if kill["pid"] == process["pid"]]
        place = f" as number {process['death']['order']}" if len(dead(report)) > 1 else ""
        return f"killed{place}, oom_policy={policies[0]}" if policies else "died, and the log does not say why"
    return "lives, is throttled" if not process["filled"] else "lives"


def table(with_policy: Report, without: Report) -> None:
    header = ["cgroup", "memory", "oom_score_adj", "policies loaded", "the kernel's own heuristic"]
    rows = [header]
    for process in with_policy["processes"]:
        protected = " (protected)" if process["oom_score_adj"] == -1000 else ""
        fates = [fate(report, process["name"]) for report in (with_policy, without)]
        fates = [text + protected for text in fates]
        rows.append([process["name"], f"{process['mib']} MiB", str(process["oom_score_adj"]), *fates])
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    show([lines[0], "-" * len(lines[0]), *lines[1:]])


def prove(name: str, report: Report) -> None:
    proofs = judge(report, EXPECTED[name])
    for proof in proofs:
        if proof.holds:
            print(f"    [proved] {proof.claim}", flush=True)
    if broken := failures(proofs):
        raise DemoError("not proved: " + "; ".join(broken))


def prepare(times: Times) -> Machine:
    with times.chapter("1. A Debian 13 machine with Debian's own kernel"):
        tell(
            "Nothing about the kernel is ours: it is the one that Debian signs and ships. The machine's disk image is built once "
            "and then found in the cache, and so is the module for that kernel."
        )
        script = str(SHARED / "machine.py")
        step("image", "Debian 13 image", 75, [sys.executable, script, "image"])
        command = [sys.executable, script, "create", "--kernel=debian", NAME]
        step("machine", "Boot the machine, or resume a saved one", 60, command)
        machine = Machine(NAME)
        release = machine.run(["uname", "--kernel-release"]).stdout.strip()
        build = [str(image.repository() / "kernel/module/build"), "--release", release]
        step("module", f"The module for {release}", 40, build)
        machine.copy([*sorted((SHARED / "guest").glob("*.py")), witness.build()], TARGET)
        machine.run(["/usr/bin/python3", f"{TARGET}/scenario.py", "prepare"])
        print(f"    it runs Linux {release}", flush=True)
    return machine


def converge(times: Times, machine: Machine) -> None:
    with times.chapter("2. Ansible brings the interface and the policies to it"):
        tell(
            "The role kernel loads a module: it hooks into the very place where the kernel would choose whom to kill, and lets "
            "BPF programs decide. No reboot, no other kernel."
        )
        tell(
            "The inventory wants two policies. An OOM policy decides who dies: the largest leaf cgroup. A PSI policy "
            "decides when a slice has waited so long for memory that it counts as out of memory, although the kernel would "
            "go on trying."
        )
        changed, _diff = play(machine, "converge", "Run the roles linuxmm.bpf_oom.kernel and linuxmm.bpf_oom.policies", 60)
        insist(changed, f"the play changed the machine ({changed} tasks)")
        insist(active(machine) == [POLICY, PRESSURE_POLICY], f"the kernel holds {POLICY} and {PRESSURE_POLICY}, both active")


def active(machine: Machine) -> list[str]:
    policies = json.loads(machine.run(["bpf-oom", "status", "--json"]).stdout)["policies"]
    return sorted(name for name, policy in policies.items() if policy["active"])


def kills(times: Times, machine: Machine) -> None:
    with times.chapter("3. Two ways to run out of memory"):
        tell(
            "First: four processes under one cgroup with memory.max 80 MiB. Second: one process wants 500 MiB above a "
            "memory.high of 40 MiB, so it waits for memory nearly all the time. Both run twice: with our policies, and "
            "after 'bpf-oom unload'."
        )
        ours = {name: run_scenario(machine, name, f"Scenario {name}, policies loaded", 30, True) for name in EXPECTED}
        show(machine.run(["bpf-oom", "unload"]).stdout.splitlines())
        try:
            insist(active(machine) == [], "no policy of ours is loaded now")
            theirs = {name: run_scenario(machine, name, f"Scenario {name}, the kernel alone", 15, False) for name in EXPECTED}
        finally:
            machine.run(["bpf-oom", "apply"])
        insist(active(machine) == [POLICY, PRESSURE_POLICY], "both policies are active again")
        print("\n    Out of memory, limit 80 MiB:", flush=True)
        table(ours["oom"], theirs["oom"])
        prove("oom", ours["oom"])
        print("\n    Memory pressure in demo.slice:", flush=True)
        table(ours["pressure"], theirs["pressure"])
        prove("pressure", ours["pressure"])
        stalled = theirs["pressure"]["stalled_us"] / 1e6
        insist(not dead(theirs["pressure"]), f"without the policies nobody ends that: {stalled:.1f} s of full stall, all alive")
        insist(dead(theirs["oom"])[0]["name"] == "cg1", "without the policies the kernel's heuristic kills cg1 first")
        for name, report in theirs.items():
            missing = failures(judge(report, EXPECTED[name]))
            insist(missing, f"the same proofs fail without the policies, as they must: {len(missing)} of scenario {name}")


def drift(times: Times, machine: Machine) -> None:
    with times.chapter("4. Nothing to do, drift, and healing"):
        changed, _diff = play(machine, "again", "Run the same play again", 30)
        insist(changed == 0, "the second run changed nothing: changed=0")
        tell("Now somebody removes a pin behind Ansible's back. The kernel drops the policy at once.")
        show([f"rm {PIN}"])
        machine.run(["rm", PIN])
        changed, lines = play(machine, "drift", "Run it with --check --diff", 30, "--check")
        show(lines)
        edits = [line for line in lines if re.match(r"[-+] ", line)]
        insist(
            changed == 1 and edits == ["-  loaded: no", "+  loaded: yes"], "the check shows one difference: a policy not loaded"
        )
        told = machine.run(["bpf-oom", "verify"], check=False).stdout.splitlines()
        show(told)
        insist(len(told) == 1 and told[0].startswith(f"{POLICY}: "), f"it is {POLICY}, and nothing else has drifted")
        insist(active(machine) == [PRESSURE_POLICY], "the check itself changed nothing")
        changed, healed = play(machine, "heal", "Run it for real", 30)
        insist(healed == lines, "the run did exactly what the check had announced")
        insist(active(machine) == [POLICY, PRESSURE_POLICY], "both policies are active again")


def reboot(times: Times, machine: Machine) -> None:
    with times.chapter("5. A reboot"):
        tell("The boot unit loads the policies again, early: before anybody can log in.")
        step("reboot", "Reboot the machine", 45, [sys.executable, str(SHARED / "machine.py"), "reboot", NAME])
        report = json.loads(machine.run(["/usr/bin/python3", f"{TARGET}/boot.py"]).stdout)
        show([f"{report[key] / 1e6:7.2f} s after the kernel: {what}" for key, what in BOOT_EVENTS])
        insist(report["active"] == [POLICY, PRESSURE_POLICY] and report["result"] == "success", "both policies are active")
        insist(report["policies_us"] < report["sshd_us"] < report["login_us"], "they were, before the first login was possible")
        insist(not splats(machine.log()), "the kernel log of all of this has no WARNING, BUG or splat")


BOOT_EVENTS = (
    ("policies_us", "the policies are active"),
    ("sshd_us", "sshd starts"),
    ("login_us", "the first login"),
)


def demonstrate(machine: Machine) -> None:
    times = Times()
    machine.destroy()
    machine = prepare(times)
    converge(times, machine)
    kills(times, machine)
    drift(times, machine)
    reboot(times, machine)
    times.summary()


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_unused: sys.exit(143))
    machine = Machine(NAME)
    status = 1
    try:
        demonstrate(machine)
        status = 0
    except (DemoError, MachineError) as error:
        print(f"\nThe demonstration failed: {error}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr, flush=True)
        status = 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if os.environ.get("KEEP") == "1" and machine.pid() is not None:
            print("\nThe machine is still up.")
            for what, verb in (("log in", "ssh"), ("remove it", "destroy")):
                print(f"  {what + ':':<10} tests/tools/env molecule/shared/machine.py {verb} {NAME}", flush=True)
        else:
            machine.destroy()
    return status


if __name__ == "__main__":
    raise SystemExit(main())
