# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may import whom in module_utils: rooms only from the rooms below them, and no file in a circle."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.module_utils.imports import HERE, PACKAGE, imports

#: Each imports only from itself and from those before it.
ROOMS = ("_common", "_store", "_kernel", "_engine", "_ops")
Graph = Mapping[str, "set[str]"]


def circle(graph: Graph) -> list[str]:
    """Files that import each other in a circle, in its order, or none."""
    done: set[str] = set()

    def follow(name: str, way: list[str]) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        for wanted in sorted(graph[name]):
            closed = follow(wanted, [*way, name])
            if closed:
                return closed
        done.add(name)
        return []

    return next(filter(None, (follow(name, []) for name in sorted(graph))), [])


def upwards(graph: Graph) -> list[str]:
    room = {name: ROOMS.index(name.split(".")[0]) for name in graph}
    return [f"{name} imports {wanted}" for name in sorted(graph) for wanted in sorted(graph[name]) if room[wanted] > room[name]]


def test_every_file_has_a_room_and_the_rooms_say_that_they_are_private() -> None:
    files = [path.relative_to(HERE) for path in HERE.glob("**/*.py")]
    assert {path.parts[0] for path in files} == set(ROOMS)
    assert {len(path.parts) for path in files} == {2}
    for name in ROOMS:
        said = ast.get_docstring(ast.parse((HERE / name / "__init__.py").read_text(encoding="utf-8"))) or ""
        assert said.startswith("PRIVATE to this collection."), name


def test_no_file_is_in_a_circle_and_no_room_imports_from_above() -> None:
    graph = imports(HERE)
    assert "_store.store" in graph["_engine.engine"]
    assert circle(graph) == []
    assert upwards(graph) == []


@pytest.mark.parametrize(
    ("file", "line", "files"),
    [
        ("_engine/engine.py", "from .change import apply", {"_engine.engine", "_engine.change"}),
        ("_engine/engine.py", "def later():\n    from . import change", {"_engine.engine", "_engine.change"}),
        ("_store/paths.py", f"from {PACKAGE}._store.store import Store", {"_store.paths", "_store.store"}),
        ("_common/errors.py", f"import {PACKAGE}._common.text", {"_common.errors", "_common.text"}),
    ],
)
def test_a_circle_that_is_put_in_is_found(tmp_path: Path, file: str, line: str, files: set[str]) -> None:
    shutil.copytree(HERE, tmp_path / "tree")
    with (tmp_path / "tree" / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    assert files <= set(circle(imports(tmp_path / "tree")))


def test_an_import_from_above_is_found(tmp_path: Path) -> None:
    shutil.copytree(HERE, tmp_path / "tree")
    with (tmp_path / "tree/_kernel/libbpf.py").open("a", encoding="utf-8") as source:
        source.write("\n\ndef later():\n    from .._engine import drift\n")
    assert upwards(imports(tmp_path / "tree")) == ["_kernel.libbpf imports _engine.drift"]
