# SPDX-License-Identifier: GPL-3.0-or-later
"""The module for a kernel, as a file on the controller: from a site's directory, from the cache, or built."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from ..module_utils._errors import BpfOomError
from ..module_utils._paths import PROVEN

SOURCE = Path(__file__).resolve().parents[2] / "kernel"
_RELEASE = re.compile(r"[0-9][0-9A-Za-z.+~_-]*")


def proven() -> list[str]:
    """The build ids of the kernels on which the module was tried in a machine."""
    with (SOURCE / "module" / PROVEN).open(encoding="utf-8") as file:
        return [str(each["build_id"]) for each in json.load(file)]


def built_module(release: str, directory: str | None) -> bytes:
    """The file for a release; raises BpfOomError when it is not there and cannot be built."""
    # It came from the host and becomes part of a path.
    if not _RELEASE.fullmatch(release):
        raise BpfOomError(f"the host says that its kernel is {release!r}", "see what `uname -r` says there")
    if directory is not None:
        return _read(Path(directory) / release / "bpf_oom.ko")
    command = [str(SOURCE / "module/build"), "--release", release]
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise BpfOomError(f"{command[0]} cannot be run: {error.strerror}", "see that bash is there") from None
    if run.returncode:
        said = run.stderr.strip().splitlines()
        raise BpfOomError(
            f"the module for {release} cannot be built here: {said[-1] if said else f'exit status {run.returncode}'}",
            "build it where that works, and name the directory with bpf_oom_module_directory",
            run.stderr[-20000:],
        )
    return _read(Path(run.stdout.strip()) / "bpf_oom.ko")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BpfOomError(
            f"there is no module for this kernel: {path}: {error.strerror}",
            f"build it with kernel/module/build --release {path.parent.name}",
        ) from None
