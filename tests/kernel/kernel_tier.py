# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the test machine's initramfs (a C runner and BPF objects, no distribution) and boots it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "molecule" / "shared"))

import accel  # noqa: E402

# Newest first. Debian 12 calls its clang 14 plain clang, which is older than we support.
CLANGS = ("clang-19", "clang-16", "clang")
BOOT_SECONDS = 300
#: The boots, with their memory in MiB. A global OOM comes sooner in a small machine.
BOOTS = {"common": 512, "global": 256, "storm": 384}


@dataclass
class Check:
    ok: bool
    what: str
    expected: str
    actual: str


@dataclass
class Outcome:
    """What the runner said about one scenario."""

    name: str
    ok: bool
    seconds: float
    checks: list[Check]
    notes: list[str]


@dataclass
class Boot:
    """What a machine said from its start to its end."""

    log: str
    why_ended: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def log_of(self, scenario: str) -> str:
        """The kernel log from the begin of a scenario to its end, or to that of the machine."""
        _, begin, rest = self.log.partition(f"kernel-tier: begin {scenario}\n")
        return rest.partition(f"kernel-tier: end {scenario}\n")[0] if begin else self.log


def run(*command: str | Path) -> str:
    """A tool's output; what it complained about when it fails."""
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\nended with {result.returncode}\n{result.stderr[-6000:]}")
    return result.stdout


def kernel() -> Path:
    """The directory with the kernel and what belongs to it; built now unless it is cached."""
    result = subprocess.run([ROOT / "kernel" / "build"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True)
    return Path(result.stdout.strip())


def clang() -> str:
    for name in CLANGS:
        if path := shutil.which(name):
            return path
    raise RuntimeError(f"no clang: one of {', '.join(CLANGS)} is needed")


def build_runner(artifact: Path, directory: Path) -> Path:
    runner = directory / "runner"
    libbpf = artifact / "libbpf"
    libraries = run("pkg-config", "--static", "--libs", "libelf").split()
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", "-static"]
    flags += ["-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Werror"]
    sources = sorted((HERE / "runner").glob("*.c"))
    run("gcc", *flags, "-I", libbpf / "include", *sources, "-o", runner, libbpf / "lib" / "libbpf.a", *libraries)
    run("strip", runner)
    return runner


def build_objects(artifact: Path, directory: Path) -> list[Path]:
    """Our policies under their names, and the test programs."""
    sources = {path.parent.name: path for path in sorted((ROOT / "bpf" / "policies").glob("*/policy.bpf.c"))}
    sources |= {path.name.removesuffix(".bpf.c"): path for path in sorted((HERE / "bpf").glob("*.bpf.c"))}
    include: list[str | Path] = ["-I", ROOT / "bpf" / "include", "-I", artifact / "libbpf" / "include"]
    objects: list[Path] = []
    for name, source in sources.items():
        objects.append(directory / f"{name}.o")
        flags = ["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"]
        run(clang(), *flags, *include, "-c", source, "-o", objects[-1])
    return objects


def build_initramfs(artifact: Path, directory: Path) -> Path:
    runner = build_runner(artifact, directory)
    none = (0, 0)
    files = [*accel.CONSOLE]
    files += [(name, 0o40755, b"", none) for name in ("bpf", "proc", "sys", "tmp")]
    files += [(f"bpf/{path.name}", 0o100644, path.read_bytes(), none) for path in build_objects(artifact, directory)]
    files.append(("init", 0o100755, runner.read_bytes(), none))
    initramfs = directory / "initramfs"
    initramfs.write_bytes(accel.cpio(files))
    return initramfs


def scenarios(runner: Path) -> dict[str, str]:
    """Each scenario that the runner knows, and its boot."""
    return dict(line.split() for line in run(runner, "--list").splitlines())


def boot(artifact: Path, initramfs: Path, directory: Path, name: str) -> Boot:
    """Boots the machine, lets it run the scenarios of that name, and waits for its end."""
    console, results = directory / f"{name}.console", directory / f"{name}.results"
    bzimage = artifact / "bzImage"
    command = ["qemu-system-x86_64", "-machine", "q35", *accel.accel_arguments(bzimage), "-smp", "2", "-m", str(BOOTS[name])]
    command += ["-nodefaults", "-display", "none", "-no-reboot", "-no-user-config"]
    command += ["-serial", f"file:{console}", "-serial", f"file:{results}"]
    command += ["-kernel", str(bzimage), "-initrd", str(initramfs)]
    only = os.environ.get("BPF_OOM_SCENARIOS")  # for whoever works on one: only these, comma-separated
    command += ["-append", f"console=ttyS0 ignore_loglevel panic=-1 boot={name}" + (f" scenarios={only}" if only else "")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    why = "it ended"
    try:
        _, complaint = process.communicate(timeout=BOOT_SECONDS)
        if process.returncode:
            why = f"QEMU ended with {process.returncode}: {complaint.strip()}"
    except subprocess.TimeoutExpired:
        why = f"it was still running after {BOOT_SECONDS} s"
    finally:
        process.kill()
        process.wait()

    log = console.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
    outcome = Boot(log, why)
    for line in results.read_text(encoding="ascii", errors="replace").splitlines():
        if line.strip():
            fields = json.loads(line)
            checks = [Check(**check) for check in fields.pop("checks")]
            outcome.outcomes[fields["name"]] = Outcome(checks=checks, **fields)
    return outcome
