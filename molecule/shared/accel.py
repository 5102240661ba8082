# SPDX-License-Identifier: GPL-3.0-or-later
"""How QEMU should run a kernel on this machine: with KVM where that works, else by emulation.

/dev/kvm may open and an ordinary kernel may hang in it all the same, so a probe is booted:
the kernel with an init of a few instructions that says a word and reboots. The answer is
remembered for this kernel and this boot of the host.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

KVM = ["-accel", "kvm", "-cpu", "host"]
EMULATION = ["-accel", "tcg,thread=multi", "-cpu", "max"]
PROBE_SECONDS = 20
WORD = b"kvm-probe-works\n"  # 16 bytes

# write(1, WORD); reboot(RB_AUTOBOOT); then wait for it.
_CODE = (
    b"\xb8\x01\x00\x00\x00"  # mov $SYS_write, %eax
    b"\xbf\x01\x00\x00\x00"  # mov $1, %edi
    b"\x48\x8d\x35\x1f\x00\x00\x00"  # lea word(%rip), %rsi
    b"\xba\x10\x00\x00\x00"  # mov $16, %edx
    b"\x0f\x05"  # syscall
    b"\xb8\xa9\x00\x00\x00"  # mov $SYS_reboot, %eax
    b"\xbf\xad\xde\xe1\xfe"  # mov $LINUX_REBOOT_MAGIC1, %edi
    b"\xbe\x69\x19\x12\x28"  # mov $LINUX_REBOOT_MAGIC2, %esi
    b"\xba\x67\x45\x23\x01"  # mov $LINUX_REBOOT_CMD_RESTART, %edx
    b"\x0f\x05"  # syscall
    b"\xeb\xfe"  # jmp .
)


def _elf() -> bytes:
    """A static x86-64 program of one segment."""
    base, headers = 0x400000, 64 + 56
    body = _CODE + WORD
    size = headers + len(body)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return header + segment + body


def cpio(files: list[tuple[str, int, bytes, tuple[int, int]]]) -> bytes:
    """An initramfs (newc) of (path, mode, content, device numbers)."""
    archive = b""
    for number, (name, mode, content, device) in enumerate([*files, ("TRAILER!!!", 0, b"", (0, 0))], 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name) + 1, 0)
        entry = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        entry += bytes(-len(entry) % 4)
        archive += entry + content + bytes(-len(content) % 4)
    return archive


#: What every initramfs needs first: /dev/console, so that init has a standard output.
CONSOLE: list[tuple[str, int, bytes, tuple[int, int]]] = [
    ("dev", 0o40755, b"", (0, 0)),
    ("dev/console", 0o20600, b"", (5, 1)),
]


def _kvm_device() -> str:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return ""


def probe(kernel: Path, arguments: list[str]) -> str:
    """Boots the probe with these arguments: an empty string when it works, else why not."""
    with tempfile.TemporaryDirectory(prefix="bpf-oom-kvm-") as directory:
        initramfs = Path(directory) / "initramfs"
        initramfs.write_bytes(cpio([*CONSOLE, ("init", 0o100755, _elf(), (0, 0))]))
        command = ["qemu-system-x86_64", "-machine", "q35", *arguments, "-m", "512", "-nodefaults", "-display", "none"]
        command += ["-no-reboot", "-serial", "stdio", "-kernel", str(kernel), "-initrd", str(initramfs)]
        command += ["-append", "console=ttyS0 panic=-1"]
        try:
            result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return f"a probe kernel hangs (no answer within {PROBE_SECONDS} s)"
    if WORD.strip() in result.stdout:
        return ""
    complaint = result.stderr.decode(errors="replace").strip().splitlines()
    return complaint[-1] if complaint else f"a probe kernel ends without a word (exit status {result.returncode})"


def _cache() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "linuxmm-bpf-oom"
    return Path(os.environ.get("BPF_OOM_CACHE") or default) / "accel"


def accel_arguments(kernel: Path) -> list[str]:
    """The -accel and -cpu arguments with which QEMU should run this kernel here."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    digest = hashlib.sha256(kernel.read_bytes()).hexdigest()[:16]
    memory = _cache() / f"{digest}-{boot}.json"
    try:
        why = json.loads(memory.read_text(encoding="utf-8"))["why_not_kvm"]
    except (FileNotFoundError, ValueError, KeyError):
        why = _kvm_device() or probe(kernel, KVM)
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False, encoding="utf-8") as file:
            json.dump({"why_not_kvm": why}, file)
        Path(file.name).replace(memory)
        if why:
            print(f"emulating, KVM is of no use here: {why}", file=sys.stderr)
    return list(EMULATION if why else KVM)


if __name__ == "__main__":
    print(*accel_arguments(Path(sys.argv[1])))
