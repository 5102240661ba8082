# SPDX-License-Identifier: GPL-3.0-or-later
"""From one build of the module others: the same with another build id, one that lost its end, one that the kernel refuses."""

from __future__ import annotations

import pathlib
import sys


def main() -> None:
    data, site, release = pathlib.Path(sys.argv[1]).read_bytes(), pathlib.Path(sys.argv[2]), sys.argv[3]
    note = b"\x04\x00\x00\x00\x14\x00\x00\x00\x03\x00\x00\x00GNU\x00"
    at = data.index(note) + len(note)
    other = data[:at] + bytes(byte ^ 0xFF for byte in data[at : at + 20]) + data[at + 20 :]
    at = data.index(note) + len(note)
    wrong = data[:at] + bytes(byte ^ 0x55 for byte in data[at : at + 20]) + data[at + 20 :]
    # A symbol that no kernel has, under a name of the same length.
    wrong = wrong.replace(b"\0register_ftrace_direct\0", b"\0register_nobody_direct\0")
    for name, found in {"other": other, "short": data[: len(data) // 2], "wrong": wrong}.items():
        path = site / name / release / "bpf_oom.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found)


if __name__ == "__main__":
    main()
