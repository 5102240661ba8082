# SPDX-License-Identifier: GPL-3.0-or-later
"""The boot CLI as one file: the host side's own modules, packed the same way everywhere."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from ..module_utils._store.paths import PROVEN
from ._kernel import SOURCE

_MODULE_UTILS = Path(__file__).resolve().parents[1] / "module_utils"
# Isolated: neither the environment nor a user's site-packages reach into root's boot.
_SHEBANG = b"#!/usr/bin/python3 -I\n"
_MAIN = b"# SPDX-License-Identifier: GPL-3.0-or-later\nimport sys\n\nfrom bpf_oom._ops.cli import main\n\nsys.exit(main())\n"


def build() -> bytes:
    """Same sources, same bytes: sorted, stored, with one date."""
    members = {"__main__.py": _MAIN, "bpf_oom/__init__.py": b""}
    for path in _MODULE_UTILS.glob("_[a-z]*/*.py"):
        members[f"bpf_oom/{path.relative_to(_MODULE_UTILS)}"] = path.read_bytes()
    # Beside the one who reads it.
    members[f"bpf_oom/_ops/{PROVEN}"] = (SOURCE / "module" / PROVEN).read_bytes()
    buffer = io.BytesIO()
    buffer.write(_SHEBANG)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(members.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()
