# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel module that brings the interface to a stock kernel: what is installed, what runs, and loading it.

A module of ours is a file for one release of a kernel, below /usr/lib/linuxmm-bpf-oom/modules. It is on trial from its load until
it has run for some minutes: a host that goes down meanwhile does not load it again by itself.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import time
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Optional, Tuple

from .._common.errors import BpfOomError, from_errno, printable
from .._store.paths import MODULE, OFF_WORD, Paths
from .._store.writer import write_atomic
from .capability import ON_THE_HOST, STRUCTS, mentioned, missing_right
from .core import DAMAGED, elf_sections, noted_build_id
from .kmsg import KernelLog
from .signature import split

#: x86-64 only, as the module is.
_MACHINE = "x86_64"
_CAP_SYS_MODULE = 16
_SYS_DELETE_MODULE, _SYS_FINIT_MODULE = 176, 313
_REFUSED = re.compile(r"^bpf_oom: not loaded: (.+)$")
#: A release of a kernel is the name of a directory here.
_RELEASE = re.compile(r"[0-9][0-9A-Za-z.+~_-]*")
#: After the last policy went, its programs may still hold the module for moments.
_UNLOAD_TRIES, _UNLOAD_PAUSE = 40, 0.05
_MODPROBE = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d")


@dataclass(frozen=True)
class Built:
    """What a file of the module is."""

    release: str  # of the kernel that it is for
    version: str
    source: str  # digest of its source
    build_id: str
    content: str  # digest of the file without its signature
    signer: str  # who signed it, '' for nobody
    digest: str  # of the file

    @property
    def signed(self) -> bool:
        return bool(self.signer)

    def same_as(self, other: Built) -> bool:
        """A key of elliptic curves makes another file each time, of the same."""
        return (self.content, self.signer) == (other.content, other.signer)

    def words(self) -> str:
        signed = f", signed by {self.signer[:8]}" if self.signed else ""
        return f"version {self.version}, build {self.build_id[:12]}, for {self.release}{signed}"


def inspect(data: bytes) -> Built:
    """Raises BpfOomError, in one sentence, for what cannot be this module."""
    signed = split(data)
    try:
        sections = elf_sections(signed.content)
        pairs = (each.split("=", 1) for each in sections[".modinfo"].decode("utf-8", "replace").split("\0") if "=" in each)
        info = dict(pairs)
        build_id = noted_build_id(sections.get(".note.gnu.build-id", b""))
    except DAMAGED:
        raise BpfOomError("this is no kernel module, or only a part of one", "build it again with kernel/module/build") from None
    if info.get("name") != MODULE or "source" not in info:
        raise BpfOomError(
            f"this is the kernel module {info.get('name') or 'without a name'}", f"give one that is {MODULE}"
        ) from None
    if not build_id:
        raise BpfOomError("this module has no build id", "build it again with kernel/module/build")
    if not sections.get(".BTF"):
        raise BpfOomError(
            "this module has no BTF, so no policy could be loaded with it", "build it with headers that have a vmlinux"
        )
    return Built(
        release=info.get("vermagic", "").partition(" ")[0],
        version=info.get("version", ""),
        source=info["source"],
        build_id=build_id,
        content=hashlib.sha256(signed.content).hexdigest(),
        signer=signed.signer,
        digest=hashlib.sha256(data).hexdigest(),
    )


def _version_key(release: str) -> List[Tuple[int, int, str]]:
    """Numbers by what they count, and a ~ before the end, as Debian has it."""
    words = re.findall(r"[0-9]+|~|[^0-9~]+", release)
    return [(0, 0, "") if word == "~" else (3, int(word), "") if word.isdigit() else (2, 0, word) for word in words] + [
        (1, 0, "")
    ]


@dataclass(frozen=True)
class Running:
    """What the kernel has loaded under the module's name."""

    version: str
    build_id: str
    users: int  # policies, and whoever else holds it

    @property
    def ours(self) -> bool:
        return bool(self.version)


class Module:
    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    # ------------------------------------------------------------------ what is

    @property
    def _state(self) -> str:
        return self._paths.at("/var/lib/linuxmm-bpf-oom-module")

    def release(self) -> str:
        """Of the kernel that runs, '' when /proc does not say."""
        return self._text("/proc/sys/kernel/osrelease")

    def _text(self, path: str) -> str:
        try:
            return self._paths.read(path).strip()
        except OSError:
            return ""

    def kernel_build_id(self) -> str:
        """Of the kernel that runs: the same release may have been built twice. '' when it does not say."""
        try:
            with open(self._paths.at("/sys/kernel/notes"), "rb") as file:
                return noted_build_id(file.read())
        except OSError:
            return ""

    def file(self, release: str) -> str:
        if not _RELEASE.fullmatch(release):
            raise BpfOomError(f"{release!r} is no release of a kernel", "give what `uname -r` says")
        return os.path.join(self._paths.modules, release, f"{MODULE}.ko")

    def installed(self, release: str) -> Optional[Built]:
        """The module that is there for a release; BpfOomError when it is damaged or something else."""
        path = self.file(release)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BpfOomError(f"{path} cannot be read: {error.strerror}", "run the role linuxmm.bpf_oom.kernel again") from None
        try:
            found = inspect(data)
        except BpfOomError as error:
            raise BpfOomError(f"{path} cannot be used: {error.cause}", "run the role linuxmm.bpf_oom.kernel again") from None
        if found.digest not in self._noted(release):
            raise BpfOomError(f"{path} is not what was installed", "run the role linuxmm.bpf_oom.kernel again")
        return found

    def _noted(self, release: str) -> List[str]:
        """The digest that the file had when it was installed; of an interrupted installation that of the old one, too."""
        try:
            with open(os.path.join(os.path.dirname(self.file(release)), "digest"), encoding="ascii") as file:
                return file.read().split()
        except (OSError, UnicodeDecodeError):
            return []

    def releases(self) -> List[str]:
        """The kernels that a module is installed for."""
        names = os.listdir(self._paths.modules) if os.path.isdir(self._paths.modules) else []
        return sorted(name for name in names if os.path.exists(self.file(name)))

    def kernels(self) -> List[str]:
        """The releases that are installed, the newest last, which boot loaders take unless they are told otherwise."""
        found = set()
        for directory, name in (("/boot", r"vmlinuz-(.+)"), ("/usr/lib/modules", r"(.+)"), ("/lib/modules", r"(.+)")):
            real = self._paths.at(directory)
            for each in os.listdir(real) if os.path.isdir(real) else []:
                release = re.fullmatch(name, each)
                if release and _RELEASE.fullmatch(release[1]) and self.image(release[1]):
                    found.add(release[1])
        return sorted(found, key=_version_key)

    def image(self, release: str) -> str:
        """Where the image of a kernel is, '' when it is not there."""
        for path in (f"/boot/vmlinuz-{release}", f"/usr/lib/modules/{release}/vmlinuz", f"/lib/modules/{release}/vmlinuz"):
            if os.path.isfile(self._paths.at(path)):
                return self._paths.at(path)
        return ""

    def cannot_be_built(self, release: str) -> str:
        """On a host where DKMS builds the module for each new kernel: why it will not, '' when nothing is in its way."""
        # A version that is known there has its source; what DKMS leaves behind has none.
        if not glob.glob(os.path.join(glob.escape(self._paths.at(f"/var/lib/dkms/{MODULE}")), "*/source")):
            return ""
        return self.headers_problem(release)

    def headers_problem(self, release: str) -> str:
        """Why DKMS cannot build with the headers of a kernel, '' when it can."""
        build = self._paths.at(f"/lib/modules/{release}/build")
        if not os.path.exists(build):
            return f"there are no headers of the kernel {release}, for which DKMS shall build the module"
        if not os.path.exists(os.path.join(build, "vmlinux")):
            return f"the headers of the kernel {release} have no vmlinux, so DKMS cannot build the module for it"
        return ""

    def running(self) -> Optional[Running]:
        """What is loaded under its name, ours or not."""
        top = self._paths.at(f"/sys/module/{MODULE}")
        if not os.path.isdir(top):
            return None

        try:
            with open(os.path.join(top, "notes/.note.gnu.build-id"), "rb") as file:
                build_id = noted_build_id(file.read())
        except OSError:
            build_id = ""
        users = self._text(f"/sys/module/{MODULE}/refcnt")
        return Running(self._text(f"/sys/module/{MODULE}/version"), build_id, int(users) if users.isdigit() else 0)

    def kernel_has_it(self) -> bool:
        """Whether the kernel itself has the interface, and needs no module."""
        return os.path.exists(self._paths.btf) and bool(mentioned(self._paths.btf, STRUCTS.values()))

    def differences(self) -> List[str]:
        """What is not as it was installed for the running kernel, a sentence each; nothing where nothing is installed."""
        if not os.path.isdir(self._paths.modules):
            return []
        try:
            built = self.installed(self.release())
        except BpfOomError as error:
            return [error.cause]
        running = self.running()
        if built is None:
            others = self.releases()
            if not others or running is not None or self.kernel_has_it():
                return []
            return [f"no module is installed for the running kernel {self.release()}, but for {', '.join(others)}"]
        if running is None:
            return [f"the module ({built.words()}) is not loaded"]
        if running.build_id != built.build_id:
            return [f"the module that runs is build {running.build_id[:12]}, installed is {built.build_id[:12]}"]
        return []

    def report(self) -> Dict[str, Any]:
        """For policy_info."""
        running = self.running()
        try:
            installed = self.installed(self.release())
        except BpfOomError:
            installed = None  # told of as a difference
        return {
            "installed": asdict(installed) if installed else None,
            "running": asdict(running) if running else None,
            "releases": self.releases(),
            "trial": self.trial() is not None,
        }

    # ------------------------------------------------------------------ the trial

    @property
    def _mark(self) -> str:
        return os.path.join(self._state, "trial.json")

    def trial(self) -> Optional[Dict[str, str]]:
        """What is on trial, or went down with the host; None when all is well."""
        try:
            with open(self._mark, encoding="utf-8") as file:
                found = json.load(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            # Half a mark was being written when the host went down: so was a load.
            return {}
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}

    def _boot_id(self) -> str:
        return self._text("/proc/sys/kernel/random/boot_id")

    def _begin_trial(self, built: Built) -> None:
        mark = {"build_id": built.build_id, "kernel": self.kernel_build_id() or self.release(), "boot_id": self._boot_id()}
        # Two loads of one build are two trials.
        mark["since"] = str(time.monotonic_ns())
        os.makedirs(self._state, mode=0o700, exist_ok=True)
        number = os.open(self._state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            write_atomic("trial.json", (json.dumps(mark, sort_keys=True) + "\n").encode(), number)
        finally:
            os.close(number)

    def settle(self) -> bool:
        """It has run long enough, or the host is shut down in order, or a person wants it tried again."""
        try:
            os.unlink(self._mark)
        except FileNotFoundError:
            return False
        return True

    def _went_down(self, built: Built, kernel: str) -> bool:
        mark = self.trial()
        if mark is None or mark.get("boot_id") == self._boot_id():
            return False
        # Another build, or another kernel, is another trial.
        same_kernel = mark.get("kernel") in (None, kernel)
        return same_kernel and mark.get("build_id") in (None, built.build_id)

    # ------------------------------------------------------------------ do it

    def refuse(self, built: Built, release: str, kernel: str = "") -> None:
        """Raises in words what the kernel, or this host, would not put up with, before anything is touched.

        `kernel` is the build id of one that does not run. What holds for this boot only is not held against it.
        """
        if platform.machine() != _MACHINE and self._paths.root == "/":
            raise BpfOomError(
                f"the module is for x86-64 and this host is {platform.machine()}", "boot a kernel with the patches of kernel/"
            )
        if built.release != release:
            raise BpfOomError(
                f"the module is for the kernel {built.release} and not for {release}",
                f"build it for {release}, by kernel/module/build",
            )
        if not kernel:
            self._refuse_boot()
        self._refuse_switches()
        if not built.signed and (why := self._wants_signature()):
            raise BpfOomError(
                f"the kernel takes only signed modules ({why}), and this one is not signed",
                "name a key that the kernel trusts with bpf_oom_module_key, or a directory of signed modules with"
                " bpf_oom_module_directory",
            )
        if self._went_down(built, kernel or self.kernel_build_id() or self.release()):
            raise BpfOomError(
                "this host went down while this module was on trial, so it is not loaded again by itself",
                "find out why it went down, then `bpf-oom module retry`, or install another build",
            )

    def _refuse_boot(self) -> None:
        if self._text("/proc/sys/kernel/modules_disabled") == "1":
            raise BpfOomError("this kernel loads no more modules until it is booted anew (kernel.modules_disabled=1)", "boot it")
        try:
            missing = missing_right(self._paths, _CAP_SYS_MODULE, "CAP_SYS_MODULE")
        except OSError:
            return  # without /proc nobody knows: the kernel says it when it is asked
        if missing:
            raise BpfOomError(f"{missing[1]}, and may not load modules", ON_THE_HOST)

    def _refuse_switches(self) -> None:
        for word in self._text("/proc/cmdline").split():
            name, _equals, names = word.partition("=")
            # The second is modprobe's: whoever wrote it does not want the module either.
            if name in ("module_blacklist", "modprobe.blacklist") and MODULE in names.replace("-", "_").split(","):
                raise BpfOomError(f"the kernel command line says {word}", f"boot without {MODULE} in it")
        for path in self._modprobe_files():
            for line in self._text(path).splitlines():
                words = line.replace("-", "_").split()
                if words[:2] in (["blacklist", MODULE], ["install", MODULE]):
                    raise BpfOomError(f"{path} says '{line.strip()}'", "take that line out, if the module is wanted here")

    def _modprobe_files(self) -> List[str]:
        found = []
        for directory in _MODPROBE:
            real = self._paths.at(directory)
            names = os.listdir(real) if os.path.isdir(real) else []
            found += [f"{directory}/{name}" for name in sorted(names) if name.endswith(".conf")]
        return found

    def _wants_signature(self) -> str:
        if self._text("/sys/module/module/parameters/sig_enforce") == "Y":
            return "module.sig_enforce"
        lockdown = self._text("/sys/kernel/security/lockdown")
        if "[integrity]" in lockdown or "[confidentiality]" in lockdown:
            return "it is locked down, as with Secure Boot"
        return ""

    def install(self, data: bytes) -> Built:
        """Put a module where its kernel's are; the old file or the new one, whole."""
        built = inspect(data)
        directory = os.path.dirname(self.file(built.release))
        try:
            self._write(directory, built, data)
        except OSError as error:
            if not os.path.exists(self.file(built.release)):
                self.remove(built.release)
            raise from_errno(f"the module cannot be written to {directory}", error.errno or errno.EIO) from None
        return built

    def _write(self, directory: str, built: Built, data: bytes) -> None:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # Whichever of the two files is there after a crash is one that was installed.
            both = [*self._noted(built.release)[-1:], built.digest]
            write_atomic("digest", ("\n".join(both) + "\n").encode(), number, 0o644)
            write_atomic(f"{MODULE}.ko", data, number, 0o644)
            write_atomic("digest", f"{built.digest}\n".encode(), number, 0o644)
        finally:
            os.close(number)

    def remove(self, release: str) -> None:
        """Forget the module of a kernel, and the directories that were made for it."""
        shutil.rmtree(os.path.dirname(self.file(release)), ignore_errors=True)
        for directory in (self._paths.modules, os.path.dirname(self._paths.modules)):
            try:
                os.rmdir(directory)
            except OSError:
                break  # somebody else's module, or the command, is there

    def remove_all(self) -> None:
        for name in os.listdir(self._paths.modules) if os.path.isdir(self._paths.modules) else []:
            self.remove(name)
        shutil.rmtree(self._state, ignore_errors=True)

    def load(self) -> str:
        """Load the module of the running kernel where it is needed and there: what was done, '' for nothing."""
        if not os.path.isdir(self._paths.modules) or OFF_WORD in self._text("/proc/cmdline").split():
            return ""
        release = self.release()
        if self.running() is not None or self.kernel_has_it():
            return ""
        built = self.installed(release)
        if built is None:
            return ""
        self.refuse(built, release)
        try:
            self._begin_trial(built)
        except OSError as error:
            raise from_errno("the trial of the module cannot be noted, so it is not loaded", error.errno or errno.EIO) from None
        log = KernelLog(self._paths, only_new=True)
        number = os.open(self.file(release), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            failed = _syscall(_SYS_FINIT_MODULE, number, b"", 0)
            said = _refusal(log)
        finally:
            os.close(number)
        if failed:
            self.settle()
            raise _why_not_loaded(failed, said)
        return f"the module is loaded ({built.words()})"

    def unload(self) -> bool:
        """Whether there was something to unload. Refused while a policy is loaded."""
        if self.running() is None:
            return False
        failed = 0
        for _try in range(_UNLOAD_TRIES):
            failed = _syscall(_SYS_DELETE_MODULE, MODULE.encode(), os.O_NONBLOCK)
            if failed not in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EBUSY):
                break
            time.sleep(_UNLOAD_PAUSE)
        if failed and failed != errno.ENOENT:
            raise BpfOomError(
                f"the module cannot be unloaded: {os.strerror(failed)}",
                "policies that stand on it are loaded, ours or somebody else's; see `bpf-oom status`",
            )
        self.settle()
        return True


def _syscall(number: int, *arguments: Any) -> int:
    """0, or the errno."""
    library = ctypes.CDLL(None, use_errno=True)
    given = [ctypes.c_long(each) if isinstance(each, int) else ctypes.c_char_p(each) for each in arguments]
    return ctypes.get_errno() if library.syscall(ctypes.c_long(number), *given) else 0


def _refusal(log: KernelLog) -> str:
    """The module's own word why it does not load, '' when it said nothing."""
    said = [found[1] for found in (_REFUSED.match(line.text) for line in log.lines()) if found]
    log.close()
    return said[-1] if said else ""


_WHY = {
    errno.ENOEXEC: ("it is damaged, or was built for another kernel", "build it again for this kernel, by kernel/module/build"),
    errno.EPERM: ("the kernel does not let this process load modules", "run as root on the host itself, not in a container"),
    errno.ENOKEY: (
        "it is signed with a key that this kernel does not trust",
        "enroll the certificate, by mokutil or in the firmware",
    ),
    errno.EKEYREJECTED: ("its signature is missing or wrong", "sign it with a key that this kernel trusts"),
    errno.EINVAL: ("its format, or its BTF, does not fit this kernel", "build it again with this kernel's own headers"),
    errno.ENOENT: ("this kernel lacks a symbol that it needs", "see the kernel log, and build it for this kernel"),
    errno.ENOMEM: ("there is no memory for it", "free some"),
}


def _why_not_loaded(number: int, said: str) -> BpfOomError:
    if said:
        return BpfOomError(
            f"the module does not load here: {printable(said)}", "boot a kernel that it knows, see kernel/README.md"
        )
    cause, remedy = _WHY.get(number, (os.strerror(number), "see the kernel log"))
    return BpfOomError(f"the module does not load: {cause} ({errno.errorcode.get(number, number)})", remedy)
