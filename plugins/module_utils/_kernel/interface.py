# SPDX-License-Identifier: GPL-3.0-or-later
"""The version of the kernel interface that policies are written for: what its callbacks and kfuncs take.

Later public versions keep the names and move the arguments, so names alone say nothing.
The same in C is bpf/include/bpf_oom/abi.h.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Protocol, Sequence, Tuple

_INT, _PTR, _STRUCT, _UNION, _ENUM, _FWD, _FUNC_PROTO, _ENUM64 = 1, 2, 4, 5, 6, 7, 13, 19
_SIGNED, _BOOL = 1, 4
_PTR_DEPTH = 4

Arguments = Tuple[str, ...]
#: By name the arguments, as arguments() says them; of some there are two forms, a patched kernel's and the module's.
ARGUMENTS: Dict[str, Sequence[Arguments]] = {
    "handle_out_of_memory": [("struct oom_control *",)],
    "init": [("struct bpf_psi *",)],
    "handle_psi_event": [("struct psi_trigger *",), ("struct bpf_psi_event *",)],
    "handle_cgroup_free": [("u64",)],
    "handle_cgroup_online": [("u64",)],
    "bpf_oom_kill_process": [("struct oom_control *", "struct task_struct *", "char *")],
    "bpf_out_of_memory": [("struct mem_cgroup *", "s32", "bool", "char *")],
    "bpf_task_is_oom_victim": [("struct task_struct *",)],
    "bpf_psi_create_trigger": [("struct bpf_psi *", "u64", "u32", "u32", "u32")],
    "bpf_get_root_mem_cgroup": [()],
    "bpf_get_mem_cgroup": [("struct cgroup_subsys_state *",)],
    "bpf_put_mem_cgroup": [("struct mem_cgroup *",)],
}


class Plain(NamedTuple):
    """A type behind typedefs and qualifiers."""

    name: str
    kind: int
    of: int  # its size, or the id of the type that it refers to, by kind
    encoding: int  # of an integer


class Reader(Protocol):
    """Who reads type information: libbpf of what runs, core of a file."""

    def behind(self, type_id: int) -> Plain:
        """A type behind typedefs and qualifiers."""

    def parameters(self, proto_id: int) -> List[int]:
        """The types of a function's parameters; `proto_id` is its FUNC_PROTO."""


def _word(reader: Reader, type_id: int, depth: int = 0) -> str:
    found = reader.behind(type_id)
    # As libbpf does: what follows three underscores only tells variants of a type apart.
    name = found.name.split("___")[0]
    if found.kind == _PTR and depth < _PTR_DEPTH:
        target = reader.behind(found.of)
        if target.kind == _INT and target.of == 1:
            return "char *"
        return f"{_word(reader, found.of, depth + 1)} *".replace("* *", "**")
    if found.kind in (_STRUCT, _UNION, _FWD):
        return f"struct {name}"
    if found.kind in (_ENUM, _ENUM64):
        return f"enum {name}"
    if found.kind == _INT:
        return "bool" if found.encoding & _BOOL else f"{'s' if found.encoding & _SIGNED else 'u'}{8 * found.of}"
    return "function" if found.kind == _FUNC_PROTO else "void" if found.kind == 0 else f"type of kind {found.kind}"


def arguments(reader: Reader, proto_id: int) -> Arguments:
    """What a function takes, a word each: C(struct oom_control *), C(char *), C(u64), C(s32), C(bool)."""
    return tuple(_word(reader, each) for each in reader.parameters(proto_id))


def other_version(name: str, found: Arguments) -> bool:
    """Whether a callback or kfunc of the interface takes something else than policies give or expect."""
    return name in ARGUMENTS and found not in ARGUMENTS[name]


def clash(name: str, wanted: Arguments, found: Arguments) -> bool:
    """Whether what an object declares cannot be what a kernel has. Integers of other sizes and untyped pointers can."""
    if wanted in ARGUMENTS.get(name, ()):
        return other_version(name, found)

    def differ(one: str, two: str) -> bool:
        if "*" not in one or "*" not in two:
            return ("*" in one) != ("*" in two)
        return "void *" not in (one, two) and one != two

    return len(wanted) != len(found) or any(map(differ, wanted, found))


__all__ = ["ARGUMENTS", "Arguments", "Plain", "Reader", "arguments", "clash", "other_version"]
