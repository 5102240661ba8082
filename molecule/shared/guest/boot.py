#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""When, in microseconds since the kernel started, this boot had its policies loaded, and when the first login came."""

from __future__ import annotations

import json
import subprocess


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def property_of(unit: str, name: str) -> int:
    return int(output("systemctl", "show", "--value", f"--property={name}", unit))


def main() -> None:
    sessions = output("journalctl", "--boot", "--output=json", "--unit=systemd-logind.service", "--grep=^New session")
    status = json.loads(output("bpf-oom", "status", "--json"))
    report = {
        "result": output("systemctl", "show", "--value", "--property=Result", "bpf-oom.service").strip(),
        # A oneshot unit is active when its command has ended, here the loading of the policies.
        "policies_us": property_of("bpf-oom.service", "ActiveEnterTimestampMonotonic"),
        "sshd_us": property_of("ssh.service", "ExecMainStartTimestampMonotonic"),
        "login_us": int(json.loads(sessions.splitlines()[0])["__MONOTONIC_TIMESTAMP"]),
        "active": sorted(name for name, policy in status["policies"].items() if policy["active"]),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
