# SPDX-License-Identifier: GPL-3.0-or-later
"""What this host can do: read from its kernel's BTF and mounts, never from a version number."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

from .._common.errors import BpfOomError, Several, from_errno
from .._store.paths import OFF_WORD, Paths
from .interface import arguments, other_version
from .libbpf import KIND_ENUM, KIND_FUNC, KIND_STRUCT, MAP_TYPE_ARRAY, Btf, Library

STRUCTS = {"oom": "bpf_oom_ops", "psi": "bpf_psi_ops"}
KFUNCS = {
    "oom": (
        "bpf_oom_kill_process",
        "bpf_get_mem_cgroup",
        "bpf_put_mem_cgroup",
        "bpf_get_root_mem_cgroup",
        "bpf_task_is_oom_victim",
    ),
    "psi": ("bpf_psi_create_trigger", "bpf_out_of_memory", "bpf_get_mem_cgroup", "bpf_put_mem_cgroup"),
}
_NEEDED_MEMBERS = {"oom": ("handle_out_of_memory", "name"), "psi": ("init", "handle_psi_event")}
#: What was added to the plain first version of the interface. Policies work without it, with less: see LACKING.
FEATURES = ("cgroup_online", "averages", "bypass", "own_report", "free_memory")
#: A member of the patched kernel's oom_control. Without it the kernel's own report of an OOM does not name the policy nor what a
#: program declared, a line of the module beside it does.
_REPORTS_POLICY = "bpf_policy_name"
_FEATURE_ENUMS = {"averages": "bpf_psi_resource_flags", "bypass": "bpf_oom_limits"}
#: Optional callbacks, the feature each stands for, and what a policy is without it.
LACKING = {
    "handle_cgroup_online": (
        "cgroup_online",
        "this kernel does not tell about new cgroups, so a cgroup that is made anew is watched only after the next"
        " `bpf-oom apply` or run of the play",
    ),
}
# struct btf_header of the kernel's btf.h: magic, version, flags, length, then where the types are and where the strings.
_BTF_HEADER = struct.Struct("=HBBIIIII")
_BTF_MAGIC = 0xEB9F
_CAPABLE = (
    "run the role linuxmm.bpf_oom.kernel, which brings the interface to Debian's kernels as a module,"
    " or boot a kernel that has it (kernel/ of this project builds one)"
)
_THIS_VERSION = {
    "kernel": "boot a kernel with this version of it (kernel/ of this project builds one), or a stock kernel with the module",
    "module": "run the role linuxmm.bpf_oom.kernel, which brings the module of this version",
}


#: bpf() finds objects by their ids only for who has it in the first user namespace; it stands for CAP_BPF and CAP_PERFMON, too.
_CAP_SYS_ADMIN = 21
#: Problems that nothing on the host can mend but another kernel or the module.
_OF_THE_KERNEL = ("btf", "kernel", "version")
_NO = (-errno.EPERM, -errno.EACCES)
_PROBE = b"bpf_oom_probe"
_PROG_TYPE_TRACEPOINT = 5
#: Two instructions: r0 = 0; exit.
_RETURN_0 = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)
ON_THE_HOST = "manage the host itself, not a container or a confined service on it"
_FIRST_USER_NAMESPACE = ["0", "0", "4294967295"]
_BPFFS = "/sys/fs/bpf"


@dataclass(frozen=True)
class Problem:
    id: str
    kind: str  # oom, psi, or '' for both
    cause: str
    remedy: str

    @property
    def error(self) -> BpfOomError:
        return BpfOomError(self.cause, self.remedy)

    @property
    def sentence(self) -> str:
        return str(self.error)


def together(problems: Iterable[Problem]) -> BpfOomError:
    """All of them in one message; at least one."""
    return Several([each.error for each in problems])


@dataclass
class Capability:
    kernel: str = ""
    libbpf: Optional[str] = None
    interface: Optional[str] = None  # kernel or module, whoever has it; None: nobody
    structs: Dict[str, List[str]] = field(default_factory=dict)
    kfuncs: List[str] = field(default_factory=list)
    features: Dict[str, bool] = field(default_factory=lambda: dict.fromkeys(FEATURES, False))
    unprivileged_bpf: Optional[bool] = None  # whether users without rights may load BPF, None: the kernel does not say
    problems: List[Problem] = field(default_factory=list)

    def add(self, identity: str, cause: str, remedy: str, kind: str = "") -> None:
        self.problems.append(Problem(identity, kind, cause, remedy))

    def blocking(self, kind: str) -> List[Problem]:
        """What keeps policies of this kind from being loaded: first what only another kernel, or the module, can mend."""
        return [problem for problem in self.sorted() if problem.kind in ("", kind)]

    def sorted(self) -> List[Problem]:
        return sorted(self.problems, key=lambda problem: problem.id not in _OF_THE_KERNEL)

    def has(self, kind: str, member: str) -> bool:
        return member in self.structs.get(STRUCTS[kind], [])

    def report(self) -> Dict[str, Any]:
        return {
            "oom": not self.blocking("oom"),
            "psi": not self.blocking("psi"),
            "kernel": self.kernel,
            "libbpf": self.libbpf,
            "interface": self.interface,
            "structs": self.structs,
            "kfuncs": self.kfuncs,
            "features": self.features,
            "unprivileged_bpf": self.unprivileged_bpf,
            "problems": [{"id": each.id, "kind": each.kind or "any", "sentence": each.sentence} for each in self.sorted()],
        }


def read_capability(paths: Paths, lib: Optional[Library], lib_error: Optional[BpfOomError]) -> Capability:
    found = Capability()
    try:
        found.kernel = paths.read("/proc/sys/kernel/osrelease").strip()
        if OFF_WORD in paths.read("/proc/cmdline").split():
            found.add("off", f"loading is switched off by '{OFF_WORD}' on the kernel command line", "boot without that word")
    except OSError:
        found.add("proc", "/proc is not mounted", "mount it")
    _read_rights(paths, found)
    _read_mounts(paths, found)
    _read_addresses(paths, found)
    if lib is None:
        if lib_error is not None:
            found.libbpf = None
            identity = "libbpf_missing" if "not installed" in lib_error.cause else "libbpf_old"
            found.add(identity, lib_error.cause, lib_error.remedy)
        _read_names(paths, found)
        return found
    found.libbpf = lib.version
    if not any(problem.id in ("user_namespace", "capabilities") for problem in found.problems):
        _try_bpf(paths, lib, found)
    _read_btf(paths, lib, found)
    return found


def _read_mounts(paths: Paths, found: Capability) -> None:
    try:
        if "memory" not in paths.read("/sys/fs/cgroup/cgroup.controllers").split():
            found.add(
                "memcg", "the memory controller of cgroup v2 is off", "boot without cgroup_disable=memory, with cgroup_no_v1=all"
            )
    except OSError:
        found.add(
            "cgroup1",
            "/sys/fs/cgroup is not cgroup v2",
            "boot with systemd.unified_cgroup_hierarchy=1 and without cgroup v1 controllers",
        )
    try:
        paths.read("/proc/pressure/memory")
    except OSError:
        found.add("psi_off", "PSI is off, so there is no pressure to watch", "boot with psi=1 on a kernel with CONFIG_PSI", "psi")
    _read_bpffs(paths, found)
    try:
        if "[confidentiality]" in paths.read("/sys/kernel/security/lockdown"):
            found.add(
                "lockdown",
                "the kernel is locked down for confidentiality and lets no BPF program read its memory",
                "boot with lockdown=integrity or none",
            )
    except OSError:
        pass  # no lockdown in this kernel: nothing to refuse


def _read_addresses(paths: Paths, found: Capability) -> None:
    """How much memory is free policies compute from the kernel's own numbers; it may be told to hide even from root where."""
    try:
        found.features["free_memory"] = paths.read("/proc/sys/kernel/kptr_restrict").strip() != "2"
    except OSError:
        found.features["free_memory"] = True  # a kernel without the switch


def missing_right(paths: Paths, capability: int, name: str) -> Optional[Tuple[str, str]]:
    """Root in a container may be nobody to the kernel: the problem's id and a clause, or None when nothing is missing."""
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", paths.read("/proc/self/status"), re.MULTILINE)
    if paths.read("/proc/self/uid_map").split() != _FIRST_USER_NAMESPACE:
        return "user_namespace", "root is root only in a user namespace here, as in a container"
    if effective and not int(effective[1], 16) >> capability & 1:
        return "capabilities", f"root lacks {name} here, as in a container"
    return None


def _read_rights(paths: Paths, found: Capability) -> None:
    try:
        missing = missing_right(paths, _CAP_SYS_ADMIN, "CAP_SYS_ADMIN")
    except OSError:
        return  # told of as /proc
    if missing:
        found.add(missing[0], f"{missing[1]}, and may not load BPF", ON_THE_HOST)
    try:
        # 0: everybody may; 1 and 2: only who has the rights.
        found.unprivileged_bpf = paths.read("/proc/sys/kernel/unprivileged_bpf_disabled").strip() == "0"
    except OSError:
        pass  # a kernel without the switch


def _denied(lib: Library) -> bool:
    """Whether this process may not list programs, make a map or load a program; what is made goes at once.

    They are asked for one by one: SELinux has a permission for each of the last two, and none for the first.
    """
    if int(lib.call("bpf_prog_get_next_id", 0, ctypes.byref(ctypes.c_uint32(0)))) in _NO:
        return True
    made = int(lib.call("bpf_map_create", MAP_TYPE_ARRAY, _PROBE, 4, 4, 1, None))
    loaded = int(lib.call("bpf_prog_load", _PROG_TYPE_TRACEPOINT, _PROBE, b"GPL", _RETURN_0, len(_RETURN_0) // 8, None))
    for number in (made, loaded):
        if number >= 0:
            os.close(number)
    return made in _NO or loaded in _NO


def _try_bpf(paths: Paths, lib: Library, found: Capability) -> None:
    """Whether bpf() does what loading needs, and when it does not, who is in the way."""
    if not _denied(lib):
        return

    def read(path: str) -> str:
        try:
            return paths.read(path).strip("\0\n ")
        except OSError:
            return ""

    context = read("/proc/self/attr/current")
    if re.search(r"^Seccomp:\s*2$", read("/proc/self/status"), re.MULTILINE):
        found.add(
            "seccomp",
            "a seccomp filter denies bpf(), as container runtimes and services have them",
            "run outside of it, or let it pass bpf()",
        )
    elif read("/sys/fs/selinux/enforce") == "1":
        found.add(
            "selinux",
            f"SELinux denies bpf() to {context or 'this process'}",
            "allow it by a policy module (its audit log names the rule), or run in another domain",
        )
    elif read("/sys/module/apparmor/parameters/enabled") == "Y" and context not in ("", "unconfined"):
        found.add(
            "apparmor", f"AppArmor confines this process ({context}) and denies bpf()", "allow it in that profile, or run outside"
        )
    else:
        found.add("denied", "the kernel denies bpf() to root", "see which security module its log names")


def _read_bpffs(paths: Paths, found: Capability) -> None:
    """What is mounted last on the directory or above it is what one sees there."""
    try:
        mounts = [line.split()[1:4] for line in paths.read("/proc/mounts").splitlines()]
    except OSError:
        mounts = []
    above = [mount for mount in mounts if f"{_BPFFS}/".startswith(mount[0].rstrip("/") + "/")]
    target, kind, options = above[-1] if above else ("", "", "")
    if (target, kind) == (_BPFFS, "bpf"):
        if "ro" in options.split(","):
            found.add("bpffs_read_only", f"the BPF file system at {_BPFFS} is mounted read-only", f"mount -o remount,rw {_BPFFS}")
    elif any(mount[:2] == [_BPFFS, "bpf"] for mount in above):
        found.add(
            "bpffs_hidden", f"the BPF file system at {_BPFFS} is hidden by a {kind} mounted on {target}", f"unmount that {kind}"
        )
    else:
        found.add("bpffs", f"no BPF file system is mounted at {_BPFFS}", f"mount it with `mount -t bpf bpf {_BPFFS}`")


def _has_btf(paths: Paths, found: Capability) -> bool:
    if os.path.exists(paths.btf):
        return True
    found.add("btf", "the kernel has no /sys/kernel/btf/vmlinux", "boot a kernel with CONFIG_DEBUG_INFO_BTF=y")
    return False


def _lacks(found: Capability, kind: str) -> None:
    found.add("kernel", f"the kernel {found.kernel} has no struct {STRUCTS[kind]}", _CAPABLE, kind)


def _read_names(paths: Paths, found: Capability) -> None:
    """Without libbpf: at least that the interface is not there, as who installs libbpf only would be told next."""
    if not _has_btf(paths, found):
        return
    there = mentioned(paths.btf, STRUCTS.values())
    if os.path.exists(paths.module_btf):
        there |= mentioned(paths.module_btf, STRUCTS.values())
    for kind, name in STRUCTS.items():
        if name not in there:
            _lacks(found, kind)


def _read_btf(paths: Paths, lib: Library, found: Capability) -> None:
    if not _has_btf(paths, found):
        return
    kfuncs = sorted({name for names in KFUNCS.values() for name in names})
    wanted = [*STRUCTS.values(), *kfuncs, *_FEATURE_ENUMS.values(), _REPORTS_POLICY]
    there = mentioned(paths.btf, wanted)
    # What the module brings stands on the kernel's own types.
    module = os.path.exists(paths.module_btf)
    if module:
        there |= mentioned(paths.module_btf, wanted)

    def types() -> Btf:
        kernel = lib.kernel_btf(paths.btf)
        return lib.kernel_btf(paths.module_btf, kernel) if module else kernel

    def find(name: str, kind: int) -> int:
        return types().find(name, kind) if name in there else 0

    functions = {name: find(name, KIND_FUNC) for name in kfuncs}
    callbacks: Dict[str, Dict[str, int]] = {}
    for name in STRUCTS.values():
        type_id = find(name, KIND_STRUCT)
        if type_id:
            members = types().members(type_id)
            found.structs[name] = list(members)
            callbacks[name] = {member: types().callback(field.type_id) for member, field in members.items()}
    found.interface = ("module" if module else "kernel") if found.structs else None
    found.kfuncs = [name for name in kfuncs if functions[name]]
    found.features.update({name: bool(find(enum, KIND_ENUM)) for name, enum in _FEATURE_ENUMS.items()})
    found.features.update({feature: found.has("psi", callback) for callback, (feature, _without) in LACKING.items()})
    found.features["own_report"] = _REPORTS_POLICY in there
    for kind, name in STRUCTS.items():
        if found.interface is None:
            _lacks(found, kind)
            continue
        wrong = [] if name in callbacks else [f"no struct {name}"]
        have = callbacks.get(name, {})
        wrong += [f"no {member} in struct {name}" for member in _NEEDED_MEMBERS[kind] if have and member not in have]
        wrong += [f"no {kfunc}()" for kfunc in KFUNCS[kind] if not functions[kfunc]]
        protos = {**have, **{kfunc: types().type(functions[kfunc]).target for kfunc in KFUNCS[kind] if functions[kfunc]}}
        for what, proto in protos.items():
            taken = arguments(types(), proto)
            if other_version(what, taken):
                wrong.append(f"{what}({', '.join(taken)})")
        if wrong:
            cause = f"the kernel {found.kernel} has another version of the interface: {', '.join(wrong)}"
            found.add("version", cause, _THIS_VERSION[found.interface], kind)


def mentioned(path: str, names: Iterable[str]) -> Set[str]:
    """Those names that are among the strings of a file of type information: no type has a name that is not.

    To look there takes a fraction of what libbpf needs to find in all types that there is none.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(_BTF_HEADER.size).ljust(_BTF_HEADER.size, b"\0")
            magic, _version, _flags, length, _types, _types_length, strings, strings_length = _BTF_HEADER.unpack(header)
            whole = magic == _BTF_MAGIC and length + strings + strings_length <= os.fstat(file.fileno()).st_size
            file.seek(length + strings)
            text = file.read(strings_length) if whole else b""
    except OSError as error:
        raise from_errno(f"the kernel's type information {path} cannot be read", error.errno or errno.EIO) from None
    if not whole:
        raise BpfOomError(f"the kernel's type information {path} cannot be read, it is none", "see what is mounted there")
    found = re.findall(b"(?:" + b"|".join(name.encode() for name in names) + b")(?=\0)", text)
    return {name.decode() for name in found}
