# SPDX-License-Identifier: GPL-3.0-or-later
"""The boot CLI as one file: those of the host side's own modules that it needs, packed the same way everywhere."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..module_utils._ops.install import SHEBANG
from ..module_utils._store.paths import PROVEN
from ._kernel import SOURCE

_MODULE_UTILS = Path(__file__).resolve().parents[1] / "module_utils"
#: The command's sources, by their rooms: all that it imports and nothing else, since its digest is compared on every host.
SOURCES: Mapping[str, Sequence[str]] = {
    "_common": ("errors", "params", "text", "words"),
    "_store": ("manifest", "paths", "store", "writer"),
    "_kernel": (
        "bypass",
        "capability",
        "core",
        "dkms",
        "interface",
        "kmsg",
        "libbpf",
        "module",
        "object",
        "signature",
        "tracefs",
    ),
    "_engine": ("change", "describe", "drift", "engine", "inactive", "loader", "reader"),
    "_ops": ("cli", "decisions", "foresee", "kill_log", "provide", "records", "report", "standing"),
}
_MAIN = b"# SPDX-License-Identifier: GPL-3.0-or-later\nimport sys\n\nfrom bpf_oom._ops.cli import main\n\nsys.exit(main())\n"


def build(sources: Mapping[str, Sequence[str]] | None = None) -> bytes:
    """Of the command's sources, unless others are given. Same sources, same bytes: sorted, stored, with one date."""
    sources = SOURCES if sources is None else sources
    # What the rooms say of themselves is for who reads the tree.
    members = {"__main__.py": _MAIN, "bpf_oom/__init__.py": b"", **{f"bpf_oom/{room}/__init__.py": b"" for room in sources}}
    for room, names in sources.items():
        for name in names:
            members[f"bpf_oom/{room}/{name}.py"] = (_MODULE_UTILS / room / f"{name}.py").read_bytes()
    # Beside the one who reads it.
    members[f"bpf_oom/_ops/{PROVEN}"] = (SOURCE / "module" / PROVEN).read_bytes()
    buffer = io.BytesIO()
    # Isolated: neither the environment nor a user's site-packages reach into root's boot.
    buffer.write(SHEBANG)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(members.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()
