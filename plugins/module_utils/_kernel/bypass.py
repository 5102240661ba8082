# SPDX-License-Identifier: GPL-3.0-or-later
"""Which policies the kernel has bypassed, when and why.

The kernel detaches the link of a policy that it bypasses and says why in its log, and nowhere else: so the log is read, as
far back as it goes. Whoever knows a better source puts it into bypasses().
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Dict

from .._store.paths import Paths
from .kmsg import KernelLog

_BYPASSED = re.compile(r"bpf_oom: policy (.+) is bypassed: (.+)")


@dataclass(frozen=True)
class Bypass:
    reason: str  # in the kernel's words
    time: float  # seconds since 1970, as right as the kernel log's clock


def bypasses(paths: Paths) -> Dict[str, Bypass]:
    """The last bypass of each policy, by name. One that has been loaded anew since is there, too."""
    found: Dict[str, Bypass] = {}
    booted = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
    log = KernelLog(paths)
    for line in log.lines():
        match = _BYPASSED.fullmatch(line.text)
        if match:
            found[match[1]] = Bypass(match[2], booted + line.us / 1e6)
    log.close()
    return found


__all__ = ["Bypass", "bypasses"]
