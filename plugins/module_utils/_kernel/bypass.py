# SPDX-License-Identifier: GPL-3.0-or-later
"""Which policies the kernel has bypassed, when, for how long and why: vm.bpf_oom_bypassed, see kernel/README.md."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Dict

from .._store.paths import Paths

_SYSCTL = "vm/bpf_oom_bypassed"


@dataclass(frozen=True)
class Bypass:
    """The last one of a policy; it is over when `until` has passed."""

    reason: str  # in the kernel's words
    time: float  # seconds since 1970
    until: float  # seconds since 1970

    @property
    def lasts(self) -> bool:
        return self.until > time.time()


def bypasses(paths: Paths) -> Dict[int, Bypass]:
    """By the id of a policy's link; nothing where the kernel bypasses none."""
    found: Dict[int, Bypass] = {}
    now = time.time()
    try:
        lines = paths.read(f"/proc/sys/{_SYSCTL}").splitlines()
    except OSError:
        return found
    for line in lines:
        link, since_ms, left_ms, reason = (*line.split(" ", 3), "", "", "")[:4]
        if link.isdigit() and since_ms.isdigit() and left_ms.isdigit():
            found[int(link)] = Bypass(reason, now - int(since_ms) / 1e3, now + int(left_ms) / 1e3)
    return found


__all__ = ["Bypass", "bypasses"]
