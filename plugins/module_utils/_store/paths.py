# SPDX-License-Identifier: GPL-3.0-or-later
"""Every path on the managed host, below one root so that a test can bring its own tree."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .._common.text import as_text

OFF_WORD = "linuxmm.bpf_oom=off"
UNIT = "bpf-oom.service"
TRIAL_UNIT = "bpf-oom-trial.service"
#: The kernel module that brings the interface to stock kernels.
MODULE = "bpf_oom"
#: In the command: the kernels on which the module was tried.
PROVEN = "proven.json"
#: A name that ends so is a fact: Ansible runs it and reads JSON.
FACT = ".fact"


@dataclass(frozen=True)
class Paths:
    root: str = "/"

    def at(self, path: str) -> str:
        return os.path.join(self.root, path.lstrip("/"))

    @property
    def state(self) -> str:
        return self.at("/var/lib/linuxmm-bpf-oom")

    @property
    def run(self) -> str:
        return self.at("/run/linuxmm-bpf-oom")

    @property
    def bpffs(self) -> str:
        return self.at("/sys/fs/bpf")

    @property
    def pins(self) -> str:
        return os.path.join(self.bpffs, "linuxmm_bpf_oom")

    @property
    def cgroup(self) -> str:
        return self.at("/sys/fs/cgroup")

    @property
    def btf(self) -> str:
        return self.at("/sys/kernel/btf/vmlinux")

    @property
    def module_btf(self) -> str:
        """That of the module that brings the interface to stock kernels, while it is loaded."""
        return self.at(f"/sys/kernel/btf/{MODULE}")

    @property
    def modules(self) -> str:
        """The modules that are installed, each below the release of its kernel."""
        return self.at("/usr/lib/linuxmm-bpf-oom/modules")

    def pin(self, name: str, what: str = "link", new: bool = False) -> str:
        # bpffs reserves names with a dot.
        return os.path.join(self.pins, name, f"{what}_new" if new else what)

    def read(self, path: str) -> str:
        """A small file of /proc or /sys as text, see as_text(); OSError when it cannot be read."""
        # As bytes: a text file of Python's takes a carriage return in somebody's name for the end of a line.
        with open(self.at(path), "rb") as file:
            return as_text(file.read())
