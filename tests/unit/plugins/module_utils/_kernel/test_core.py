# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an object will load on another kernel, with objects and BTF that the real clang made."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.compiler import compile_bundle, find_toolchain
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.core import (
    DAMAGED,
    Types,
    elf_sections,
    problems,
    read_kernel,
    without,
)
from hypothesis import given, settings
from hypothesis import strategies as st

KERNEL = """
struct inner { int a; struct { long deep; }; };
struct mm_struct { struct inner in; unsigned long flags; int list[4]; };
enum state { NEW_STATE, OTHER };
struct bpf_oom_ops { int (*handle_out_of_memory)(void *); char name[64]; } ops;
struct bpf_psi_ops { int (*init)(void *); } psi;
typedef void (*btf_trace_mark_victim)(void *, int);
btf_trace_mark_victim trace;
struct mm_struct mm;
enum state state;
int bpf_kill(struct mm_struct *mm, int why) { return 0; }
"""

#: A program as the policies have them: what it reads is what CO-RE has to find.
PROGRAM = """
#define SEC(name) __attribute__((section(name), used))
#define CORE __attribute__((preserve_access_index))
%s
struct bpf_oom_ops { int (*handle_out_of_memory)(void *); char name[64]; };
SEC("%s") int program(void *context)
{
    struct mm_struct *mm = context;

    (void)mm;
    return %s;
}
SEC(".struct_ops.link") struct bpf_oom_ops ops = { .name = "x" };
"""
MM = "struct inner { int a; long deep; } CORE; struct mm_struct { struct inner in; unsigned long flags; int list[4]; } CORE;"


def build(source: str) -> bytes:
    return compile_bundle("object", {"object.c": source}, "object.c", find_toolchain())


def program(reads: str, types: str = MM, section: str = "struct_ops.s/handle_out_of_memory") -> bytes:
    return build(PROGRAM % (types, section, reads))


@pytest.fixture(scope="module")
def target() -> Types:
    return Types(elf_sections(build(KERNEL))[".BTF"])


@pytest.mark.parametrize("reads", ["mm->flags", "mm->in.a", "mm->in.deep", "mm->list[3]", "0"])
def test_what_the_kernel_has_is_no_problem(target: Types, reads: str) -> None:
    assert problems(program(reads), target) == []


@pytest.mark.parametrize(
    ("types", "reads", "missing"),
    [
        ("struct mm_struct { int gone; } CORE;", "mm->gone", "struct mm_struct, gone"),
        ("struct mm_struct { int flags; struct { int a; } in; } CORE;", "mm->in.a", ""),
        ("struct mm_struct { struct { int b; } in; } CORE;", "mm->in.b", "struct mm_struct, in.b"),
        ("struct mm_struct { struct { int x; } flags; } CORE;", "mm->flags.x", "struct mm_struct, flags.x"),
        ("struct mm_struct { int list[9]; } CORE;", "mm->list[8]", "struct mm_struct, list.8"),
        ("struct other { int a; } CORE; struct mm_struct { int flags; } CORE;", "((struct other *)mm)->a", "struct other, a"),
        ("struct mm_struct___old { unsigned long flags; } CORE; struct mm_struct;", "((struct mm_struct___old *)mm)->flags", ""),
        (
            "enum state { GONE = 7 }; struct mm_struct;",
            "__builtin_preserve_enum_value(*(enum state *)GONE, 1)",
            "enum state, GONE",
        ),
        (
            "enum state { OTHER = 7 }; struct mm_struct;",
            "__builtin_preserve_enum_value(*(enum state *)OTHER, 1)",
            "",
        ),
    ],
)
def test_what_the_kernel_lacks_is_named(target: Types, types: str, reads: str, missing: str) -> None:
    assert problems(program(reads, types), target) == ([f"it has not, or has otherwise: {missing}"] if missing else [])


def test_who_asks_for_a_field_has_code_for_both_answers(target: Types) -> None:
    types = "struct mm_struct { int before; } CORE; struct mm_struct___new { unsigned long flags; } CORE;"
    reads = "__builtin_preserve_field_info(((struct mm_struct___new *)mm)->flags, 2) ? 1 : mm->before"
    assert problems(program(reads, types), target) == []
    assert problems(program("mm->before", types), target) != []


def test_where_an_event_tells_the_cgroup_the_trigger_need_not() -> None:
    """The module's event has a struct of its own, the patched kernel's trigger a field."""
    types = "struct bpf_psi_event { long cgroup_id; } CORE; struct psi_trigger { long cgroup_id; } CORE;"
    exists = "__builtin_preserve_type_info(*(struct bpf_psi_event *)0, 0)"
    reads = f"{exists} ? ((struct bpf_psi_event *)mm)->cgroup_id : ((struct psi_trigger *)mm)->cgroup_id"
    data = program(reads, types + "struct mm_struct;")

    def kernel(more: str) -> Types:
        return Types(elf_sections(build(KERNEL + more))[".BTF"])

    trigger, event = "struct psi_trigger { int %s; } t;", "struct bpf_psi_event { long cgroup_id; } e;"
    assert problems(data, kernel(trigger % "group" + event)) == []
    assert problems(data, kernel(trigger % "group"), kernel(event)) == []
    assert problems(data, kernel(trigger % "cgroup_id")) == []
    assert problems(data, kernel(trigger % "group")) == ["it has not, or has otherwise: struct psi_trigger, cgroup_id"]


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ('extern int bpf_kill(struct mm_struct *mm, int why) SEC(".ksyms");', []),
        (
            'extern int bpf_kill(struct mm_struct *mm) SEC(".ksyms");',
            ["its kfunc bpf_kill() has other arguments (struct mm_struct *, s32)"],
        ),
        (
            'extern int bpf_kill(struct task_struct *mm, int why) SEC(".ksyms");',
            ["its kfunc bpf_kill() has other arguments (struct mm_struct *, s32)"],
        ),
        ('extern int bpf_kill(void *mm, unsigned char why) SEC(".ksyms");', []),
        ('extern int bpf_gone(struct mm_struct *mm, int why) SEC(".ksyms");', ["it has no kfunc bpf_gone()"]),
        ('extern int bpf_gone(struct mm_struct *mm, int why) SEC(".ksyms") __attribute__((weak));', []),
    ],
)
def test_kfuncs(target: Types, declared: str, problem: list[str]) -> None:
    name = "bpf_gone" if "bpf_gone" in declared else "bpf_kill"
    call = f"{name}((void *)mm)" if "why" not in declared else f"{name}((void *)mm, 1)"
    assert problems(program(call, f"struct mm_struct; struct task_struct; {declared}"), target) == problem


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("tp_btf/mark_victim", []),
        ("tp_btf/gone", ["it has no tracepoint gone"]),
        ("fentry/bpf_kill", []),
        ("fentry/gone", ["it has no function gone() to trace"]),
    ],
)
def test_what_is_traced(target: Types, section: str, problem: list[str]) -> None:
    assert problems(program("0", section=section), target) == problem


def test_callbacks(target: Types) -> None:
    psi = "struct bpf_psi_ops { int (*init)(void *); int (*handle_cgroup_online)(void *); %s } psi = { 0 };"
    assert problems(build(psi % ""), target) == []
    assert len(without(build(psi % ""), target)) == 1
    assert problems(build(psi % "int (*other)(void *);"), target) == ["its struct bpf_psi_ops has no other"]
    plain = Types(elf_sections(build("int nothing;"))[".BTF"])
    assert problems(build(psi % ""), plain) == ["it has no struct bpf_psi_ops"]
    assert without(build(psi % ""), plain) == []


@pytest.mark.parametrize(
    ("theirs", "found"),
    [
        ("struct oom_control *oc", ""),
        ("struct oom_control *oc, struct cgroup *cgrp", "struct oom_control *, struct cgroup *"),
        ("struct bpf_oom_ctx *ctx", "struct bpf_oom_ctx *"),
    ],
)
def test_callbacks_are_compared_by_their_prototypes(theirs: str, found: str) -> None:
    """FAULTS.md B7, of a kernel that does not run: only the names of members were looked at."""
    types = "struct oom_control; struct cgroup; struct bpf_oom_ctx; "
    ops = types + "struct bpf_oom_ops { int (*handle_out_of_memory)(%s); } ops = { 0 };"
    said = [f"it has another version of the interface: handle_out_of_memory({found})"] if found else []
    assert problems(build(ops % "struct oom_control *oc"), Types(elf_sections(build(ops % theirs))[".BTF"])) == said


@pytest.mark.parametrize("theirs", ["struct psi_trigger *t", "struct bpf_psi_event *event"])
def test_an_event_is_the_kernels_or_the_modules(theirs: str) -> None:
    ops = "struct psi_trigger; struct bpf_psi_event; struct bpf_psi_ops { void (*handle_psi_event)(%s); } ops = { 0 };"
    assert problems(build(ops % "struct psi_trigger *t"), Types(elf_sections(build(ops % theirs))[".BTF"])) == []


def zstd(data: bytes) -> bytes:
    """As the kernel's build does, from a pipe, so that the frame says nothing of its size, which stands behind it."""
    packed = subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return packed + struct.pack("<I", len(data))


def lz4(data: bytes) -> bytes:
    packed = subprocess.run(["lz4", "-q", "-l", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return packed + struct.pack("<I", len(data))


def lz4_of_blocks(data: bytes) -> bytes:
    """Of more than one block: an ELF file may end with anything."""
    return lz4(data + bytes((8 << 20) - len(data)) + b"end")


def lz4_of_one_whole_block(data: bytes) -> bytes:
    return lz4(data + bytes((8 << 20) - len(data)))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, zstd, lz4, lz4_of_blocks, lz4_of_one_whole_block])
def test_a_kernel_is_read_however_it_is_packed(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    elf = build(KERNEL)
    path = tmp_path / "vmlinuz"
    # Before it what only looks like each of them.
    decoys = b"\x1f\x8b\x08\xfd7zXZ\0\x28\xb5\x2f\xfd\x02\x21\x4c\x18"
    path.write_bytes(elf if pack is bytes else b"MZ" + decoys + bytes(100) + pack(elf) + b"more")
    assert read_kernel(str(path)).types.named(4, "mm_struct")
    path.write_bytes(elf_sections(elf)[".BTF"])
    assert read_kernel(str(path)).types.named(4, "mm_struct")


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x9f\xeb\x01\x00", b"MZ" + bytes(5000), b"\x7fELF\x02\x01" + b"\xff" * 99])
def test_a_file_without_btf_is_refused_in_words(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(data)
    with pytest.raises(BpfOomError, match="holds no BTF that could be read; give the kernel's BTF"):
        read_kernel(str(path))
    with pytest.raises(BpfOomError, match="No such file"):
        read_kernel(str(tmp_path / "gone"))


def test_what_is_no_plain_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in ((tmp_path / "pipe", "is no plain file"), (Path("/dev/zero"), "is no plain file"), (tmp_path, "directory")):
        with pytest.raises(BpfOomError, match=why):
            read_kernel(str(path))


_OBJECT: list[bytes] = []


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_object_or_btf_is_refused_in_words(data: st.DataObject) -> None:
    if not _OBJECT:
        _OBJECT.extend((program("mm->in.a"), elf_sections(build(KERNEL))[".BTF"]))
    changed = []
    for each in _OBJECT:
        damaged = bytearray(each)
        for at in data.draw(st.lists(st.integers(0, len(each) - 1), max_size=4)):
            damaged[at] = data.draw(st.integers(0, 255))
        changed.append(bytes(damaged[: data.draw(st.integers(0, len(each))) or None]))
    try:
        found = Types(changed[1])
    except DAMAGED:
        return
    try:
        problems(changed[0], found)
    except BpfOomError as error:
        assert str(error)
