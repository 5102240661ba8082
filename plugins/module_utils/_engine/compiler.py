# SPDX-License-Identifier: GPL-3.0-or-later
"""From a bundle of sources to an object, with clang, the same bytes wherever it runs.

A bundle is a dictionary of file names and texts: the policy's source and header files, and ours
below include/. It is written to an empty directory and compiled there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from .._common.errors import BpfOomError
from .._store.manifest import bundle_digest, digest

FLAGS = ["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-I", "include", "-I", "."]
# What policies take from libbpf's development package: part of the tool-chain, not of the bundle.
_LIBBPF_HEADERS = ("bpf_helpers", "bpf_core_read", "bpf_tracing")
_LIMIT = 120


@dataclass(frozen=True)
class Toolchain:
    clang: str
    strip: Optional[str]
    identity: str
    headers: Tuple[str, ...] = ()  # of libbpf and what they include


def _run(arguments: List[str], directory: str, stdin: str = "") -> Tuple[int, str, str]:
    environment = dict(os.environ, LC_ALL="C")
    try:
        done = subprocess.run(
            arguments, cwd=directory, env=environment, input=stdin, capture_output=True, text=True, timeout=_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        raise BpfOomError(f"{arguments[0]} did not end within {_LIMIT} s", "simplify the source or free the machine") from None
    return done.returncode, done.stdout, done.stderr


def find_tool(name: str) -> Optional[str]:
    """A tool under its plain name, or the newest versioned one."""
    plain = shutil.which(name)
    return plain or next((path for path in (shutil.which(f"{name}-{version}") for version in range(30, 10, -1)) if path), None)


def find_toolchain() -> Toolchain:
    clang = find_tool("clang")
    if not clang:
        raise BpfOomError(
            "clang is not installed",
            "install the packages clang, llvm and libbpf-dev where policies are compiled (see compile_on)",
        )
    strip = find_tool("llvm-strip")
    code, version, complaint = _run([clang, "--version"], "/")
    stub = "".join(f"#include <bpf/{name}.h>\n" for name in _LIBBPF_HEADERS)
    if code == 0:
        code, rule, complaint = _run([clang, "-target", "bpf", "-M", "-x", "c", "-"], "/", stub)
    if code:
        raise BpfOomError(
            f"{clang} cannot compile for BPF: {first_error(complaint)}",
            "install libbpf-dev and a clang with the bpf target where policies are compiled",
            complaint,
        )
    headers = [word for word in rule.replace("\\\n", " ").split() if word.endswith(".h")]
    contents = []
    for path in headers:
        with open(path, "rb") as file:
            contents.append(digest(file.read()))
    seen = [version, "strip" if strip else "no strip", *FLAGS, *contents]
    return Toolchain(clang, strip, digest("\n".join(seen).encode()), tuple(headers))


def input_digest(program: str, bundle: str, toolchain: str) -> str:
    """The name of an object: a digest over program name, sources, headers, flags and compiler."""
    return digest("\n".join([program, bundle, toolchain]).encode())


def first_error(complaint: str) -> str:
    found = re.search(r"^.*?\b(?:fatal )?error: .*$", complaint, re.MULTILINE)
    return found.group(0).strip() if found else (complaint.strip().splitlines() or ["no message"])[-1]


def compile_bundle(program: str, files: Dict[str, str], main: str, toolchain: Toolchain) -> bytes:
    """The object's bytes; an error names the first thing that the compiler found."""
    with tempfile.TemporaryDirectory(prefix="bpf-oom-") as directory:
        for name, text in files.items():
            path = os.path.join(directory, name)
            if os.path.isabs(name) or ".." in name.split("/"):
                raise BpfOomError(f"the source bundle holds the file name {name!r}", "use plain relative names")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        where = os.path.realpath(directory)
        command = [
            toolchain.clang,
            *FLAGS,
            f"-ffile-prefix-map={where}=.",
            f"-fdebug-compilation-dir={where}",
            "-c",
            main,
            "-o",
            "policy.o",
        ]
        code, _out, complaint = _run(command, where)
        if code:
            raise BpfOomError(
                f"{main} does not compile: {first_error(complaint)}",
                "correct the source (the compiler's full output is in the details)",
                complaint,
            )
        if toolchain.strip:
            # DWARF is a tenth of a megabyte that nobody reads; BTF stays.
            code, _out, complaint = _run([toolchain.strip, "-g", "policy.o"], where)
            if code:
                raise BpfOomError(f"llvm-strip failed on policy '{program}'", "see the details", complaint)
        with open(os.path.join(where, "policy.o"), "rb") as file:
            return file.read()


__all__ = ["FLAGS", "Toolchain", "bundle_digest", "compile_bundle", "find_tool", "find_toolchain", "first_error", "input_digest"]
