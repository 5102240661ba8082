# SPDX-License-Identifier: GPL-3.0-or-later
"""What went wrong, in one sentence: the cause, and the way out."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence


def printable(text: str) -> str:
    """The text with everything escaped that is neither letter, digit, sign nor space."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text)


class BpfOomError(Exception):
    """A refusal or failure that a person can act on; `details` holds logs, never needed to understand it."""

    def __init__(self, cause: str, remedy: str, details: str = "") -> None:
        # Whatever a name or a file brought along: one line, and nothing that writes to a terminal.
        cause, remedy = printable(cause), printable(remedy)
        # The names of programs, libraries and sysctls keep their small letters.
        first = cause[:1] if cause.startswith(("libbpf", "clang", "llvm", "vm.")) else cause[:1].upper()
        super().__init__(f"{first}{cause[1:]}; {remedy}.")
        self.cause = cause
        self.remedy = remedy
        self.details = details


class Several(BpfOomError):
    """Several at once, each with its way out; those with the same way out share a sentence. `cause` is the first one's."""

    def __init__(self, errors: Sequence[BpfOomError]) -> None:
        super().__init__(errors[0].cause, errors[0].remedy)
        causes: dict[str, list[str]] = {}
        for error in errors:
            causes.setdefault(error.remedy, []).append(error.cause)
        said = [BpfOomError(", and ".join(dict.fromkeys(each)), remedy) for remedy, each in causes.items()]
        self.args = (" ".join(map(str, said)),)


_REMEDIES = {
    errno.EPERM: "run as root, outside of a container that drops CAP_BPF and CAP_SYS_ADMIN, on a kernel that is not locked down",
    errno.EACCES: "run as root and see the verifier's log in the details",
    errno.ENOMEM: "free memory, raise the limit of the session's cgroup, or simplify the policy's program",
    errno.E2BIG: "make the policy's program smaller, or use a newer kernel",
    errno.EBUSY: "see `bpf-oom status` for what is already registered",
    errno.EEXIST: "see `bpf-oom status` for what is already registered",
    errno.ENOENT: "run again; something was removed meanwhile",
    errno.ENOSPC: "remove what is no longer used from the file system",
    errno.EOPNOTSUPP: "boot a kernel with bpf_oom_ops and bpf_psi_ops",
    errno.ENOSYS: "boot a kernel with CONFIG_BPF_SYSCALL",
}
# The kernel's own "not supported", which user space does not name.
_ENOTSUPP = 524


def from_errno(what: str, number: int, details: str = "") -> BpfOomError:
    """The error for a failed call: `what` failed because of errno `number`."""
    if number == _ENOTSUPP:
        number = errno.EOPNOTSUPP
    name = errno.errorcode.get(number, str(number))
    remedy = _REMEDIES.get(number, "see the details and the kernel log")
    return BpfOomError(f"{what}: {os.strerror(number)} ({name})", remedy, details)
