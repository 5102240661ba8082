# SPDX-License-Identifier: GPL-3.0-or-later
"""What the interface costs: `make bench-kernel`. One machine, one run, ratios; nothing is asserted of a time.

Prints Markdown, which kernel/README.md quotes. SERIES and FLAVOUR choose the kernel, as in kernel/build.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "kernel"), str(ROOT / "molecule" / "shared")]

import kernel_tier  # noqa: E402

import accel  # noqa: E402

# 5,000 processes, each with a stack and page tables of its own.
MEMORY_MIB = 4096


def fields(note: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in note.split() if "=" in word)


def microseconds(nanoseconds: str) -> str:
    return f"{int(nanoseconds) / 1000:,.0f}"


def main() -> int:
    artifact = kernel_tier.kernel()
    with tempfile.TemporaryDirectory(prefix="bpf-oom-bench-") as name:
        directory = Path(name)
        initramfs = kernel_tier.build_initramfs(artifact, directory)
        booted = kernel_tier.boot(artifact, initramfs, directory, "bench", memory=MEMORY_MIB)
    release = (artifact / "release").read_text(encoding="ascii").strip()
    emulated = accel.accel_arguments(artifact / "bzImage") == accel.EMULATION
    print(f"`make bench-kernel`, Linux {release}, QEMU with 2 CPUs, {'emulation' if emulated else 'KVM'}")
    print(f"on a machine with {os.cpu_count()} CPUs. Medians; policy and kernel by turns in the same machine.\n")

    notes = [fields(note) for outcome in booted.outcomes.values() for note in outcome.notes]
    print("| tasks | cgroups | kernel's own, µs | largest_leaf, µs | ratio |\n|---|---|---|---|---|")
    for note in notes:
        if "tasks" in note:
            times = f"{microseconds(note['kernel_ns'])} | {microseconds(note['policy_ns'])}"
            print(f"| {note['tasks']} | {note['cgroups']} | {times} | {note['ratio']} |")
    for note in notes:
        if "poll_ns" in note:
            print(f"\nPressure event to poll() returning: {microseconds(note['poll_ns'])} µs; to the BPF handler:", end=" ")
            print(f"{microseconds(note['handler_ns'])} µs (ratio {note['ratio']}); to the kill:", end=" ")
            print(f"{microseconds(note['kill_ns'])} µs.\n")
    print("| memory of the kernel | KiB |\n|---|---|")
    for note in notes:
        if "bytes" in note:
            print(f"| {note['what'].replace('_', ' ')} | {int(note['bytes']) / 1024:.1f} |")

    bad = [name for name, outcome in booted.outcomes.items() if not outcome.ok]
    for name in bad:
        for check in booted.outcomes[name].checks:
            if not check.ok:
                print(f"failed: {name}: {check.what}: expected {check.expected}, was {check.actual}", file=sys.stderr)
    if booted.why_ended != "it ended" or not booted.outcomes:
        print(f"failed: {booted.why_ended}", file=sys.stderr)
        return 1
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
