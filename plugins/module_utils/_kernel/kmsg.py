# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel log, read as /dev/kmsg gives it."""

from __future__ import annotations

import errno
import os
import re
from typing import Iterator, NamedTuple

from .._common.text import as_text
from .._store.paths import Paths

#: Priority, sequence, microseconds since boot, flags; text. Lines that begin with a space go on with what is known of a record.
_RECORD = re.compile(rb"([0-9]+),[0-9]+,([0-9]+),[^;]*;(.*)", re.DOTALL)
_RECORD_MAX = 8192  # as the kernel has it, bytes
_FACILITY_SHIFT = 3


class Line(NamedTuple):
    us: int  # microseconds since boot
    text: str


class KernelLog:
    """What the kernel itself has said, or, with `only_new`, says from now on; nothing where its log is not for us."""

    def __init__(self, paths: Paths, only_new: bool = False) -> None:
        try:
            self._number = os.open(paths.at("/dev/kmsg"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if only_new:
                os.lseek(self._number, 0, os.SEEK_END)
        except OSError:
            self._number = -1

    def lines(self) -> Iterator[Line]:
        """Until there is no more for now, the oldest first."""
        rest = b""
        while self._number >= 0:
            try:
                found = os.read(self._number, _RECORD_MAX)
            except OSError as error:
                if error.errno == errno.EPIPE:
                    continue  # records were overwritten; go on with the oldest that is there
                break
            if not found:
                break
            *whole, rest = (rest + found).split(b"\n")
            for record in whole:
                match = _RECORD.fullmatch(record)
                # Facility 0 is the kernel's: nobody else can write as that.
                if match and not int(match[1]) >> _FACILITY_SHIFT:
                    yield Line(int(match[2]), as_text(match[3]))

    def close(self) -> None:
        if self._number >= 0:
            os.close(self._number)
            self._number = -1


__all__ = ["KernelLog", "Line"]
