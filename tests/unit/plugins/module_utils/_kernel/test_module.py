# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel module for stock kernels: what a file is, what a host would refuse, the trial. Real ELF files, no kernel."""

from __future__ import annotations

import json
import re
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel import module as _module
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.module import Module, inspect
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths

RELEASE = "6.12.0+test-amd64"
INFO = {"name": "bpf_oom", "version": "0.1.0", "source": "0123456789abcdef", "vermagic": f"{RELEASE} SMP mod_unload "}
SOURCE = """
__attribute__((section(".modinfo"), used)) static const char info[] = %s;
__attribute__((section(".BTF"), used)) static const char btf[] = "types";
int different = %d;
"""

Make = Callable[..., bytes]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A module with such information, by the real compiler and linker."""

    def build(different: int = 0, btf: bool = True, **info: str) -> bytes:
        pairs = {**INFO, **info}
        text = " ".join(f'"{key}={value}\\0"' for key, value in pairs.items() if value)
        source = SOURCE % (text, different)
        (tmp_path / "m.c").write_text(source if btf else source.replace('section(".BTF"), ', ""))
        subprocess.run(["gcc", "-c", "m.c", "-o", "m.o"], cwd=tmp_path, check=True)
        subprocess.run(["ld", "-r", "--build-id=sha1", "m.o", "-o", "m.ko"], cwd=tmp_path, check=True)
        return (tmp_path / "m.ko").read_bytes()

    return build


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "host"
    for name, text in {
        "proc/sys/kernel/osrelease": RELEASE + "\n",
        "proc/sys/kernel/random/boot_id": "boot-1\n",
        "proc/sys/kernel/modules_disabled": "0\n",
        "proc/cmdline": "quiet\n",
        "proc/self/uid_map": "0 0 4294967295\n",
        "proc/self/status": "CapEff:\t000001ffffffffff\n",
        "sys/module/module/parameters/sig_enforce": "N\n",
        "sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
    }.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


@pytest.fixture
def module(tree: Path) -> Module:
    return Module(Paths(str(tree)))


def runs(tree: Path, data: bytes, users: int = 0, version: str = "0.1.0") -> None:
    """Let the kernel of the tree have the module loaded."""
    top = tree / "sys/module/bpf_oom"
    (top / "notes").mkdir(parents=True, exist_ok=True)
    (top / "refcnt").write_text(f"{users}\n")
    if version:
        (top / "version").write_text(f"{version}\n")
    from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.core import elf_sections

    (top / "notes/.note.gnu.build-id").write_bytes(elf_sections(data)[".note.gnu.build-id"])


def test_a_file_says_what_it_is(make: Make) -> None:
    found = inspect(make())
    assert (found.release, found.version, found.source) == (RELEASE, "0.1.0", "0123456789abcdef")
    assert len(found.build_id) == 40 and not found.signed
    assert found.content == found.digest
    assert inspect(make(1)).build_id != found.build_id


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data[: len(data) // 2], "or only a part of one"),
        (lambda data: b"", "or only a part of one"),
        (lambda data: b"\x7fELF" + bytes(60), "or only a part of one"),
        (lambda data: data.replace(b"name=bpf_oom", b"name=bpf_not"), "is the kernel module bpf_not"),
        (lambda data: data.replace(b"source=", b"sourze="), "is the kernel module bpf_oom; give one that is"),
    ],
)
def test_what_is_no_module_of_ours_is_refused_in_a_sentence(make: Make, change: Callable[[bytes], bytes], says: str) -> None:
    with pytest.raises(BpfOomError, match=says):
        inspect(change(make()))


def test_a_module_without_btf_is_refused(make: Make) -> None:
    with pytest.raises(BpfOomError, match="has no BTF, so no policy could be loaded"):
        inspect(make(btf=False))


def test_what_was_installed_is_found_and_damage_is_told(tree: Path, module: Module, make: Make) -> None:
    assert module.installed(RELEASE) is None and module.differences() == []
    built = module.install(make())
    assert module.installed(RELEASE) == built and module.releases() == [RELEASE]
    path = tree / "usr/lib/linuxmm-bpf-oom/modules" / RELEASE / "bpf_oom.ko"
    path.write_bytes(make(1))
    with pytest.raises(BpfOomError, match="is not what was installed"):
        module.installed(RELEASE)
    assert "is not what was installed" in module.differences()[0]
    path.write_bytes(path.read_bytes()[:100])
    assert "only a part of one" in module.differences()[0]


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_an_interrupted_installation_leaves_the_old_or_the_new(
    tree: Path, module: Module, make: Make, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    old, new = module.install(make()), inspect(make(1))
    written = _module.write_atomic
    done: list[str] = []

    def write(name: str, *arguments: object) -> None:
        if len(done) == steps:
            raise OSError(28, "No space left on device")
        done.append(name)
        written(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(_module, "write_atomic", write)
    if steps < 3:
        with pytest.raises(BpfOomError, match=f"The module cannot be written to .*{re.escape(RELEASE)}: No space left on device"):
            module.install(make(1))
    else:
        module.install(make(1))
    assert module.installed(RELEASE) == (old if steps < 2 else new)


@pytest.mark.parametrize("there", [False, True])
def test_a_disk_that_is_full_keeps_nothing_of_a_new_module(tree: Path, module: Module, make: Make, there: bool) -> None:
    """The file may not become as large as it must: by a limit of the kernel's, in the place of a full disk."""
    before = sorted(path for path in tree.rglob("*"))
    old = module.install(make()) if there else None
    after = sorted(path for path in tree.rglob("*"))
    new = make(1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(new) // 2, limits[1]))
    try:
        with pytest.raises(BpfOomError, match=r"The module cannot be written to .*: File too large"):
            module.install(new)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert module.installed(RELEASE) == old
    left = sorted(path for path in tree.rglob("*") if there or path.name not in ("usr", "lib"))
    assert left == (after if there else before)


def test_drift_is_the_file_or_what_runs(tree: Path, module: Module, make: Make) -> None:
    module.install(make())
    assert "is not loaded" in module.differences()[0]
    runs(tree, make(1))
    assert "the module that runs is build" in module.differences()[0]
    runs(tree, make())
    assert module.differences() == []
    (tree / "proc/sys/kernel/osrelease").write_text("6.13-next\n")
    (tree / "sys/module/bpf_oom/version").unlink()
    for path in sorted((tree / "sys/module/bpf_oom").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tree / "sys/module/bpf_oom").rmdir()
    assert module.differences() == [f"no module is installed for the running kernel 6.13-next, but for {RELEASE}"]


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("proc/self/uid_map", "0 1000 1\n", "root only in a user namespace here, as in a container, and may not load modules"),
        (
            "proc/self/status",
            "CapEff:\t00000000a80425fb\n",
            "lacks CAP_SYS_MODULE here, as in a container, and may not load modules",
        ),
        ("proc/cmdline", "quiet modprobe.blacklist=floppy,bpf-oom\n", "modprobe.blacklist=floppy,bpf-oom"),
        ("proc/sys/kernel/modules_disabled", "1\n", "loads no more modules until it is booted anew"),
        ("proc/cmdline", "quiet module_blacklist=floppy,bpf_oom\n", "module_blacklist=floppy,bpf_oom"),
        ("etc/modprobe.d/site.conf", "# ours\nblacklist bpf-oom\n", "/etc/modprobe.d/site.conf says 'blacklist bpf-oom'"),
        ("usr/lib/modprobe.d/x.conf", "install bpf_oom /bin/false\n", "says 'install bpf_oom /bin/false'"),
        ("sys/module/module/parameters/sig_enforce", "Y\n", "takes only signed modules .module.sig_enforce"),
        ("sys/kernel/security/lockdown", "none [integrity] confidentiality\n", "takes only signed modules .it is locked down"),
    ],
)
def test_what_a_host_would_refuse_is_refused_in_words(
    tree: Path, module: Module, make: Make, path: str, text: str, says: str
) -> None:
    built = inspect(make())
    module.refuse(built, RELEASE)
    (tree / path).parent.mkdir(parents=True, exist_ok=True)
    (tree / path).write_text(text)
    with pytest.raises(BpfOomError, match=says):
        module.refuse(built, RELEASE)


def test_a_module_for_another_kernel_is_refused(module: Module, make: Make) -> None:
    with pytest.raises(BpfOomError, match=r"is for the kernel 6\.1\.0-other and not for"):
        module.refuse(inspect(make(vermagic="6.1.0-other SMP ")), RELEASE)


class Kernel:
    """Answers the two calls of a kernel that tests cannot make; says what it was asked."""

    def __init__(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tree, self.answers, self.asked = tree, {}, []
        monkeypatch.setattr(_module, "_syscall", self.call)

    def call(self, number: int, *arguments: object) -> int:
        self.asked.append(number)
        return self.answers.get(number, 0)


@pytest.fixture
def kernel(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tree, monkeypatch)


def test_what_is_installed_is_loaded_once_and_on_trial(tree: Path, module: Module, make: Make, kernel: Kernel) -> None:
    assert module.load() == ""
    built = module.install(make())
    assert "the module is loaded" in module.load()
    mark = module.trial()
    assert mark is not None and mark["build_id"] == built.build_id and mark["boot_id"] == "boot-1"
    runs(tree, make())
    assert module.load() == "" and len(kernel.asked) == 1
    assert module.settle() and module.trial() is None and not module.settle()


def test_the_off_word_keeps_the_module_away(tree: Path, module: Module, make: Make, kernel: Kernel) -> None:
    module.install(make())
    (tree / "proc/cmdline").write_text("linuxmm.bpf_oom=off\n")
    assert module.load() == "" and kernel.asked == []


def test_a_host_that_went_down_on_trial_does_not_load_it_again(tree: Path, module: Module, make: Make, kernel: Kernel) -> None:
    module.install(make())
    module.load()
    (tree / "proc/sys/kernel/random/boot_id").write_text("boot-2\n")
    with pytest.raises(BpfOomError, match="went down while this module was on trial"):
        module.load()
    assert len(kernel.asked) == 1
    # Another build is another trial; so is the same one when a person says so.
    module.install(make(1))
    assert module.load()
    module.install(make())
    module.settle()
    assert module.load()


def test_a_trial_that_cannot_be_noted_is_none(
    module: Module, make: Make, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    module.install(make())

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_module, "write_atomic", full)
    with pytest.raises(BpfOomError, match=r"cannot be noted, so it is not loaded: No space left"):
        module.load()
    assert kernel.asked == [] and module.trial() is None


def test_two_loads_of_one_build_are_two_trials(module: Module, make: Make, kernel: Kernel) -> None:
    module.install(make())
    module.load()
    first = module.trial()
    module.load()
    assert module.trial() != first


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot_id": "boot-1"'])
def test_half_a_mark_is_a_mark(tree: Path, module: Module, make: Make, kernel: Kernel, text: str) -> None:
    module.install(make())
    mark = tree / "var/lib/linuxmm-bpf-oom-module/trial.json"
    mark.parent.mkdir(parents=True)
    mark.write_text(text)
    with pytest.raises(BpfOomError, match="went down"):
        module.load()
    assert kernel.asked == []


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (8, "was built for another kernel"),
        (1, "does not let this process load modules"),
        (126, "signed with a key that this kernel does not trust"),
        (129, "its signature is missing or wrong"),
        (22, "does not fit this kernel"),
        (95, "Operation not supported"),
    ],
)
def test_a_load_that_fails_says_why_and_is_no_trial(module: Module, make: Make, kernel: Kernel, number: int, says: str) -> None:
    module.install(make())
    kernel.answers[313] = number
    with pytest.raises(BpfOomError, match=says):
        module.load()
    assert module.trial() is None


def test_what_the_module_says_itself_is_repeated() -> None:
    error = _module._why_not_loaded(95, "out_of_memory() of this kernel calls x() 2 times, known is 1: it has another shape")
    assert str(error).startswith("The module does not load here: out_of_memory() of this kernel calls x() 2 times")


def test_it_is_not_unloaded_under_a_policy(
    tree: Path, module: Module, make: Make, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_module, "_UNLOAD_PAUSE", 0)
    assert not module.unload()
    runs(tree, make(), users=1)
    kernel.answers[176] = 11
    with pytest.raises(BpfOomError, match="policies that stand on it are loaded"):
        module.unload()
    kernel.answers[176] = 0
    assert module.unload()


def test_nothing_is_left_when_all_is_removed(tree: Path, module: Module, make: Make, kernel: Kernel) -> None:
    before = sorted(tree.rglob("*"))
    module.install(make())
    module.load()
    module.remove_all()
    left = [path for path in sorted(tree.rglob("*")) if path not in before and path.name not in ("usr", "lib", "var")]
    assert left == []


@pytest.mark.parametrize("release", ["../../etc", "", "6.1/../x", "-rf", ".6"])
def test_a_release_is_no_path(module: Module, release: str) -> None:
    with pytest.raises(BpfOomError, match="is no release of a kernel"):
        module.file(release)


def test_the_report_is_plain_data(tree: Path, module: Module, make: Make) -> None:
    module.install(make())
    runs(tree, make(), users=3)
    report = json.loads(json.dumps(module.report()))
    assert report["installed"]["build_id"] == report["running"]["build_id"]
    assert report["running"]["users"] == 3 and report["releases"] == [RELEASE] and report["trial"] is False
