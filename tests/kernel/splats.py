# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds in a kernel log what a healthy kernel never says."""

from __future__ import annotations

import re

# "Call Trace:" alone is none: every OOM report has one.
_SPLAT = re.compile(
    "|".join(
        (
            r"\bWARNING: ",
            r"\bBUG: ",
            r"\bkernel BUG at ",
            r"\bOops\b",
            r"\bgeneral protection fault\b",
            r"\bUnable to handle kernel\b",
            r"\bdouble fault\b",
            r"\bKernel panic\b",
            r"\bINFO: task .* blocked for more than\b",
            r"\brcu: INFO: |\bdetected stalls?\b|\bself-detected stall\b",
            r"\bsuspicious RCU usage\b",
            r"\bINFO: possible (recursive|circular|irq)",
            r"\binconsistent lock state\b|\bbad unlock balance\b|\bDEBUG_LOCKS_WARN_ON\b",
            r"\bscheduling while atomic\b|\bsleeping function called from invalid context\b",
            r"\brefcount_t: |\blist_(add|del) corruption\b|\bUBSAN: |\bKASAN: |\bKFENCE: ",
            r"\bsoft lockup\b|\bhard LOCKUP\b",
        )
    )
)
AROUND = 25


def splats(log: str) -> list[str]:
    """Each splat with the lines behind it; those inside the report of another are not repeated."""
    lines = log.splitlines()
    found = []
    reported = -1
    for number, line in enumerate(lines):
        if number > reported and _SPLAT.search(line):
            reported = number + AROUND
            found.append("\n".join(lines[number : reported + 1]))
    return found
