# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gates and tiers share: the cache, a real copy of this tree, test results."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from xml.etree import ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ["BPF_OOM_CACHE"])
RESULTS = CACHE / "results"


def files() -> list[pathlib.Path]:
    """The files of this tree, those not committed yet among them, relative to its root."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return sorted(pathlib.Path(name) for name in set(listing.split("\0")) if name and (ROOT / name).is_file())


@contextlib.contextmanager
def export(purpose: str) -> Iterator[pathlib.Path]:
    """A copy at …/ansible_collections/linuxmm/bpf_oom: ansible-test takes neither a symlink nor another path."""
    base = CACHE / "export" / hashlib.sha256(str(ROOT).encode()).hexdigest()[:16] / purpose
    base.mkdir(parents=True, exist_ok=True)
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        target = base / "ansible_collections/linuxmm/bpf_oom"
        shutil.rmtree(target, ignore_errors=True)
        for name in files():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
        yield target


def stop(process: subprocess.Popen[str]) -> None:
    """End a process group of ours; the time is for molecule, which takes its machine down first."""
    for number, patience in ((signal.SIGTERM, 90), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


@dataclasses.dataclass
class Result:
    """One test of a tier; empty `failure` means passed."""

    name: str
    seconds: float
    failure: str = ""
    skipped: str = ""


def write_results(path: pathlib.Path, suite: str, results: list[Result]) -> None:
    """As JUnit XML, like pytest's, so that all tiers are counted in one way."""
    root = ElementTree.Element("testsuites")
    node = ElementTree.SubElement(root, "testsuite", name=suite, tests=str(len(results)))
    for result in results:
        case = ElementTree.SubElement(node, "testcase", classname=suite, name=result.name, time=f"{result.seconds:.3f}")
        if result.failure:
            printable = "".join(c for c in result.failure if c.isprintable() or c in "\n\t")
            ElementTree.SubElement(case, "failure", message="failed").text = printable
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(root).write(path, encoding="unicode")


def read_results(path: pathlib.Path) -> list[Result]:
    results = []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        failure = case.find("failure") if case.find("failure") is not None else case.find("error")
        skipped = case.find("skipped")
        results.append(
            Result(
                name=f"{case.get('classname')}::{case.get('name')}",
                seconds=float(case.get("time", "0")),
                failure="" if failure is None else (failure.get("message") or "failed"),
                skipped="" if skipped is None else (skipped.get("message") or "skipped"),
            )
        )
    return results


def terminate_on_sigterm() -> None:
    """So that a polite kill runs the same clean-up as Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
