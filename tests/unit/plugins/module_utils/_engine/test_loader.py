# SPDX-License-Identifier: GPL-3.0-or-later
"""What a new object keeps of the loaded one's record: real objects, and maps as the kernel shows them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine import loader
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.change import apply
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.compiler import compile_bundle, find_toolchain
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.drift import Loaded, expected_rodata
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.engine import Engine, Wish
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.loader import _go_on
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.libbpf import Btf, Library, MapInfo
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.object import BpfObject
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.module_utils.common import OBJECT, manifest

SOURCE = """
#define SEC(name) __attribute__((section(name), used))
struct decision { %s; };
struct {
    int (*type)[%d];
    int (*max_entries)[%d];
    unsigned int *key;
    struct decision *value;
} decisions SEC(".maps");
unsigned long long nr_calls SEC(".data.counters") = 1;
char licence[] SEC("license") = "GPL";
"""
ARRAY, HASH = 2, 1
PLAIN = ("unsigned long long seq", ARRAY, 64)


def build(members: str, kind: int, entries: int) -> bytes:
    return compile_bundle("own", {"own.c": SOURCE % (members, kind, entries)}, "own.c", find_toolchain())


class Pinned(Library):
    """The real library, but that a pin holds the map of another object, as the kernel describes a map that is loaded."""

    def __init__(self, members: str, kind: int, entries: int, damage: str = "") -> None:
        super().__init__(minimum=(1, 0))
        self._object = BpfObject(self, build(members, kind, entries), "before")
        self._damage = damage

    @contextmanager
    def fd(self, what: str, name: str, argument: Any) -> Iterator[int]:
        if self._damage:
            raise BpfOomError(self._damage, "see what it is")
        self.pin = Path(argument.decode()).name
        yield 77

    def info(self, fd: int, into: Any) -> None:
        assert fd == 77 and isinstance(into, MapInfo)
        name = {"decisions": "decisions", "counters": ".data.counters"}[self.pin]
        for part, value in self._object.shape(name).items():
            setattr(into, part, value)
        into.btf_value_type_id = self._object.value_type(name)

    @contextmanager
    def loaded_btf(self, btf_id: int) -> Iterator[Btf]:
        yield self._object.btf


def going_on(lib: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, pin: str) -> tuple[bool, str, list[str]]:
    """What _go_on says of a plain object, and which maps the object really took over."""
    taken: list[str] = []
    with BpfObject(lib, build(*PLAIN), "own") as found:
        monkeypatch.setattr(found, "reuse", lambda name, fd: taken.append(name))
        return (*_go_on(lib, found, name, str(tmp_path / pin)), taken)


@pytest.mark.parametrize(("name", "pin"), [("decisions", "decisions"), (".data.counters", "counters")])
def test_a_map_of_the_same_form_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, pin: str) -> None:
    (tmp_path / pin).touch()
    assert going_on(Pinned(*PLAIN), tmp_path, monkeypatch, name, pin) == (True, "", [name])


@pytest.mark.parametrize(
    ("members", "kind", "entries", "why"),
    [
        ("unsigned long long seq", ARRAY, 128, "its max_entries is 128, and 64 with this release"),
        ("unsigned long long seq", ARRAY, 32, "its max_entries is 32, and 64 with this release"),
        ("unsigned long long seq", HASH, 64, "its type is 1, and 2 with this release"),
        ("unsigned long long seq, more", ARRAY, 64, "its value_size is 16, and 8 with this release"),
        ("unsigned int seq, more", ARRAY, 64, "it has another layout with this release"),
    ],
)
def test_one_of_another_form_is_made_anew_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: str, kind: int, entries: int, why: str
) -> None:
    """FAULTS.md B6: with another max_entries it was kept, and every OOM whose place it has not went unrecorded."""
    (tmp_path / "decisions").touch()
    lib = Pinned(members, kind, entries)
    assert going_on(lib, tmp_path, monkeypatch, "decisions", "decisions") == (False, why, [])


def test_where_nothing_is_pinned_there_is_nothing_to_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert going_on(Pinned(*PLAIN), tmp_path, monkeypatch, "decisions", "decisions") == (False, "", [])
    (tmp_path / "decisions").touch()
    lib = Pinned(*PLAIN, damage="it is no map")
    assert going_on(lib, tmp_path, monkeypatch, "decisions", "decisions") == (False, "it is no map", [])


def test_who_replaces_a_policy_is_told_what_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.fail("the engine is for root: run these tests as root")
    paths, wanted, told = Paths(str(tmp_path)), manifest(), "Policy 'leaf': its decisions begin anew"
    for name in ("var/lib", "run", "sys/fs/bpf"):
        (tmp_path / name).mkdir(parents=True)
    engine = Engine(paths, Library(minimum=(1, 0)))

    def load(*_arguments: object) -> list[str]:
        Path(paths.pin("leaf", new=True)).parent.mkdir(parents=True)
        Path(paths.pin("leaf", new=True)).touch()
        return [told]

    monkeypatch.setattr(loader, "load", load)
    monkeypatch.setattr(engine, "read", lambda name, new=False: Loaded(name, 1, 9, "bpf_oom_ops", name, expected_rodata(wanted)))
    with engine.locked(check=False):
        wish = Wish({"leaf": wanted}, {"leaf"}, set(), {wanted.inputs: OBJECT})
        outcome = apply(engine, engine.survey(), wish, {})
    assert told in outcome.warnings
    assert outcome.policies["leaf"]["drift"] == []


def test_numbers_of_the_kernel_are_found_by_their_names(tmp_path: Path) -> None:
    symbols = tmp_path / "kallsyms"
    symbols.write_text(
        "ffffffff82a00000 D nr_swap_pages\n"
        "ffffffff82a00010 d nr_swap_pages_of_another\n"
        "ffffffffc0a00020 d sysctl_bpf_oom_budget_ms\t[bpf_oom]\n"
        "ffffffff82a00030 B _totalram_pages\n"
    )
    found = struct.unpack("=13Q", loader._kernel_numbers(str(symbols)))
    assert found == (0xFFFFFFFF82A00030, 0, 0xFFFFFFFF82A00000, 0, 0, 0, 0xFFFFFFFFC0A00020, *[0] * 6)


def test_a_kernel_that_hides_its_addresses_is_no_hindrance(tmp_path: Path) -> None:
    assert loader._kernel_numbers(str(tmp_path / "missing")) == bytes(13 * 8)


def test_the_policies_have_as_many_numbers_as_the_loader_writes() -> None:
    header = (Path(__file__).parents[5] / "bpf/include/bpf_oom/memory.h").read_text()
    enum = header[header.index("enum kernel_number {") : header.index("NR_KERNEL_NUMBERS,")]
    names = [line.split(",")[0].strip() for line in enum.splitlines()[1:] if "," in line]
    assert len(names) == len(loader.KERNEL_NUMBERS)
    said = [line.partition("/*")[2] for line in enum.splitlines()[1:] if "," in line]
    assert all(symbol in line for symbol, line in zip(loader.KERNEL_NUMBERS, said, strict=True))
