#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Change something behind Ansible's back: tamper.py HOW. Loads through the installed command's own code, without persisting."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

sys.path.insert(0, "/usr/lib/linuxmm-bpf-oom/bpf-oom.pyz")

from bpf_oom._engine.change import apply  # type: ignore[import-not-found]
from bpf_oom._engine.engine import Engine, Wish  # type: ignore[import-not-found]

STATE = pathlib.Path("/var/lib/linuxmm-bpf-oom")
PINS = pathlib.Path("/sys/fs/bpf/linuxmm_bpf_oom")
LEAF, SECOND, PRESSURE = "demo-largest-leaf", "demo-second", "demo-pressure"


def manifests() -> dict[str, Any]:
    return dict(Engine().survey().stored.manifests)


def load(**wanted: Any) -> None:
    """Load these in the place of those of their names; what is persisted stays as it is."""
    engine = Engine()
    survey = engine.survey()
    changed = {each.name: each for each in wanted.values()}
    apply(engine, survey, Wish({**survey.stored.manifests, **changed}, set(changed), set(), load_only=True), {})


def with_param(manifest: Any, name: str, **changes: Any) -> Any:
    params = {**manifest.params, name: {**manifest.params[name], **changes}}
    return dataclasses.replace(manifest, params=params)


def link() -> None:
    (PINS / LEAF / "link").unlink()


def record() -> None:
    (PINS / LEAF / "decision_end").unlink()


def parameter() -> None:
    load(leaf=with_param(manifests()[LEAF], "min_usage", value=7))


def mode() -> None:
    load(second=with_param(manifests()[SECOND], "mode", value="enforce", number=0))


def other() -> None:
    found = manifests()
    load(leaf=dataclasses.replace(found[SECOND], name=LEAF, order=found[LEAF].order))


def order() -> None:
    found = manifests()
    load(leaf=dataclasses.replace(found[LEAF], order=found[SECOND].order), second=dataclasses.replace(found[SECOND], order=1))


def edited_object() -> None:
    with open(STATE / "objects" / f"{manifests()[LEAF].inputs}.o", "ab") as file:
        file.write(b"\0")


def edited_manifest() -> None:
    path = STATE / "current" / f"{LEAF}.json"
    path.write_text(path.read_text().replace('"order": 10', '"order": 11'))


def removed_manifest() -> None:
    (STATE / "current" / f"{PRESSURE}.json").unlink()


def tags() -> None:
    path = pathlib.Path("/run/linuxmm-bpf-oom/loaded.json")
    known = json.loads(path.read_text())
    known[LEAF] = dict.fromkeys(known[LEAF], "0" * 16)
    path.write_text(json.dumps(known))


def second_pin() -> None:
    number = Engine().survey().loaded[PRESSURE].link_id
    subprocess.run(["bpftool", "link", "pin", "id", str(number), str(PINS / PRESSURE / "link_new")], check=True)


def foreign_link() -> None:
    path = STATE / "objects" / f"{manifests()[SECOND].inputs}.o"
    os.makedirs("/sys/fs/bpf/foreign", exist_ok=True)
    subprocess.run(["bpftool", "struct_ops", "register", str(path), "/sys/fs/bpf/foreign"], check=True)


def foreign_map() -> None:
    """Registered by the map itself, as everything was before there were links: the section is called otherwise then."""
    data = (STATE / "objects" / f"{manifests()[SECOND].inputs}.o").read_bytes()
    path = pathlib.Path("/root/foreign.o")
    path.write_bytes(data.replace(b".struct_ops.link\0", b".struct_ops\0link\0"))
    subprocess.run(["bpftool", "struct_ops", "register", str(path)], check=True)


def main() -> None:
    verbs = (
        link,
        record,
        parameter,
        mode,
        other,
        order,
        edited_object,
        edited_manifest,
        removed_manifest,
        tags,
        second_pin,
        foreign_link,
        foreign_map,
    )
    {verb.__name__: verb for verb in verbs}[sys.argv[1]]()


if __name__ == "__main__":
    main()
