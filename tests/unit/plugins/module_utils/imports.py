# SPDX-License-Identifier: GPL-3.0-or-later
"""Who imports whom in module_utils, read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.linuxmm.bpf_oom.plugins import module_utils

HERE = Path(module_utils.__path__[0])
PACKAGE = "ansible_collections.linuxmm.bpf_oom.plugins.module_utils"


def imports(root: Path) -> dict[str, set[str]]:
    """What each file imports of the others, by names as `_engine.change`; inside functions, and for types alone, too."""
    files = {".".join(path.relative_to(root).with_suffix("").parts): path for path in sorted(root.glob("**/*.py"))}
    return {name: {each for each in _named(name, path) if each in files} for name, path in files.items()}


def _named(name: str, path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = name.split(".")[: -node.level] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            for wanted in (source, *(f"{source}.{alias.name}".lstrip(".") for alias in node.names)):
                yield wanted.replace(f"{PACKAGE}.", "", 1)
        elif isinstance(node, ast.Import):
            yield from (alias.name.replace(f"{PACKAGE}.", "", 1) for alias in node.names)
