# SPDX-License-Identifier: GPL-3.0-or-later
"""The command as one file: all that it needs, and nothing that it does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils import _zipapp
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._kernel import proven
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._zipapp import SOURCES, build
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.module_utils.imports import HERE, imports

LISTED = {f"{room}.{name}" for room, names in SOURCES.items() for name in names}

#: Every import of ours in the archive, those inside functions, too, where it stands.
IMPORT_ALL = """
import ast, sys, zipfile
sys.path.insert(0, sys.argv[1])
archive = zipfile.ZipFile(sys.argv[1])
for name in archive.namelist():
    package = ".".join(name.split("/")[:-1])
    for node in ast.walk(ast.parse(archive.read(name))) if name.endswith(".py") else ():
        if isinstance(node, ast.ImportFrom) and (node.level or str(node.module).startswith("bpf_oom")):
            exec(compile(ast.Module([node], []), name, "exec"), {"__package__": package, "__name__": package})
print(*sorted(name for name in sys.modules if name.startswith("bpf_oom")))
"""


def isolated(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bpf-oom.pyz"
    path.write_bytes(build())
    return path


def test_the_command_is_the_same_bytes_and_runs(file: Path, tmp_path: Path) -> None:
    assert build() == file.read_bytes()
    says = "import sys; sys.path.insert(0, sys.argv[1]); from bpf_oom._ops import cli; print(cli._proven())"
    done = isolated("-c", says, file, cwd=tmp_path)
    assert done.stdout.strip() == str(proven()), done.stderr
    done = isolated(file, "--help", cwd=tmp_path)
    assert "apply" in done.stdout, done.stderr


def test_the_command_imports_nothing_that_it_has_not(file: Path, tmp_path: Path) -> None:
    done = isolated("-c", IMPORT_ALL, file, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {f"bpf_oom.{name}" for name in LISTED} <= set(done.stdout.split())


def test_a_source_that_is_missing_is_missed(tmp_path: Path) -> None:
    """The one before can fail, for what is imported inside a function, too."""
    for room, name in (("_ops", "provide"), ("_kernel", "core"), ("_common", "text")):
        sources = {**SOURCES, room: [each for each in SOURCES[room] if each != name]}
        (tmp_path / "less.pyz").write_bytes(build(sources))
        done = isolated("-c", IMPORT_ALL, tmp_path / "less.pyz", cwd=tmp_path)
        assert done.returncode == 1 and f"No module named 'bpf_oom.{room}.{name}'" in done.stderr


def test_the_command_has_nothing_that_it_does_not_import() -> None:
    graph, needed, asked = imports(HERE), set[str](), ["_ops.cli"]
    while asked:
        name = asked.pop()
        if name not in needed:
            needed.add(name)
            asked += graph[name]
    assert needed == LISTED
    assert set(graph) - needed >= {"_ops.drill", "_engine.run"}


def test_a_comment_changes_the_command_where_the_command_has_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS.md D18: one in drill.py was drift on every host."""
    tree = tmp_path / "module_utils"
    shutil.copytree(HERE, tree, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(_zipapp, "_MODULE_UTILS", tree)
    before = build()
    others = [path for path in tree.glob("*/*.py") if f"{path.parent.name}.{path.stem}" not in LISTED]
    assert tree / "_ops/drill.py" in others
    for path in others:
        path.write_bytes(path.read_bytes() + b"# a comment\n")
    assert build() == before
    for name in sorted(LISTED):
        path = tree.joinpath(*name.split(".")).with_suffix(".py")
        text = path.read_bytes()
        path.write_bytes(text + b"# a comment\n")
        assert build() != before, name
        path.write_bytes(text)
