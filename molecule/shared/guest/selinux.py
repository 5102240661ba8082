#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Load SELinux policies that deny bpf() and print what `bpf-oom status` says of SELinux then, enforcing and permissive.

JSON: for each mode the sentences about SELinux by what is denied. Permissive it is left at the end.
"""

from __future__ import annotations

import json
import pathlib
import subprocess

DENIED = {"maps": "map_create", "programs": "prog_load", "both": "map_create prog_load"}
SELINUX = pathlib.Path("/sys/fs/selinux")
HERE = pathlib.Path(__file__).parent


def load(denied: str) -> None:
    source, policy = HERE / "now.cil", HERE / "now.policy"
    source.write_text((HERE / "without_bpf.cil").read_text().replace("@DENIED@", denied))
    version = f"--policyvers={(SELINUX / 'policyvers').read_text()}"
    subprocess.run(["secilc", version, "--output", str(policy), "--filecontext", "/dev/null", str(source)], check=True)
    with (SELINUX / "load").open("wb", buffering=0) as file:
        # The kernel takes a policy only as a whole.
        file.write(policy.read_bytes())


def said() -> list[str]:
    status = subprocess.run(["bpf-oom", "status", "--json"], stdout=subprocess.PIPE, check=True)
    return [each["sentence"] for each in json.loads(status.stdout)["capability"]["problems"] if each["id"] == "selinux"]


def main() -> None:
    found: dict[str, dict[str, list[str]]] = {"enforcing": {}, "permissive": {}}
    for name, denied in DENIED.items():
        load(denied)
        for mode, word in (("enforcing", "1"), ("permissive", "0")):
            (SELINUX / "enforce").write_text(word)
            try:
                found[mode][name] = said()
            finally:
                (SELINUX / "enforce").write_text("0")
    print(json.dumps(found, indent=1))


main()
