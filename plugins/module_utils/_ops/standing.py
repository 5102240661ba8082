# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the policies act, for a service that goes on for months: `bpf-oom status`, asked beside it from time to time.

A process of its own, so that the kernel's type information is not kept in memory between two looks nor outlives a module that is
replaced, and so that nobody waits for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any, Dict, List, Optional, Sequence

from .._common.errors import BpfOomError

Policies = Dict[str, Dict[str, Any]]
_EVERY = 60.0  # s
_PATIENCE = 120.0  # a look that takes longer has failed, s


class Standing:
    """`policies`: what policy_info says of each at the last look that succeeded, None when the last one failed."""

    def __init__(self, command: Sequence[str]) -> None:
        """`command` writes the status as JSON; an empty one is never run."""
        self._command: List[str] = list(command)
        self._child: Optional[subprocess.Popen[bytes]] = None
        self._answer = -1
        self._begun = 0.0
        self._due = 0.0 if command else float("inf")
        self.policies: Optional[Policies] = None

    def look(self) -> None:
        """Take in an answer that is there, ask anew when it is time; never waits. BpfOomError when there is none to be had."""
        try:
            if self._child is not None:
                self._collect(self._child)
            if self._child is None and time.monotonic() >= self._due:
                self._ask()
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.policies = None
            self.close()
            raise BpfOomError(f"whether the policies act is not known: {error}", "see what `bpf-oom status` says") from None

    def _ask(self) -> None:
        self._begun = time.monotonic()
        self._due = self._begun + _EVERY
        self._answer = os.memfd_create("status", os.MFD_CLOEXEC)
        self._child = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=self._answer, stderr=subprocess.DEVNULL, close_fds=True
        )

    def _collect(self, child: subprocess.Popen[bytes]) -> None:
        if child.poll() is None:
            if time.monotonic() - self._begun > _PATIENCE:
                raise ValueError(f"it takes longer than {_PATIENCE:.0f} s")
            return
        if child.returncode:
            raise ValueError(f"its look ended with {child.returncode}")
        os.lseek(self._answer, 0, os.SEEK_SET)
        with os.fdopen(os.dup(self._answer), "rb") as file:
            policies = json.load(file)["policies"]
        self.close()
        self.policies = {str(name): dict(policy) for name, policy in policies.items()}

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None
        if self._answer >= 0:
            os.close(self._answer)
            self._answer = -1


__all__ = ["Policies", "Standing"]
