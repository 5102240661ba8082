# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the test machine's initramfs (a C runner and BPF objects, no distribution) and boots it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "molecule" / "shared"))

import oracle  # noqa: E402

import accel  # noqa: E402

# Newest first. Debian 12 calls its clang 14 plain clang, which is older than we support.
CLANGS = ("clang-19", "clang-16", "clang")
#: A machine that says nothing for so long hangs; a scenario that sees no progress ends sooner.
SILENT_SECONDS = 180
#: The boots of the tests, with their memory in MiB. A global OOM comes sooner in a small machine.
BOOTS = {
    "common": 512,
    "global": 256,
    "panic": 256,
    "balloon": 256,
    "policies": 512,
    "conditions": 512,
    "victims": 1024,
    "hidden": 4096,
    "swapoff": 256,
    "trees": 512,
    "storm": 384,
    "module": 512,
}
#: What else the kernel of a boot is told: that of a program that does not sleep, too, another task may get the CPU.
BOOT_ARGUMENTS = {"swapoff": ["preempt=full"]}
#: What the host takes from the machine of that boot, and gives back in an OOM.
BALLOON_MIB = 64
#: Random trees of a run; more with BPF_OOM_TREES.
TREES = 6
#: What a kernel with its own checks on needs besides.
DEBUG_MIB = 256
#: ... and how much longer its machines may take for anything.
DEBUG_SLOWER = 5


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

    def build_id(self) -> str:
        """Of the kernel that was booted, '' when the machine did not get so far."""
        found = re.search(r"^kernel-tier: build id ([0-9a-f]+)$", self.log, re.MULTILINE)
        return found[1] if found else ""

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


def is_stock() -> bool:
    """Whether it is one of Debian's own kernels, with the module."""
    series = os.environ.get("SERIES", "")
    return series.startswith("stock-") or bool(os.environ.get("KERNEL") and not series)


def kernel() -> Path:
    """The directory with the kernel and what belongs to it; built now unless it is cached.

    SERIES, KERNEL and FLAVOUR choose, see kernel/build and kernel/stock; BPF_OOM_KERNEL is such a directory.
    """
    if given := os.environ.get("BPF_OOM_KERNEL"):
        return Path(given)
    result = subprocess.run(
        [ROOT / "kernel" / ("stock" if is_stock() else "build")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Path(result.stdout.strip())


def clang() -> str:
    for name in CLANGS:
        if path := shutil.which(name):
            return path
    raise RuntimeError(f"no clang: one of {', '.join(CLANGS)} is needed")


def build_runner(artifact: Path, directory: Path) -> Path:
    """With libbpf in it; libelf is linked when it runs, for that of Debian 13 cannot be linked statically."""
    runner = directory / "runner"
    libbpf = artifact / "libbpf"
    libraries = ["-lelf", "-lz"]
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g"]
    flags += ["-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Werror"]
    sources = sorted((HERE / "runner").glob("*.c"))
    include: list[str | Path] = ["-I", libbpf / "include", "-I", artifact / "uapi", "-I", ROOT / "bpf" / "include"]
    run("gcc", *flags, *include, *sources, "-o", runner, libbpf / "lib" / "libbpf.a", *libraries)
    run("strip", runner)
    return runner


def shared_libraries(program: Path) -> list[Path]:
    """What a program of ours is linked with when it runs, its loader included, under the paths that it looks at."""
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", run("ldd", program))]


def build_objects(artifact: Path, directory: Path) -> list[Path]:
    """Our policies and those of the documentation under their names, and the test programs."""
    folders = (ROOT / "bpf" / "policies", ROOT / "docs" / "examples")
    sources = {path.parent.name: path for folder in folders for path in sorted(folder.glob("*/policy.bpf.c"))}
    sources |= {path.name.removesuffix(".bpf.c"): path for path in sorted((HERE / "bpf").glob("*.bpf.c"))}
    include: list[str | Path] = ["-I", ROOT / "bpf" / "include", "-I", artifact / "libbpf" / "include"]
    objects: list[Path] = []
    for name, source in sources.items():
        objects.append(directory / f"{name}.o")
        flags = ["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"]
        run(clang(), *flags, *include, "-c", source, "-o", objects[-1])
    return objects


def trees() -> Iterator[str]:
    """Random trees, from BPF_OOM_SEED on; as many as BPF_OOM_TREES says."""
    first = int(os.environ.get("BPF_OOM_SEED") or random.randrange(10**6))
    for seed in range(first, first + int(os.environ.get("BPF_OOM_TREES") or TREES)):
        yield from oracle.description(seed)


def build_initramfs(artifact: Path, directory: Path) -> Path:
    runner = build_runner(artifact, directory)
    none = (0, 0)
    files = [*accel.CONSOLE]
    files += [(name, 0o40755, b"", none) for name in ("bpf", "proc", "sys", "tmp")]
    files += [(f"bpf/{path.name}", 0o100644, path.read_bytes(), none) for path in build_objects(artifact, directory)]
    files.append(("trees", 0o100644, "\n".join(trees()).encode() + b"\n", none))
    files.append(("init", 0o100755, runner.read_bytes(), none))
    libraries = shared_libraries(runner)
    if (selftest := artifact / "selftest").is_dir():
        files.append(("selftest", 0o40755, b"", none))
        files += [(f"selftest/{path.name}", 0o100755, path.read_bytes(), none) for path in sorted(selftest.iterdir())]
        libraries += [path for path in shared_libraries(selftest / "bpf_oom") if path not in libraries]
    folders = {parent for path in libraries for parent in path.parents if parent != Path("/")}
    files += [(str(path)[1:], 0o40755, b"", none) for path in sorted(folders)]
    files += [(str(path)[1:], 0o100755, path.read_bytes(), none) for path in libraries]
    if (modules := artifact / "modules").is_dir():
        files.append(("modules", 0o40755, b"", none))
        files += [(f"modules/{path.name}", 0o100644, path.read_bytes(), none) for path in sorted(modules.iterdir())]
    initramfs = directory / "initramfs"
    initramfs.write_bytes(accel.cpio(files))
    return initramfs


def _wait(process: subprocess.Popen[str], console: Path) -> str:
    """Until the machine ends, or neither its log grows nor it does anything."""
    said, since = -1, time.monotonic()
    while True:
        try:
            _, complaint = process.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            size = console.stat().st_size if console.exists() else 0
            if size != said:
                said, since = size, time.monotonic()
            elif time.monotonic() > since + SILENT_SECONDS:
                return f"it said nothing for {SILENT_SECONDS} s"
            continue
        return f"QEMU ended with {process.returncode}: {complaint.strip()}" if process.returncode else "it ended"


def scenarios(runner: Path) -> dict[str, str]:
    """Each scenario that the runner knows, and its boot."""
    return dict(line.split() for line in run(runner, "--list").splitlines())


def debugs(artifact: Path) -> bool:
    return "CONFIG_KASAN=y" in (artifact / "config").read_text(encoding="ascii").splitlines()


def make_disk(directory: Path, name: str) -> Path:
    """An empty file system for the scenarios that want one that is on a disk."""
    disk = directory / f"{name}.disk"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    run("/sbin/mke2fs", "-q", "-t", "ext4", disk)
    return disk


def _inflate(monitor: Path, process: subprocess.Popen[str], mib: int) -> None:
    """Asks QEMU to make the machine smaller by its balloon; its driver obeys when it is there."""
    with socket.socket(socket.AF_UNIX) as connection:
        while connection.connect_ex(str(monitor)):
            if process.poll() is not None:
                raise RuntimeError(f"QEMU ended before it was asked anything: {process.communicate()[1]}")
            time.sleep(0.05)
        with connection.makefile("rw", encoding="utf-8") as lines:
            lines.readline()  # its greeting
            for request in ({"execute": "qmp_capabilities"}, {"execute": "balloon", "arguments": {"value": mib << 20}}):
                print(json.dumps(request), file=lines, flush=True)
                answer = lines.readline()
                while "event" in json.loads(answer):
                    answer = lines.readline()
                if "return" not in json.loads(answer):
                    raise RuntimeError(f"QEMU refused {request}: {answer}")


#: QEMU's emulation with a thread for each CPU, up to 8.0, now and then lets a CPU run an int3 that the kernel, which patches
#: its code while tracing programs come and go, has taken back. Reported for all kinds of kernels; nothing of ours patches code.
EMULATORS_INT3 = re.compile(r"int3: 0000 \[#1\]")
EMULATOR_SOUND = (8, 1)


def emulator_failed(log: str, artifact: Path) -> bool:
    if not EMULATORS_INT3.search(log) or accel.accel_arguments(artifact / "bzImage") != accel.EMULATION:
        return False
    version = subprocess.run(["qemu-system-x86_64", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = re.search(r"version (\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) < EMULATOR_SOUND


def boot(
    artifact: Path, initramfs: Path, directory: Path, name: str, memory: int | None = None, append: tuple[str, ...] = ()
) -> Boot:
    """Boots the machine, lets it run the scenarios of that name, and waits for its end; again after a fault of the emulator."""
    found = _boot(artifact, initramfs, directory, name, memory, append)
    if emulator_failed(found.log, artifact):
        warnings.warn(f"boot {name} ended in an int3, a fault of QEMU's emulation before 8.1: booted once more", stacklevel=2)
        found = _boot(artifact, initramfs, directory, name, memory, append)
    return found


def _boot(artifact: Path, initramfs: Path, directory: Path, name: str, memory: int | None, append: tuple[str, ...]) -> Boot:
    console, results = directory / f"{name}.console", directory / f"{name}.results"
    bzimage = artifact / "bzImage"
    mib = memory or BOOTS[name] + (DEBUG_MIB if debugs(artifact) else 0)
    command = ["qemu-system-x86_64", "-machine", "q35", *accel.accel_arguments(bzimage), "-smp", "2", "-m", str(mib)]
    command += ["-nodefaults", "-display", "none", "-no-reboot", "-no-user-config"]
    command += ["-serial", f"file:{console}", "-serial", f"file:{results}"]
    command += ["-kernel", str(bzimage), "-initrd", str(initramfs)]
    only = os.environ.get("BPF_OOM_SCENARIOS")  # for whoever works on one: only these, comma-separated
    command += ["-drive", f"file={make_disk(directory, name)},if=virtio,format=raw,cache=unsafe"]
    monitor = directory / f"{name}.monitor"
    if name == "balloon":
        command += ["-device", "virtio-balloon-pci,deflate-on-oom=on", "-qmp", f"unix:{monitor},server=on,wait=off"]
    arguments = ["console=ttyS0", "ignore_loglevel", "panic=-1", f"boot={name}", *BOOT_ARGUMENTS.get(name, []), *append]
    if debugs(artifact):
        # All checks of the slab allocator but the traces of who allocated, which KASAN keeps as well.
        arguments += [f"slow={DEBUG_SLOWER}", "slub_debug=FZP"]
    if deaths := os.environ.get("BPF_OOM_STORM"):  # how many a storm takes
        arguments.append(f"storm={int(deaths)}")
    command += ["-append", " ".join(arguments + ([f"scenarios={only}"] if only else []))]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        if name == "balloon":
            _inflate(monitor, process, mib - BALLOON_MIB)
        why = _wait(process, console)
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
