# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host can do, read by the real libbpf from BTF that the real clang made, in a tree of our own."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.compiler import compile_bundle, find_toolchain
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.engine import Engine
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.run import run
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.capability import (
    KFUNCS,
    Capability,
    read_capability,
    together,
)
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.core import elf_sections
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.libbpf import KIND_DATASEC, Library
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.object import verifier_reason
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.module_utils.common import OBJECT, manifest

TYPES = """
typedef unsigned long long u64;
typedef unsigned int u32;
struct oom_control; struct task_struct; struct mem_cgroup; struct cgroup_subsys_state; struct bpf_psi; struct psi_trigger;
"""
OOM_OPS = "struct bpf_oom_ops { int (*handle_out_of_memory)(struct oom_control *oc); char name[64]; } oom;\n"
PSI_OPS = """
struct bpf_psi_ops {
    int (*init)(struct bpf_psi *psi);
    void (*handle_psi_event)(struct psi_trigger *t);
    void (*handle_cgroup_free)(u64 cgroup_id);
} psi;
"""
STRUCTS = f"""{TYPES}{OOM_OPS}{PSI_OPS}
const volatile unsigned long long limit = 7;
const volatile int below = -2;
const volatile char word[8] = "word";
"""
#: As the first public version has them.
FUNCTIONS = {
    "bpf_oom_kill_process": "struct oom_control *oc, struct task_struct *task, const char *message__str",
    "bpf_out_of_memory": "struct mem_cgroup *memcg__nullable, int order, _Bool wait, const char *constraint_text__nullable",
    "bpf_task_is_oom_victim": "struct task_struct *task",
    "bpf_psi_create_trigger": "struct bpf_psi *psi, u64 cgroup_id, u32 resource, u32 threshold_us, u32 window_us",
    "bpf_get_root_mem_cgroup": "void",
    "bpf_get_mem_cgroup": "struct cgroup_subsys_state *css",
    "bpf_put_mem_cgroup": "struct mem_cgroup *memcg",
}


def defined(**changes: str) -> str:
    """The kfuncs in C, those in `changes` with other arguments."""
    return "".join(f"int {name}({taken}) {{ return 0; }}\n" for name, taken in {**FUNCTIONS, **changes}.items())


def kernel(source: str) -> bytes:
    """Type information alone, as a kernel shows it."""
    return elf_sections(compile_bundle("kernel", {"kernel.c": source}, "kernel.c", find_toolchain()))[".BTF"]


class Bpf(Library):
    """The real library, but that bpf() answers as a test wants: who runs the tests may not be root."""

    ANSWERS: ClassVar = {"bpf_prog_get_next_id": -errno.ENOENT, "bpf_map_create": -errno.EINVAL, "bpf_prog_load": -errno.EINVAL}
    answers: dict[str, int] = ANSWERS

    def call(self, name: str, *arguments: Any) -> Any:
        return self.answers[name] if name in self.answers else super().call(name, *arguments)


@pytest.fixture(scope="module")
def lib() -> Library:
    # Reading BTF works with any libbpf 1.x; loading is what needs a later one.
    return Bpf(minimum=(1, 0))


@pytest.fixture(scope="module")
def capable() -> bytes:
    assert set(FUNCTIONS) == {name for names in KFUNCS.values() for name in names}
    return kernel(STRUCTS + defined())


@pytest.fixture
def tree(tmp_path: Path, capable: bytes) -> Path:
    files = {
        "proc/sys/kernel/osrelease": "6.12.0-test\n",
        "proc/cmdline": "root=/dev/vda quiet\n",
        "proc/mounts": "/dev/vda / ext4 rw 0 0\nsysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,nosuid,mode=700 0 0\n",
        "proc/self/status": "Name:\tx\nCapEff:\t000001ffffffffff\nSeccomp:\t0\n",
        "proc/self/uid_map": "         0          0 4294967295\n",
        "proc/pressure/memory": "some avg10=0.00\n",
        "sys/fs/cgroup/cgroup.controllers": "cpu io memory pids\n",
        "sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
        "sys/kernel/btf/vmlinux": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "sys/kernel/btf/vmlinux").write_bytes(capable)
    return tmp_path


def read(tree: Path, lib: Library) -> Capability:
    return read_capability(Paths(str(tree)), lib, None)


def test_a_capable_host(tree: Path, lib: Library) -> None:
    found = read(tree, lib)
    assert found.problems == []
    assert found.report()["oom"] is True
    assert found.report()["psi"] is True
    assert found.structs["bpf_oom_ops"] == ["handle_out_of_memory", "name"]
    assert not found.has("psi", "handle_cgroup_online")


BPFFS = "/dev/vda / ext4 rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n"


@pytest.mark.parametrize(
    ("file", "text", "identity", "says"),
    [
        ("proc/cmdline", "quiet linuxmm.bpf_oom=off\n", "off", "switched off.*boot without that word"),
        ("proc/mounts", "tmpfs /tmp tmpfs rw 0 0\n", "bpffs", "No BPF file system.*mount it"),
        ("proc/mounts", f"{BPFFS}tmpfs /sys/fs tmpfs rw 0 0\n", "bpffs_hidden", "hidden by a tmpfs mounted on /sys/fs; unmount"),
        ("proc/mounts", f"{BPFFS}tmpfs /sys/fs/bpf tmpfs rw 0 0\n", "bpffs_hidden", "hidden by a tmpfs mounted on /sys/fs/bpf;"),
        ("proc/mounts", "bpf /sys/fs/bpf bpf nosuid,ro 0 0\n", "bpffs_read_only", "mounted read-only; mount -o remount,rw"),
        ("proc/self/uid_map", "0 1000 1\n", "user_namespace", "root only in a user namespace.*manage the host itself"),
        ("proc/self/status", "CapEff:\t00000000a80425fb\n", "capabilities", "lacks CAP_SYS_ADMIN.*manage the host itself"),
        ("sys/fs/cgroup/cgroup.controllers", "cpu pids\n", "memcg", "memory controller.*boot"),
        ("sys/fs/cgroup/cgroup.controllers", None, "cgroup1", "not cgroup v2; boot"),
        ("sys/kernel/btf/vmlinux", None, "btf", "no /sys/kernel/btf/vmlinux; boot"),
        ("sys/kernel/security/lockdown", "none integrity [confidentiality]\n", "lockdown", "locked down.*boot"),
    ],
)
def test_what_keeps_both_kinds_away(tree: Path, lib: Library, file: str, text: str | None, identity: str, says: str) -> None:
    if text is None:
        (tree / file).unlink()
    else:
        (tree / file).write_text(text)
    (problem,) = read(tree, lib).problems
    assert problem.id == identity
    with pytest.raises(BpfOomError, match=says):
        raise BpfOomError(problem.cause, problem.remedy)
    assert not read(tree, lib).report()["oom"]
    assert not read(tree, lib).report()["psi"]


def test_what_is_mounted_elsewhere_hides_nothing(tree: Path, lib: Library) -> None:
    (tree / "proc/mounts").write_text(f"{BPFFS}tmpfs /sys/fs/bpfx tmpfs rw 0 0\ntmpfs /sys/fs/bpf/in tmpfs rw 0 0\n")
    assert read(tree, lib).problems == []


APPARMOR, SELINUX = "sys/module/apparmor/parameters/enabled", "sys/fs/selinux/enforce"


@pytest.mark.parametrize(
    ("files", "identity", "says"),
    [
        ({"proc/self/status": "CapEff:\t000001ffffffffff\nSeccomp:\t2\n"}, "seccomp", "seccomp filter denies bpf"),
        (
            {SELINUX: "1", "proc/self/attr/current": "system_u:system_r:web_t:s0\0"},
            "selinux",
            r"SELinux denies bpf\(\) to system_u:",
        ),
        (
            {APPARMOR: "Y\n", "proc/self/attr/current": "docker-default (enforce)\n"},
            "apparmor",
            r"process \(docker-default \(enf",
        ),
        ({APPARMOR: "Y\n", "proc/self/attr/current": "unconfined\n"}, "denied", r"kernel denies bpf\(\) to root"),
        ({SELINUX: "0", "proc/self/attr/current": "kernel\0"}, "denied", r"kernel denies bpf\(\) to root"),
    ],
)
@pytest.mark.parametrize("answer", [errno.EPERM, errno.EACCES])
@pytest.mark.parametrize("denied", sorted(Bpf.ANSWERS))
def test_who_is_in_the_way_of_bpf_is_named(
    tree: Path,
    lib: Library,
    files: dict[str, str],
    identity: str,
    says: str,
    answer: int,
    denied: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lib, "answers", {**Bpf.ANSWERS, denied: -answer})
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    (problem,) = read(tree, lib).problems
    assert problem.id == identity
    assert re.search(says, problem.sentence)


@pytest.mark.parametrize(("switch", "may"), [("0\n", True), ("1\n", False), ("2\n", False), (None, None)])
def test_whether_anybody_may_load_bpf_is_told(tree: Path, lib: Library, switch: str | None, may: bool | None) -> None:
    if switch is not None:
        (tree / "proc/sys/kernel/unprivileged_bpf_disabled").write_text(switch)
    found = read(tree, lib)
    assert found.report()["unprivileged_bpf"] is may
    assert found.problems == []


def test_psi_off_keeps_only_psi_policies_away(tree: Path, lib: Library) -> None:
    (tree / "proc/pressure/memory").unlink()
    found = read(tree, lib)
    assert "PSI is off" in found.blocking("psi")[0].sentence
    assert found.blocking("oom") == []


ONLINE = "void (*handle_cgroup_online)(u64 cgroup_id); } psi;"
FLEET = f"""{TYPES}{OOM_OPS}{PSI_OPS.replace("} psi;", ONLINE)}
enum bpf_psi_resource_flags {{ BPF_PSI_AVERAGES = 0x40000000 }} flags;
enum bpf_oom_limits {{ BPF_OOM_MAX_STRIKES = 3 }} limits;
struct oom_control {{ const char *bpf_policy_name; }} control;
"""


def test_the_plain_interface_has_no_feature_and_no_problem(tree: Path, lib: Library) -> None:
    found = read(tree, lib)
    features = {"cgroup_online": False, "averages": False, "bypass": False, "own_report": False, "free_memory": True}
    assert found.features == features
    assert found.problems == []


@pytest.mark.parametrize(("switch", "shows"), [("0\n", True), ("1\n", True), ("2\n", False), (None, True)])
def test_free_memory_is_told_where_the_kernel_shows_its_addresses(
    tree: Path, lib: Library, switch: str | None, shows: bool
) -> None:
    if switch is not None:
        (tree / "proc/sys/kernel/kptr_restrict").write_text(switch)
    assert read(tree, lib).report()["features"]["free_memory"] is shows


def test_features_are_read_from_btf(tree: Path, lib: Library) -> None:
    (tree / "sys/kernel/btf/vmlinux").write_bytes(kernel(FLEET + defined()))
    found = read(tree, lib).report()
    features = {"cgroup_online": True, "averages": True, "bypass": True, "own_report": True, "free_memory": True}
    assert found["features"] == features
    assert found["interface"] == "kernel"


def of_module(lib: Library, base: Path, later: bool = False) -> bytes:
    """The types of a module as the kernel shows them: they go on where those of its base end."""

    def call(name: str, result: object, *arguments: object) -> Any:
        function = getattr(lib._library, name)
        function.restype = result
        return function(*arguments)

    split = ctypes.c_void_p(call("btf__new_empty_split", ctypes.c_void_p, ctypes.c_void_p(lib.kernel_btf(str(base)).handle)))

    def pointer(kind: str, name: str) -> int:
        target = call("btf__add_fwd", ctypes.c_int, split, name.encode(), 0) if kind == "struct" else integers[kind]
        return int(call("btf__add_ptr", ctypes.c_int, split, target))

    def proto(*taken: int) -> int:
        made = int(call("btf__add_func_proto", ctypes.c_int, split, 0))
        for number, each in enumerate(taken):
            call("btf__add_func_param", ctypes.c_int, split, f"p{number}".encode(), each)
        return made

    integers = {
        name: call("btf__add_int", ctypes.c_int, split, name.encode(), ctypes.c_size_t(size), encoding)
        for name, size, encoding in (("u64", 8, 0), ("u32", 4, 0), ("int", 4, 1), ("bool", 1, 4), ("char", 1, 1))
    }
    names = ("oom_control", "task_struct", "mem_cgroup", "cgroup_subsys_state", "bpf_psi", "bpf_psi_event")
    oom, task, memcg, css, psi, event = (pointer("struct", name) for name in names)
    text, u64, u32 = pointer("char", ""), integers["u64"], integers["u32"]
    callbacks = {
        b"bpf_oom_ops": {b"handle_out_of_memory": [oom, css] if later else [oom], b"name": [text]},
        b"bpf_psi_ops": {b"init": [psi], b"handle_psi_event": [event], b"handle_cgroup_online": [u64]},
    }
    protos = {member: proto(*taken) for members in callbacks.values() for member, taken in members.items()}
    pointers = {member: call("btf__add_ptr", ctypes.c_int, split, each) for member, each in protos.items()}
    for struct, members in callbacks.items():
        call("btf__add_struct", ctypes.c_int, split, struct, 8 * len(members))
        for index, member in enumerate(members):
            type_id = text if member == b"name" else pointers[member]
            call("btf__add_field", ctypes.c_int, split, member, type_id, 64 * index, 0)
    for enum, value in ((b"bpf_psi_resource_flags", b"BPF_PSI_AVERAGES"), (b"bpf_oom_limits", b"BPF_OOM_MAX_STRIKES")):
        call("btf__add_enum", ctypes.c_int, split, enum, 4)
        call("btf__add_enum_value", ctypes.c_int, split, value, ctypes.c_int64(1))
    kfuncs = {
        b"bpf_oom_kill_process": [oom, task, text],
        b"bpf_out_of_memory": [memcg, integers["int"], integers["bool"], text],
        b"bpf_task_is_oom_victim": [task],
        b"bpf_psi_create_trigger": [psi, u64, u32, u32, u32],
        b"bpf_get_root_mem_cgroup": [],
        b"bpf_get_mem_cgroup": [css],
        b"bpf_put_mem_cgroup": [memcg],
    }
    for name, taken in kfuncs.items():
        made = proto(*taken)
        call("btf__add_func", ctypes.c_int, split, name, 1, made)
    size = ctypes.c_uint32()
    data = call("btf__raw_data", ctypes.c_void_p, split, ctypes.byref(size))
    return ctypes.string_at(data, size.value)


def test_a_stock_kernel_is_capable_by_the_module(tree: Path, lib: Library) -> None:
    vmlinux = tree / "sys/kernel/btf/vmlinux"
    vmlinux.write_bytes(kernel("int other;\n"))
    assert read(tree, lib).report()["interface"] is None
    vmlinux.with_name("bpf_oom").write_bytes(of_module(lib, vmlinux))
    found = read(tree, lib)
    assert found.problems == []
    assert found.structs["bpf_psi_ops"] == ["init", "handle_psi_event", "handle_cgroup_online"]
    report = found.report()
    assert (report["interface"], report["oom"], report["psi"]) == ("module", True, True)
    features = {"cgroup_online": True, "averages": True, "bypass": True, "own_report": False, "free_memory": True}
    assert report["features"] == features


def test_a_module_of_another_version_is_to_be_replaced(tree: Path, lib: Library) -> None:
    vmlinux = tree / "sys/kernel/btf/vmlinux"
    vmlinux.write_bytes(kernel("int other;\n"))
    vmlinux.with_name("bpf_oom").write_bytes(of_module(lib, vmlinux, later=True))
    (problem,) = read(tree, lib).problems
    assert (problem.id, problem.kind) == ("version", "oom")
    assert "handle_out_of_memory(struct oom_control *, struct cgroup_subsys_state *)" in problem.cause
    assert problem.remedy == "run the role linuxmm.bpf_oom.kernel, which brings the module of this version"


def test_a_kernel_without_the_interface(tree: Path, lib: Library) -> None:
    (tree / "sys/kernel/btf/vmlinux").write_bytes(kernel("int other;\n"))
    found = Capability()
    found = read(tree, lib)
    assert [problem.kind for problem in found.problems] == ["oom", "psi"]
    begins = "The kernel 6.12.0-test has no struct bpf_oom_ops; run the role linuxmm.bpf_oom.kernel"
    assert found.problems[0].sentence.startswith(begins)


def test_a_kernel_with_half_of_it(tree: Path, lib: Library) -> None:
    (tree / "sys/kernel/btf/vmlinux").write_bytes(kernel(STRUCTS))
    assert "another version of the interface: no bpf_oom_kill_process(), no" in read(tree, lib).blocking("oom")[0].sentence


LINK = "struct oom_control *oc, struct bpf_struct_ops_link *link"
LATER = f"struct bpf_struct_ops_link; struct bpf_oom_ctx; {TYPES}"


@pytest.mark.parametrize(
    ("source", "oom", "psi"),
    [
        # The third public version: the handler takes its link, and pressure is a tracepoint.
        (
            LATER + OOM_OPS.replace("struct oom_control *oc", LINK) + defined(),
            "handle_out_of_memory(struct oom_control *, struct bpf_struct_ops_link *)",
            "no struct bpf_psi_ops",
        ),
        # The author's later tree.
        (
            "struct cgroup;" + TYPES + OOM_OPS.replace("*oc", "*oc, struct cgroup *cgrp") + PSI_OPS + defined(),
            "handle_out_of_memory(struct oom_control *, struct cgroup *)",
            "",
        ),
        # The second: another first argument, flags for a bool, events with a leading bpf_psi.
        (
            LATER
            + OOM_OPS.replace("struct oom_control *oc", "struct bpf_oom_ctx *ctx")
            + PSI_OPS.replace("(struct psi_trigger", "(struct bpf_psi *psi, struct psi_trigger")
            + defined(bpf_out_of_memory="struct mem_cgroup *memcg__nullable, int order, u64 flags"),
            "handle_out_of_memory(struct bpf_oom_ctx *)",
            "handle_psi_event(struct bpf_psi *, struct psi_trigger *), bpf_out_of_memory(struct mem_cgroup *, s32, u64)",
        ),
        (TYPES + OOM_OPS + PSI_OPS.replace("u64 cgroup_id", "void") + defined(), "", "handle_cgroup_free()"),
        (TYPES + OOM_OPS + defined(), "", "no struct bpf_psi_ops"),
        (TYPES + PSI_OPS + defined(), "no struct bpf_oom_ops", ""),
        (
            STRUCTS + defined(bpf_oom_kill_process="struct oom_control *oc, int pid"),
            "bpf_oom_kill_process(struct oom_control *, s32)",
            "",
        ),
    ],
)
def test_another_version_of_the_interface_is_told_by_its_prototypes(
    tree: Path, lib: Library, source: str, oom: str, psi: str
) -> None:
    """FAULTS.md B7: capable by the names, and then the load failed with a sentence about the verifier."""
    (tree / "sys/kernel/btf/vmlinux").write_bytes(kernel(source))
    found = read(tree, lib)
    for kind, wrong in (("oom", oom), ("psi", psi)):
        blocking = found.blocking(kind)
        assert [problem.id for problem in blocking] == (["version"] if wrong else [])
        for problem in blocking:
            begins = f"The kernel 6.12.0-test has another version of the interface: {wrong}; boot a kernel with this version"
            assert problem.sentence.startswith(begins)


@pytest.mark.parametrize("on_incapable", ["fail", "persist_only"])
def test_another_version_is_refused_before_a_load_is_tried(tree: Path, lib: Library, on_incapable: str) -> None:
    if os.geteuid() != 0:
        pytest.fail("the engine is for root: run these tests as root")
    (tree / "sys/kernel/btf/vmlinux").write_bytes(kernel(LATER + OOM_OPS.replace("struct oom_control *oc", LINK) + defined()))
    for name in ("var/lib", "run"):
        (tree / name).mkdir(parents=True)
    wanted = {key: getattr(manifest(), key) for key in manifest().__dataclass_fields__ if key != "name"}
    # Whoever loads opens the object first, and this is none.
    (tree / "object").write_bytes(OBJECT)
    blobs = {wanted["inputs"]: str(tree / "object")}
    request = {"state": "present", "exclusive": True, "absent": [], "policies": {"leaf": wanted}, "blobs": blobs}
    engine = Engine(Paths(str(tree)), lib)
    if on_incapable == "fail":
        with pytest.raises(BpfOomError, match="another version of the interface: handle_out_of_memory"):
            run({**request, "on_incapable": on_incapable}, False, engine)
        return
    result = run({**request, "on_incapable": on_incapable}, False, engine)
    assert "another version of the interface" in result["warnings"][0]
    assert "another version of the interface" in result["policies"]["leaf"]["why"]


@pytest.mark.parametrize("data", [b"nonsense", b"", b"\x9f\xeb\1\0" + 20 * b"\xff"])
def test_btf_that_is_none(tree: Path, lib: Library, data: bytes) -> None:
    (tree / "sys/kernel/btf/vmlinux").write_bytes(data)
    with pytest.raises(BpfOomError, match="cannot be read"):
        read_capability(Paths(str(tree)), Library(minimum=(1, 0)), None)


def test_libbpf_too_old() -> None:
    with pytest.raises(BpfOomError, match=r"libbpf 1\.[0-9]+ is too old; install libbpf 99.0 or later"):
        Library(minimum=(99, 0))


def test_libbpf_missing(tree: Path) -> None:
    with pytest.raises(BpfOomError, match=r"libbpf-none\.so\.1 is not installed; install libbpf 1\.5 or later") as caught:
        Library(soname="libbpf-none.so.1")
    (problem,) = read_capability(Paths(str(tree)), None, caught.value).problems
    assert problem.id == "libbpf_missing"


def test_what_only_another_kernel_mends_comes_first(tree: Path, lib: Library) -> None:
    """FAULTS.md B11: the first reason was cgroup v2, and nobody said that another kernel is needed, too."""
    (tree / "sys/fs/cgroup/cgroup.controllers").unlink()
    (tree / "sys/kernel/btf/vmlinux").write_bytes(kernel("int other;\n"))
    found = read(tree, lib)
    assert [problem.id for problem in found.blocking("psi")] == ["kernel", "cgroup1"]
    assert [problem["id"] for problem in found.report()["problems"]] == ["kernel", "kernel", "cgroup1"]
    said = str(together([*found.blocking("oom"), *found.blocking("psi")]))
    assert re.fullmatch(
        r"The kernel 6\.12\.0-test has no struct bpf_oom_ops, and the kernel 6\.12\.0-test has no struct bpf_psi_ops; "
        r"run the role linuxmm\.bpf_oom\.kernel[^;]*\. /sys/fs/cgroup is not cgroup v2; boot [^;]*\.",
        said,
    )


@pytest.mark.parametrize(
    ("module", "ids"), [(False, ["kernel", "kernel", "libbpf_old"]), (True, ["libbpf_old"])], ids=["stock", "with the module"]
)
def test_that_the_kernel_lacks_it_is_also_said_with_an_old_libbpf(tree: Path, lib: Library, module: bool, ids: list[str]) -> None:
    vmlinux = tree / "sys/kernel/btf/vmlinux"
    vmlinux.write_bytes(kernel("int other;\n"))
    if module:
        vmlinux.with_name("bpf_oom").write_bytes(of_module(lib, vmlinux))
    with pytest.raises(BpfOomError) as caught:
        Library(minimum=(99, 0))
    found = read_capability(Paths(str(tree)), None, caught.value)
    assert [problem["id"] for problem in found.report()["problems"]] == ids
    vmlinux.unlink()
    assert [problem.id for problem in read_capability(Paths(str(tree)), None, caught.value).sorted()] == ["btf", "libbpf_old"]


def test_data_is_read_by_name(tree: Path, lib: Library, tmp_path: Path) -> None:
    btf = lib.kernel_btf(str(tree / "sys/kernel/btf/vmlinux"))
    fields = btf.variables(btf.find(".rodata", KIND_DATASEC))
    assert {name: field.size for name, field in fields.items()} == {"limit": 8, "below": 4, "word": 8}
    placed = {name: field._replace(offset=0) for name, field in fields.items()}
    assert btf.decode((7).to_bytes(8, "little"), placed["limit"]) == 7
    assert btf.decode((-2).to_bytes(4, "little", signed=True), placed["below"]) == -2
    assert btf.decode(b"word\0\0\0\0", placed["word"]) == "word"
    # Names that differ in a byte that is no UTF-8 stay two.
    for read_one in (lambda raw: btf.decode(raw, placed["word"]), btf.reader(fields["word"].type_id)):
        assert [read_one(raw) for raw in (b"w\xff\0rd\0\0\0", b"w\xfe\0rd\0\0\0")] == ["w\ufffdff", "w\ufffdfe"]


LOG = "libbpf: prog 'p': -- BEGIN PROG LOAD LOG --\n{}-- END PROG LOAD LOG --\nlibbpf: failed\n"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("0: (79) r1 = 5\nR1 invalid mem access 'scalar'\nprocessed 3 insns (limit 1000000)\n", "R1 invalid mem access 'scalar'"),
        ("0: (79) r1 = 5\n12: (85) call x\n", ""),
        ("; source line\n", ""),
        ("", ""),
    ],
)
def test_the_reason_in_a_verifier_log(body: str, reason: str) -> None:
    assert verifier_reason(LOG.format(body)) == reason


def test_no_verifier_log() -> None:
    assert verifier_reason("libbpf: something else\n") == ""
