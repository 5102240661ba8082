#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything on a machine that this collection could leave, a line each: two of these are compared."""

from __future__ import annotations

import collections
import json
import os
import re
import subprocess
import sys
from typing import Any

#: What changes by itself, or by being asked for.
VOLATILE = re.compile(
    r"/(proc|sys|dev|tmp|root|lost\+found|var/(log|tmp|cache|lib/systemd))(/|$)"
    r"|/run/(systemd|udev|user|sshd|initctl|lock|log|motd\.dynamic|credentials|dbus)(/|$)"
    r"|/__pycache__(/|$)|/var/lib/dpkg/lock|/run/(utmp|mount|tmpfiles\.d)"
)
TRANSIENT_CGROUP = re.compile(r"/(session-[^/]*\.scope|user@?[^/]*\.(slice|service)|run-[^/]*|[^/]*@[^/]*\.service)(/|$)")


def files() -> list[str]:
    found = []
    for directory, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if not VOLATILE.match(os.path.join(directory, name))]
        for name in [*folders, *names]:
            path = os.path.join(directory, name)
            if not VOLATILE.search(path):
                status = os.lstat(path)
                size = "" if name in folders else str(status.st_size)
                found.append(f"file {path} {status.st_mode:o} {status.st_uid} {size}")
    return found


def below(what: str, top: str, unless: re.Pattern[str] | None = None) -> list[str]:
    found = [os.path.join(directory, name) for directory, folders, names in os.walk(top) for name in [*folders, *names]]
    return [f"{what} {path}" for path in found if not (unless and unless.search(path))]


def said(*command: str) -> str:
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout


def units() -> list[str]:
    listed = said("systemctl", "list-unit-files", "--no-legend", "--plain").splitlines()
    loaded = said("systemctl", "list-units", "--all", "--no-legend", "--plain", "*oom*", "*bpf*").splitlines()
    return ["unit " + " ".join(line.split()) for line in listed] + ["loaded unit " + line.split()[0] for line in loaded]


def bpf() -> list[str]:
    """How many there are of each name; systemd has programs of its own on cgroups, as many as it likes."""
    counts: collections.Counter[str] = collections.Counter()
    for what in ("prog", "map", "link"):
        listed: list[dict[str, Any]] = json.loads(said("bpftool", "--json", what, "list"))
        for each in listed:
            if not str(each.get("type", "")).startswith("cgroup"):
                counts[f"bpf {what} {each.get('type')} {each.get('name', '')}"] += 1
    return [f"{name}: {number}" for name, number in counts.items()]


def cgroups() -> list[str]:
    found = [directory for directory, _folders, _names in os.walk("/sys/fs/cgroup")]
    return [f"cgroup {path}" for path in found if not TRANSIENT_CGROUP.search(path)]


def main() -> None:
    instances = below("trace instance", "/sys/kernel/tracing/instances") if os.path.isdir("/sys/kernel/tracing") else []
    lines = [*files(), *units(), *below("pin", "/sys/fs/bpf"), *bpf(), *cgroups(), *instances]
    sys.stdout.write("".join(f"{line}\n" for line in sorted(lines)))


if __name__ == "__main__":
    main()
