# SPDX-License-Identifier: GPL-3.0-or-later
"""Which policies the kernel has bypassed, when and why.

The kernel detaches the link of a policy that it bypasses and says why in its log, and nowhere else: so the log is read, as
far back as it goes. Whoever knows a better source puts it into bypasses().
"""

from __future__ import annotations

import errno
import os
import re
import time
from dataclasses import dataclass
from typing import Dict, Iterator

from ._paths import Paths

#: A record of /dev/kmsg: priority and facility, sequence, microseconds since boot, flags; text. Facility 0 is the kernel's own:
#: nobody else can write as that.
_LINE = re.compile(rb"([0-7]),[0-9]+,([0-9]+),[^;]*;bpf_oom: policy (.+) is bypassed: (.+)")
_RECORD_MAX = 8192  # as the kernel has it, bytes


@dataclass(frozen=True)
class Bypass:
    reason: str  # in the kernel's words
    time: float  # seconds since 1970, as right as the kernel log's clock


def _log(paths: Paths) -> Iterator[bytes]:
    """The lines of the kernel log that can be read now, the oldest first; none where it is not for us."""
    try:
        number = os.open(paths.at("/dev/kmsg"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    rest = b""
    try:
        while True:
            try:
                found = os.read(number, _RECORD_MAX)
            except OSError as error:
                if error.errno == errno.EPIPE:
                    continue  # what was to be read has been overwritten, it goes on behind that
                break
            if not found:
                break
            *lines, rest = (rest + found).split(b"\n")
            yield from lines
    finally:
        os.close(number)


def bypasses(paths: Paths) -> Dict[str, Bypass]:
    """The last bypass of each policy, by name. One that has been loaded anew since is there, too."""
    found: Dict[str, Bypass] = {}
    booted = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
    for line in _log(paths):
        match = _LINE.fullmatch(line)
        if match:
            name, reason = (match[number].decode("utf-8", "replace") for number in (3, 4))
            found[name] = Bypass(reason, booted + int(match[2]) / 1e6)
    return found


__all__ = ["Bypass", "bypasses"]
