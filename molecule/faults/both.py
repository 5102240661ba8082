# SPDX-License-Identifier: GPL-3.0-or-later
"""Two controllers that want different things of the same hosts at the same time; both must end well."""

from __future__ import annotations

import json
import subprocess
import sys


def command(sources: list[str], usage: int) -> list[str]:
    policies = {name: {"policy": "largest_leaf", "params": {"min_usage": usage}} for name in ("both-a", "both-b")}
    arguments = json.dumps({"policies": policies})
    inventories = [f"--inventory={source}" for source in sources]
    return ["ansible", "fleet", *inventories, "--module-name=linuxmm.bpf_oom.policy_set", f"--args={arguments}"]


def main() -> int:
    sources = json.loads(sys.argv[1])
    runs = [
        subprocess.Popen(command(sources, usage), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for usage in (1, 2)
    ]
    outputs = [run.communicate()[0] for run in runs]
    for run, output in zip(runs, outputs, strict=True):
        if run.returncode:
            print(output)
    return max(run.returncode for run in runs)


if __name__ == "__main__":
    raise SystemExit(main())
