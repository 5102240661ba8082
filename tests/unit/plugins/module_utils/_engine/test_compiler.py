# SPDX-License-Identifier: GPL-3.0-or-later
"""Compiling, with the real clang."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.compiler import (
    Toolchain,
    compile_bundle,
    find_toolchain,
    first_error,
    input_digest,
)

GOOD = {
    "a.bpf.c": '#include "a.h"\nconst volatile unsigned limit = LIMIT;\nint use(void) { return limit; }\n',
    "a.h": "#define LIMIT 3\n",
}


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    return find_toolchain()


def test_the_same_sources_give_the_same_bytes(toolchain: Toolchain) -> None:
    first = compile_bundle("a", GOOD, "a.bpf.c", toolchain)
    assert first[:4] == b"\x7fELF"
    assert first == compile_bundle("a", GOOD, "a.bpf.c", toolchain)
    assert b"bpf-oom-" not in first, "the temporary directory's name is in the object"


def test_a_header_counts(toolchain: Toolchain) -> None:
    other = compile_bundle("a", {**GOOD, "a.h": "#define LIMIT 4\n"}, "a.bpf.c", toolchain)
    assert other != compile_bundle("a", GOOD, "a.bpf.c", toolchain)


def test_an_error_is_one_sentence(toolchain: Toolchain) -> None:
    with pytest.raises(BpfOomError) as caught:
        compile_bundle("a", {"a.bpf.c": "int f(void) { return nonsense; }\n"}, "a.bpf.c", toolchain)
    assert str(caught.value).startswith(
        "A.bpf.c does not compile: a.bpf.c:1:22: error: use of undeclared identifier 'nonsense'; correct"
    )
    assert "\n" not in str(caught.value)
    assert "1 error generated" in caught.value.details


def test_a_warning_is_an_error(toolchain: Toolchain) -> None:
    with pytest.raises(BpfOomError, match="unused variable"):
        compile_bundle("a", {"a.bpf.c": "int f(void) { int x; return 0; }\n"}, "a.bpf.c", toolchain)


@pytest.mark.parametrize("name", ["../a.bpf.c", "/tmp/a.bpf.c"])
def test_a_bundle_stays_in_its_directory(toolchain: Toolchain, name: str) -> None:
    with pytest.raises(BpfOomError, match="plain relative names"):
        compile_bundle("a", {name: ""}, name, toolchain)


def test_no_clang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BpfOomError, match="clang is not installed; install"):
        find_toolchain()


def test_the_input_digest_is_over_all(toolchain: Toolchain) -> None:
    digests = {input_digest("a", "b", "c"), input_digest("x", "b", "c"), input_digest("a", "x", "c"), input_digest("a", "b", "x")}
    assert len(digests) == 4


def test_first_error() -> None:
    assert (
        first_error("note\na.c:1: fatal error: 'x.h' file not found\nb.c:2: error: y\n")
        == "a.c:1: fatal error: 'x.h' file not found"
    )
    assert first_error("") == "no message"
