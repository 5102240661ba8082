# SPDX-License-Identifier: GPL-3.0-or-later
"""Compiles the witness of kills here, so that no machine needs a compiler or the headers of its kernel; prints where it is."""

from __future__ import annotations

import hashlib
import pathlib
import shutil
import subprocess

import image

SOURCE = pathlib.Path(__file__).resolve().parent / "guest/witness.bpf.c"


def build() -> pathlib.Path:
    """The object file, in the cache."""
    target = image.cache_root() / "witness" / hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16] / "witness.o"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        made = target.with_name("witness.new.o")
        clang = shutil.which("clang") or "clang"
        subprocess.run(
            [clang, "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-c", SOURCE, "-o", made], check=True
        )
        made.rename(target)
    return target


if __name__ == "__main__":
    print(build())
