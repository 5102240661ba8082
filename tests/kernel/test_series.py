# SPDX-License-Identifier: GPL-3.0-or-later
"""The build of the kernel: what it says about sources and patches that do not fit, without building one."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "kernel" / "build"


def build(cache: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("SERIES", "FLAVOUR", "CONFIG", "LINUX_SRC")}
    return subprocess.run(
        [BUILD, *arguments],
        env={**kept, "BPF_OOM_CACHE": str(cache), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What looks like a kernel source of a series that we have, and is none."""
    top = tmp_path / "linux"
    top.mkdir()
    (top / "Makefile").write_text("VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\nmrproper:\n")
    (top / "Kconfig").write_text("")
    (top / "kernel" / "bpf").mkdir(parents=True)
    (top / "kernel" / "bpf" / "helpers.c").write_text("\tcgrp = __cgroup_get_from_id(cgid);\n")
    # As the real one has them: links to folders, and to what is not there.
    (top / "scripts").mkdir()
    (top / "scripts" / "prefix").symlink_to("..")
    (top / "scripts" / "gone").symlink_to("nothing")
    return top


def test_a_patch_that_does_not_apply_is_named_and_nothing_is_built(tree: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    result = build(tmp_path / "cache", LINUX_SRC=str(tree))
    assert result.returncode == 1
    first = sorted((ROOT / "kernel" / "6.12").glob("*.patch"))[0].name
    assert f"The patch {first} does not apply to {tree}" in result.stderr
    assert "nothing was built" in result.stderr
    assert result.stdout == ""
    assert [path.name for path in (tmp_path / "cache" / "kernel").iterdir() if (path / "bzImage").exists()] == []
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"SERIES": "5.4"}, "there are no patches for the series '5.4'; known are: 6.12 7.3"),
        ({"FLAVOUR": "vanilla"}, "unknown FLAVOUR 'vanilla'; known are test, debug, plain and faults"),
        ({"LINUX_SRC": "/nowhere"}, "LINUX_SRC=/nowhere is no kernel source; give the top directory of one"),
        ({"CONFIG": "/dev/null"}, "CONFIG is for packages (make kernel-deb)"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, environment: dict[str, str], says: str) -> None:
    result = build(tmp_path / "cache", **environment)
    assert result.returncode == 1
    assert result.stderr.startswith(f"kernel/build: {says}")
    assert len(result.stderr.splitlines()) == 1


def test_a_tree_of_another_series_is_refused(tree: Path, tmp_path: Path) -> None:
    result = build(tmp_path / "cache", LINUX_SRC=str(tree), SERIES="7.3")
    assert result.stderr == f"kernel/build: LINUX_SRC={tree} is a source of the series 6.12, not 7.3\n"


@pytest.mark.parametrize("helpers", ["\tcgrp = cgroup_get_from_id(cgid);\n", "\tcgrp = x__cgroup_get_from_id(cgid);\n", None])
def test_a_tree_whose_programs_see_only_a_namespace_is_refused(tree: Path, tmp_path: Path, helpers: str | None) -> None:
    """FAULTS.md C12: policies in a container would not find the cgroups that they are about."""
    path = tree / "kernel" / "bpf" / "helpers.c"
    path.unlink() if helpers is None else path.write_text(helpers)
    result = build(tmp_path / "cache", LINUX_SRC=str(tree))
    assert result.returncode == 1
    why = "its bpf_cgroup_from_id() does not use __cgroup_get_from_id(); take a later 6.12"
    assert result.stderr == f"kernel/build: LINUX_SRC={tree} is too old: {why}\n"


def test_a_configuration_that_is_missing(tmp_path: Path) -> None:
    result = build(tmp_path / "cache", "--deb", CONFIG="/nowhere/config")
    assert result.stderr.startswith("kernel/build: CONFIG=/nowhere/config is no file; give a kernel configuration")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("series", ["6.12", "7.3"])
def test_each_sysctl_is_documented_where_it_is_made(series: str) -> None:
    """FAULTS.md C10: as a heading under Documentation/, in the patch that brings it."""
    made = 0
    for path in sorted((ROOT / "kernel" / series).glob("*.patch")):
        added = [line[1:] for line in path.read_text().splitlines() if line.startswith("+")]
        for name in re.findall(r'\.procname = "(.*)"', "\n".join(added)):
            made += 1
            assert f"\n{name}\n{'=' * len(name)}\n" in "\n".join(added), f"{path.name} documents no {name}"
    assert made >= 3


def test_both_series_say_the_same_in_the_same_order() -> None:
    """What 7.3 has already is left out of its series; the rest has the same subjects."""
    subjects = {
        series: [
            next(line for line in path.read_text().splitlines() if line.startswith("Subject: ")).split("] ", 1)[1]
            for path in sorted((ROOT / "kernel" / series).glob("*.patch"))
        ]
        for series in ("6.12", "7.3")
    }
    have = ["mm: memcg: tell whether memcgs keep a statistic", "bpf: add kfuncs for memory cgroups"]
    assert subjects["6.12"] == have + subjects["7.3"]
