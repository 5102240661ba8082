# SPDX-License-Identifier: GPL-3.0-or-later
"""bpf-oom: load, show, check and unload the persisted policies of this host."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from .._common.errors import BpfOomError
from .._common.words import line
from .._engine.change import bring_back, unload_all
from .._engine.engine import Engine
from .._kernel.module import Module
from .._store.paths import FACT, MODULE, OFF_WORD, PROVEN, TRIAL_UNIT, Paths
from .decisions import lines
from .kill_log import KillLog, forget
from .report import report as everything

OK, ERROR, DRIFT = 0, 1, 3


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="bpf-oom", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("apply", help=f"load the persisted policies (nothing with {OFF_WORD} on the kernel command line)")
    status = commands.add_parser("status", help="show what is persisted, loaded and active")
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument("--no-wait", action="store_true", help="do not wait for a change that is being made")
    decisions = commands.add_parser("decisions", help="show what the policies decided and who died, newest first")
    decisions.add_argument("policy", nargs="?", help="only this policy's")
    decisions.add_argument("--number", "-n", type=int, default=10, help="so many of each policy, 64 at most (default: 10)")
    decisions.add_argument("--json", action="store_true", help="for programs")
    kill_log = commands.add_parser("kill-log", help="run as a service: log every OOM victim to the journal and to Prometheus")
    kill_log.add_argument("--textfile", default="", help="where Prometheus' node exporter finds the numbers; none without")
    kill_log.add_argument("--forget", action="store_true", help="do not run, but remove what the service leaves when it stops")
    check_kernel = commands.add_parser("check-kernel", help="say whether the persisted policies will load on another kernel")
    check_kernel.add_argument(
        "file",
        nargs="?",
        default="",
        help="that kernel's BTF, its vmlinux, or its image (default: of the newest that is installed)",
    )
    check_kernel.add_argument("--release", default="", help="which kernel that is, where the file does not say it")
    check_kernel.add_argument("--allow-untried", action="store_true", help="a module will do that was not tried on that kernel")
    module = commands.add_parser("module", help="load, unload or release from trial the kernel module for stock kernels")
    module.add_argument(
        "what",
        choices=["load", "unload", "settle", "retry", "install", "forget"],
        help="settle: as a service, after so long without a crash; install: a file that was built on this host, as by DKMS;"
        " forget: that for a release, which stays loaded where it is",
    )
    module.add_argument("subject", nargs="?", default="", help="a file, plain or compressed, with install; a release with forget")
    module.add_argument("--allow-untried", action="store_true", help="install it for a kernel on which nobody has tried it")
    module.add_argument("--after", type=int, default=0, help="seconds that settle waits (default: none)")
    commands.add_parser("unload", help="unload all policies at once; they come back with apply or at boot")
    commands.add_parser("verify", help=f"compare persisted with loaded: exit {OK} no drift, {DRIFT} drift, {ERROR} error")
    return top


def main(arguments: Sequence[str] | None = None, engine: Engine | None = None) -> int:
    fact = arguments is None and sys.argv[0].endswith(FACT)
    if fact:
        arguments = ["status", "--json"]
    options = parser().parse_args(arguments)
    try:
        if options.command == "kill-log":
            return _kill_log(options.textfile, options.forget)
        if options.command == "module" and options.what == "settle":
            return _settle(options.after)
        engine = engine or Engine()
        if options.command == "module" and options.what == "install":
            return _install(engine, options.subject, options.allow_untried)
        if options.command == "status":
            return _status(engine, options.json, not options.no_wait)
        if options.command == "check-kernel":
            return _check_kernel(engine, options.file, options.release, options.allow_untried)
        if options.command == "decisions":
            return _decisions(engine, options.policy, options.number, options.json)
        with engine.locked(check=options.command == "verify"):
            if options.command == "module":
                return _module(engine, options.what, options.subject)
            return {"apply": _apply, "unload": _unload, "verify": _verify}[options.command](engine)
    except BpfOomError as error:
        if fact:
            # Whoever gathers facts without rights would have a warning on every host, and no fact.
            print(json.dumps({"problem": str(error)}))
            return OK
        print(f"bpf-oom: {error}", file=sys.stderr)
        if error.details:
            print(error.details, file=sys.stderr)
        return ERROR


def _kill_log(textfile: str, only_forget: bool) -> int:
    if only_forget:
        forget(Paths(), textfile)
    else:
        # This very file, by the same Python; the service may write to no lock.
        status = [sys.executable, "-I", os.path.abspath(sys.argv[0]), "status", "--json", "--no-wait"]
        KillLog(Paths(), textfile, status=status).run()
    return OK


def _proven() -> list[str]:
    """The kernels on which the module was tried, as they were known when this command was packed."""
    try:
        data = pkgutil.get_data(__package__ or "", PROVEN)
    except OSError:
        data = None
    return [str(each["build_id"]) for each in json.loads(data or b"[]")]


def _check_kernel(engine: Engine, path: str, release: str, allow_untried: bool) -> int:
    # Only this needs it.
    from .foresee import foresee

    found = foresee(engine, path, release, _proven(), allow_untried)
    interface = found["interface"]
    print(interface["sentence"])
    for name, policy in found["policies"].items():
        print(f"{name}: {'will load' if policy['loads'] else 'will not load'}")
        for each in (*policy["problems"], *policy["degraded"]):
            print(f"  {each}")
    return OK if all(policy["loads"] for policy in found["policies"].values()) else ERROR


def _settle(after: int) -> int:
    """Waits, unless it is ended before: a host that is shut down in order has not gone down."""
    # What ends a service is no reason to leave the mark.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(OK))
    module = Module(Paths())
    try:
        begun = None
        while begun != module.trial():
            # Loaded anew meanwhile, it is on trial anew.
            begun = module.trial()
            time.sleep(after)
    finally:
        if module.settle():
            print("bpf-oom: the module is no longer on trial")
    return OK


def _begin_trial() -> None:
    """Somebody has to end it. At boot, where the command may not talk to systemd, the unit is started anyway."""
    with contextlib.suppress(OSError):
        command = ["systemctl", "start", "--no-block", TRIAL_UNIT]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _module(engine: Engine, what: str, subject: str) -> int:
    module = Module(engine.paths)
    if (what == "forget") != bool(subject):
        raise BpfOomError("forget wants a release, and nothing else does", "see `bpf-oom module --help`")
    if what == "unload":
        done = "the module is unloaded" if module.unload() else "the module was not loaded"
    elif what == "forget":
        there = os.path.exists(module.file(subject))
        module.remove(subject)
        done = f"the module for {subject} is removed" if there else f"there is no module for {subject}"
    elif what == "retry":
        done = "the module may be loaded again" if module.settle() else "nothing kept the module from being loaded"
    else:
        done = module.load()
        if done:
            _begin_trial()
        done = done or "there is no module to load, or it is loaded, or the kernel needs none"
    print(f"bpf-oom: {done}")
    return OK


def _install(engine: Engine, path: str, allow_untried: bool) -> int:
    # Only this needs it.
    from .provide import adopt

    if not path:
        raise BpfOomError("there is nothing to install", "give the file of a module")
    built = adopt(engine, path, _proven(), allow_untried)
    print(f"bpf-oom: installed, and not loaded: {built.words()}")
    return OK


def _load_module(engine: Engine) -> bool:
    """Before any policy. One that is refused keeps nothing else from being done."""
    try:
        done = Module(engine.paths).load()
    except BpfOomError as error:
        print(f"bpf-oom: {error}", file=sys.stderr)
        return False
    if done:
        _begin_trial()
        print(f"bpf-oom: {done}")
    return True


def _apply(engine: Engine) -> int:
    loaded = _load_module(engine)
    survey = engine.survey()
    if any(problem.id == "off" for problem in survey.capability.problems):
        print(f"bpf-oom: nothing is loaded, the kernel command line says {OFF_WORD}")
        return OK
    outcome = bring_back(engine, survey)
    failed = {**survey.stored.broken, **outcome.failed}
    if survey.stored.problem and not failed:
        failed["the set"] = survey.stored.problem
    for warning in outcome.warnings:
        print(f"bpf-oom: {warning}", file=sys.stderr)
    for name, why in sorted(failed.items()):
        print(f"bpf-oom: {name} was not loaded: {why}", file=sys.stderr)
    active = sorted(name for name, policy in outcome.policies.items() if policy["active"])
    print(f"bpf-oom: active: {', '.join(active) or 'none'}")
    return ERROR if failed or not loaded else OK


def _unload(engine: Engine) -> int:
    names = unload_all(engine.paths)
    print(f"bpf-oom: unloaded: {', '.join(names) or 'nothing was loaded'}")
    return OK


def _drift(report: dict[str, Any]) -> list[str]:
    found = list(report["problems"])
    found += [f"{name}: {'; '.join(policy['drift'])}" for name, policy in report["policies"].items() if policy["drift"]]
    return found


def _verify(engine: Engine) -> int:
    drift = _drift(everything(engine))
    for each in drift:
        print(each)
    return DRIFT if drift else OK


def _warn(report: dict[str, Any]) -> None:
    for name in report["neighbours"]:
        print(f"warning: {name} runs here, too, and kills by rules of its own")


def _decisions(engine: Engine, only: str | None, number: int, as_json: bool) -> int:
    report = everything(engine, number)
    policies = report["policies"]
    if only is not None and only not in policies:
        raise BpfOomError(f"there is no policy '{only}' on this host", f"name one of {', '.join(policies) or 'none'}")
    chosen = {name: policy["decisions"] for name, policy in policies.items() if only in (None, name)}
    if as_json:
        print(json.dumps(chosen, indent=1, sort_keys=True))
        return OK
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    every = [(decision, name) for name, decisions in chosen.items() for decision in decisions]
    for decision, name in sorted(every, key=lambda each: -each[0]["time_ns"]):
        print("\n".join(lines(name, decision, (now - decision["time_ns"]) / 1e9)))
    if not every:
        print("no decision is on record")
    _warn(report)
    return OK


def _status(engine: Engine, as_json: bool, wait: bool) -> int:
    report = everything(engine, wait=wait)
    if as_json:
        print(json.dumps(report, indent=1, sort_keys=True))
        return OK
    for problem in report["capability"]["problems"]:
        print(f"cannot load {problem['kind']} policies: {problem['sentence']}")
    if report["capability"]["unprivileged_bpf"]:
        print("users without rights may load BPF programs here: kernel.unprivileged_bpf_disabled is 0")
    for problem in report["problems"]:
        print(f"problem: {problem}")
    running = report["module"]["running"]
    if running:
        trial = ", on trial" if report["module"]["trial"] else ""
        print(f"the module {MODULE} brings the interface: version {running['version']}, build {running['build_id'][:12]}{trial}")
    for name, policy in sorted(
        report["policies"].items(), key=lambda item: (item[1]["kind"] or "", item[1]["order"] or 0, item[0])
    ):
        state = "active" if policy["active"] else f"NOT ACTIVE: {policy['why']}"
        if policy["observing"]:
            state = "OBSERVING, it never acts"
        print(f"{name} ({policy['kind']}, order {policy['order']}, {policy['program']}): {state}")
        for sentence in policy["limits"]:
            print(f"  NOT ALWAYS: {sentence}")
        for sentence in policy["degraded"]:
            print(f"  with less: {sentence}")
        for sentence in policy["unmatched"]:
            print(f"  NOBODY: {sentence}")
        for key, value in sorted(policy["params"].items()):
            print(f"  {key} = {line(key, value)}")
        if policy["counters"]:
            print("  " + ", ".join(f"{key} {value}" for key, value in sorted(policy["counters"].items())))
    _warn(report)
    for foreign in report["foreign"]:
        print(f"not ours: {foreign['name']} ({foreign['kind']}, map {foreign['map_id']})")
    if not report["boot_unit"]["enabled"]:
        print("the boot unit is not enabled: nothing comes back after a reboot")
    return OK
