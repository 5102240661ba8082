# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has the interface on a kernel that does not run yet. Real ELF files with real BTF, below a root of the test's own."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from pathlib import Path

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.compiler import compile_bundle, find_toolchain
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.engine import Engine
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.core import Types, elf_sections, has_interface, problems
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.module import Module
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.foresee import foresee, objections, warn_of_newest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.provide import describe
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.manifest import digest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.writer import Writer
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.module_utils.common import manifest

RUNS, NEXT = "6.12.9-amd64", "6.12.10-amd64"
BUILD = "5e" * 20
CORE = "__attribute__((preserve_access_index))"
INTERFACE = "struct bpf_oom_ops { int (*handle_out_of_memory)(void *); char name[64]; } ops;\n"
STOCK = "struct mm_struct { long flags; } mm;\n"
POLICY = (
    f'struct mm_struct {{ long flags; }} {CORE}; __attribute__((section("struct_ops.s/handle_out_of_memory"))) '
    "int f(struct mm_struct *mm) { return mm->flags; }\n"
    "struct bpf_oom_ops { int (*handle_out_of_memory)(void *); char name[64]; };"
    '__attribute__((section(".struct_ops.link"))) struct bpf_oom_ops ops = { .name = "x" };'
)


def btf(source: str) -> bytes:
    return elf_sections(compile_bundle("kernel", {"kernel.c": source}, "kernel.c", find_toolchain()))[".BTF"]


class Host:
    def __init__(self, top: Path) -> None:
        self.top, self.paths = top, Paths(str(top))
        self.module = Module(self.paths)
        for name, text in {
            "proc/sys/kernel/osrelease": RUNS + "\n",
            "proc/cmdline": "quiet\n",
            "sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
        }.items():
            self.write(name, text.encode())
        self.write("sys/kernel/btf/vmlinux", btf(STOCK))
        self.engine = Engine(self.paths)

    def write(self, name: str, data: bytes) -> Path:
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def elf(self, name: str, sections: dict[str, bytes], source: str = "") -> bytes:
        """A file with such sections, by the real tools."""
        work = self.top / "work"
        self.write("work/a.c", source.encode())
        subprocess.run(["gcc", "-c", "a.c", "-o", name], cwd=work, check=True)
        for section, data in sections.items():
            self.write("work/data", data)
            subprocess.run(["objcopy", "--add-section", f"{section}=data", name], cwd=work, check=True)
        return (work / name).read_bytes()

    def kernel(self, release: str, types: str = STOCK, build_id: str = BUILD) -> Path:
        note = struct.pack("<III", 4, 20, 3) + b"GNU\0" + bytes.fromhex(build_id)
        banner = f'const char banner[] = "Linux version {release} (builder) #1";'
        return self.write(f"boot/vmlinuz-{release}", self.elf("vmlinux", {".BTF": btf(types), ".notes": note}, banner))

    def install(self, release: str) -> Path:
        pairs = {"name": "bpf_oom", "version": "0.1.0", "source": "01", "vermagic": f"{release} SMP "}
        info = b"".join(f"{key}={value}\0".encode() for key, value in pairs.items())
        note = struct.pack("<III", 4, 20, 3) + b"GNU\0" + bytes(20)
        self.module.install(self.elf("m.ko", {".modinfo": info, ".BTF": btf(INTERFACE), ".note.gnu.build-id": note}))
        return Path(self.module.file(release))

    def persist(self) -> None:
        store, data = Writer(self.paths), compile_bundle("leaf", {"leaf.c": POLICY}, "leaf.c", find_toolchain())
        store.put_object("3" * 64, data)
        store.switch([manifest(object=digest(data))])


@pytest.fixture
def host(tmp_path: Path) -> Host:
    if os.geteuid() != 0:
        pytest.fail("the persisted set is read by root only: run these tests as root")
    for name in ("var/lib", "run"):
        (tmp_path / name).mkdir(parents=True)
    return Host(tmp_path)


def state(host: Host, **given: object) -> str:
    return str(foresee(host.engine, "", **given)["interface"]["state"])  # type: ignore[arg-type]


def test_the_newest_kernel_is_by_numbers(host: Host) -> None:
    for release in (NEXT, RUNS, "6.12.10~rc1-amd64", "6.9-amd64"):
        host.write(f"boot/vmlinuz-{release}", b"")
    host.write("usr/lib/modules/7.3.4-amd64/vmlinuz", b"")
    (host.top / "usr/lib/modules/8.0-only-modules-left").mkdir()
    host.write("boot/vmlinuz-../x".replace("../", ""), b"")
    assert host.module.kernels() == ["6.9-amd64", RUNS, "6.12.10~rc1-amd64", NEXT, "7.3.4-amd64"]


def test_a_kernel_that_has_it_needs_no_module(host: Host) -> None:
    host.kernel(NEXT, STOCK + INTERFACE)
    host.persist()
    found = foresee(host.engine, "")
    assert found["interface"]["state"] == "kernel" and found["interface"]["release"] == NEXT
    assert found["policies"]["leaf"]["loads"] and objections(found) == []


def test_no_module_is_installed_for_it(host: Host) -> None:
    host.kernel(NEXT)
    host.persist()
    found = foresee(host.engine, "", proven=[BUILD])
    assert found["interface"]["sentence"] == (
        f"No module is installed for the kernel {NEXT}; run linuxmm.bpf_oom.kernel_module with release: {NEXT}."
    )
    assert not found["policies"]["leaf"]["loads"]
    assert objections(found)[1] == "policy 'leaf' will not load on that kernel: it has no struct bpf_oom_ops"


def test_policies_are_compared_with_what_the_module_brings(host: Host) -> None:
    host.kernel(NEXT)
    host.install(NEXT)
    host.persist()
    found = foresee(host.engine, "", proven=[BUILD])
    assert found["interface"] == {
        "state": "proven",
        "release": NEXT,
        "build_id": BUILD,
        "usable": True,
        "sentence": f"A module is installed for the kernel {NEXT} (version 0.1.0, build 000000000000, for {NEXT}) "
        "and was tried on this very build of it.",
    }
    assert found["policies"]["leaf"] == {"loads": True, "problems": [], "degraded": []} and objections(found) == []
    host.kernel(NEXT, "struct mm_struct { long other; } mm;")
    found = foresee(host.engine, "", proven=[BUILD])
    assert objections(found) == [
        "policy 'leaf' will not load on that kernel: it has not, or has otherwise: struct mm_struct, flags"
    ]


def test_a_kernel_on_which_nobody_tried_it(host: Host) -> None:
    host.kernel(NEXT)
    host.install(NEXT)
    host.persist()
    found = foresee(host.engine, "", proven=["99" * 20])
    assert found["interface"]["state"] == "untried" and not found["policies"]["leaf"]["loads"]
    assert objections(found) == [
        f"A module is installed, but nobody has tried the module on this kernel, {NEXT} (build 5e5e5e5e5e5e); "
        "try it in a machine first (make prove KERNEL=linux-image-...), or set allow_untried: true"
    ]
    found = foresee(host.engine, "", allowed=True)
    assert found["interface"]["state"] == "untried" and found["interface"]["usable"] and objections(found) == []
    assert "which is allowed here" in found["interface"]["sentence"]


def test_headers_that_dkms_would_need(host: Host) -> None:
    host.kernel(NEXT)
    (host.top / "var/lib/dkms/bpf_oom/0.1.0").mkdir(parents=True)
    assert state(host) == "missing"
    (host.top / "var/lib/dkms/bpf_oom/0.1.0/source").symlink_to("/usr/src/bpf_oom-0.1.0")
    found = foresee(host.engine, "")["interface"]
    assert found["state"] == "no_headers"
    assert found["sentence"].startswith(
        f"There are no headers of the kernel {NEXT}, for which DKMS shall build the module; install "
    )
    (host.top / f"lib/modules/{NEXT}/build").mkdir(parents=True)
    assert "have no vmlinux, so DKMS cannot build" in foresee(host.engine, "")["interface"]["sentence"]
    host.write(f"lib/modules/{NEXT}/build/vmlinux", b"")
    assert state(host) == "missing"


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("sys/module/module/parameters/sig_enforce", "Y\n", "takes only signed modules .module.sig_enforce"),
        ("sys/kernel/security/lockdown", "none [integrity] confidentiality\n", "locked down, as with Secure Boot"),
        ("etc/modprobe.d/site.conf", "blacklist bpf_oom\n", "/etc/modprobe.d/site.conf says"),
    ],
)
def test_a_module_that_this_host_would_refuse(host: Host, path: str, text: str, says: str) -> None:
    host.kernel(NEXT)
    host.install(NEXT)
    assert state(host, proven=[BUILD]) == "proven"
    host.write(path, text.encode())
    found = foresee(host.engine, "", proven=[BUILD])["interface"]
    assert found["state"] == "refused" and not found["usable"]
    assert re.search(says, found["sentence"])


def test_what_holds_for_this_boot_only_is_not_held_against_the_next(host: Host) -> None:
    host.kernel(NEXT)
    host.install(NEXT)
    host.write("proc/sys/kernel/modules_disabled", b"1\n")
    assert state(host, proven=[BUILD]) == "proven"


def test_a_file_that_is_damaged(host: Host) -> None:
    host.kernel(NEXT)
    file = host.install(NEXT)
    file.write_bytes(file.read_bytes()[:100])
    found = foresee(host.engine, "")["interface"]
    assert found["state"] == "unusable" and "only a part of one" in found["sentence"]


def test_plain_types_do_not_say_which_kernel_they_are_of(host: Host) -> None:
    host.kernel(NEXT)
    host.install(NEXT)
    path = str(host.write("btf", btf(STOCK)))
    assert foresee(host.engine, path)["interface"]["state"] == "unnamed"
    # Without an image nobody knows the build.
    assert foresee(host.engine, path, NEXT, [BUILD])["interface"]["state"] == "untried"


def test_the_kernel_that_runs_is_not_unpacked(host: Host) -> None:
    host.write(f"boot/vmlinuz-{RUNS}", b"no image")
    host.write("sys/kernel/notes", struct.pack("<III", 4, 20, 3) + b"GNU\0" + bytes.fromhex(BUILD))
    assert state(host) == "missing"
    host.install(RUNS)
    assert state(host, proven=[BUILD]) == "proven"


def test_a_kernel_that_is_not_there(host: Host) -> None:
    host.write(f"boot/vmlinuz-{RUNS}", b"")
    with pytest.raises(BpfOomError, match=f"The kernel 6.99-x is not installed on this host, but {RUNS}; name one"):
        foresee(host.engine, "", "6.99-x")
    with pytest.raises(BpfOomError, match="is not installed"):
        describe(host.module, "../../etc")


def test_two_kernels_of_which_the_newer_has_no_module(host: Host) -> None:
    host.write(f"boot/vmlinuz-{RUNS}", b"")
    host.kernel(NEXT)
    assert warn_of_newest(host.module) == []  # no module was ever wanted
    host.install(RUNS)
    assert warn_of_newest(host.module)[0].startswith(f"The kernel {NEXT} is installed, too, and boots next unless")
    assert describe(host.module, "newest") == {
        "release": NEXT, "runs": False, "kernel_has_it": False, "installed": None, "running": None
    }  # fmt: skip
    host.install(NEXT)
    assert warn_of_newest(host.module) == []
    host.module.remove(NEXT)
    host.kernel(NEXT, STOCK + INTERFACE)
    assert warn_of_newest(host.module) == [] and describe(host.module, "newest")["kernel_has_it"]


def module_btf(text: bytes, first_type: tuple[int, ...], *types: tuple[int, ...]) -> bytes:
    words = [word for each in (first_type, *types) for word in each]
    body = struct.pack(f"<{len(words)}I", *words)
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(text)) + body + text


def test_types_of_a_module_go_on_where_their_base_ends() -> None:
    """As kernel/module/types.c writes them: the base names a struct, the module points to it."""
    base = module_btf(b"\0mem_cgroup\0", (1, 4 << 24, 0))
    own = module_btf(b"bpf_oom_ops\0memcg\0", (0, 2 << 24, 1), (12, 4 << 24 | 1, 8, 24, 2, 0))
    types = Types(own, Types(base))
    (number,) = types.named(4, "bpf_oom_ops")
    ((name, of),) = types.members(number)
    assert name == "memcg" and types.types[types.types[of].of].name == "mem_cgroup"
    assert has_interface(types) and not has_interface(Types(base))


def test_a_struct_that_a_module_only_names_is_the_kernels() -> None:
    reads = f"struct mem_cgroup {{ int id; }} {CORE}; int f(struct mem_cgroup *m) {{ return m->id; }}"
    data = compile_bundle("leaf", {"leaf.c": reads}, "leaf.c", find_toolchain())
    named, kernel = Types(module_btf(b"\0mem_cgroup\0", (1, 4 << 24, 0))), Types(btf("struct mem_cgroup { int id; } m;"))
    assert problems(data, kernel, named) == problems(data, named, kernel) == []
    assert problems(data, named) == ["it has not, or has otherwise: struct mem_cgroup, id"]
