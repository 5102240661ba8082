# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of the interface and of the persisted policies on a kernel that does not run yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._common.errors import BpfOomError
from .._engine.engine import Engine

# Only this needs all of it, and the command at boot does without: not to be imported by it before it is asked for.
from .._kernel.core import Kernel, Types, elf_sections, has_interface, module_types, problems, read_kernel, without
from .._kernel.module import Module


@dataclass(frozen=True)
class Verdict:
    """Who has the interface on a kernel, or why nobody has."""

    state: str
    release: str
    build_id: str
    usable: bool
    sentence: str

    def report(self) -> dict[str, Any]:
        return dict(vars(self))


def refuse_untried(release: str, build_id: str, proven: Sequence[str], allowed: bool) -> None:
    """Raises BpfOomError when nobody has tried the module on a kernel, and that is not allowed."""
    if not allowed and build_id not in proven:
        raise BpfOomError(
            f"nobody has tried the module on this kernel, {release} (build {build_id[:12] or 'unknown'})",
            "try it in a machine first (make prove KERNEL=linux-image-...), or set allow_untried: true",
        )


def other_kernel(module: Module, release: str) -> Kernel:
    """A kernel that is installed, from its image; BpfOomError when there is none."""
    image = module.image(release)
    if not image:
        there = ", ".join(module.kernels()) or "none"
        raise BpfOomError(f"the kernel {release} is not installed on this host, but {there}", "name one that is")
    return read_kernel(image)


def newest(module: Module) -> str:
    """The newest kernel that is installed, that which runs where no other is."""
    return (module.kernels() or [module.release()])[-1]


def warn_of_newest(module: Module) -> list[str]:
    """A newer kernel on a host where the one that runs has a module: it boots next unless the boot loader is told otherwise."""
    release = newest(module)
    if release == module.release() or not module.releases():
        return []
    try:
        if module.installed(release) is not None or has_interface(other_kernel(module, release).types):
            return []
    except BpfOomError:
        pass  # neither can be relied on, which is what is said
    return [
        f"The kernel {release} is installed, too, and boots next unless the boot loader is told otherwise; no module is installed"
        " for it, so no policy would act there. Run linuxmm.bpf_oom.kernel_module with release: newest before."
    ]


class _Lacking(BpfOomError):
    """Nobody will have the interface there."""

    def __init__(self, state: str, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)
        self.state = state


def _missing(module: Module, release: str, runs: bool) -> _Lacking:
    unbuildable = module.cannot_be_built(release)
    if unbuildable:
        remedy = f"install linux-headers-{release}, then run `dkms autoinstall -k {release}`"
        return _Lacking("no_headers", unbuildable, remedy)
    task = "the role linuxmm.bpf_oom.kernel" if runs else f"linuxmm.bpf_oom.kernel_module with release: {release}"
    return _Lacking("missing", f"no module is installed for the kernel {release}", f"run {task}")


def _judge(module: Module, kernel: Kernel, release: str, proven: Sequence[str], allowed: bool) -> tuple[str, str]:
    """The state and a sentence; _Lacking when the interface will not be there."""
    if has_interface(kernel.types):
        return "kernel", f"The kernel {release or 'in that file'} has the interface itself and needs no module."
    if not release:
        raise _Lacking(
            "unnamed", "that file does not say which kernel it is of, so no module can be looked for", "name its release"
        )
    runs = release == module.release()
    try:
        built = module.installed(release)
    except BpfOomError as error:
        raise _Lacking("unusable", error.cause, error.remedy) from None
    if built is None:
        raise _missing(module, release, runs)
    build_id = kernel.build_id or (module.kernel_build_id() if runs else "")
    try:
        module.refuse(built, release, "" if runs else build_id or release)
    except BpfOomError as error:
        raise _Lacking(
            "refused", f"the module for the kernel {release} would not be loaded: {error.cause}", error.remedy
        ) from None
    try:
        refuse_untried(release, build_id, proven, allowed)
    except BpfOomError as error:
        raise _Lacking("untried", f"a module is installed, but {error.cause}", error.remedy) from None
    there = f"A module is installed for the kernel {release} ({built.words()})"
    if build_id in proven:
        return "proven", f"{there} and was tried on this very build of it."
    return "untried", f"{there}; nobody has tried it on this build of it ({build_id[:12] or 'unknown'}), which is allowed here."


def interface_on(module: Module, kernel: Kernel, release: str, proven: Sequence[str], allowed: bool) -> Verdict:
    try:
        state, sentence = _judge(module, kernel, release, proven, allowed)
    except _Lacking as lacking:
        return Verdict(lacking.state, release, kernel.build_id, False, str(lacking))
    return Verdict(state, release, kernel.build_id, True, sentence)


def _types(module: Module, kernel: Kernel, verdict: Verdict) -> list[Types]:
    """What policies find there: the kernel's types, and those of the module that will be loaded."""
    if verdict.state == "kernel" or not verdict.release:
        return [kernel.types]
    try:
        if module.installed(verdict.release) is None:
            return [kernel.types]
    except BpfOomError:
        return [kernel.types]
    with open(module.file(verdict.release), "rb") as file:
        return [kernel.types, module_types(elf_sections(file.read()))]


def foresee(engine: Engine, path: str, release: str = "", proven: Sequence[str] = (), allowed: bool = False) -> dict[str, Any]:
    """Whether the interface will be there, and each persisted policy: why it will not load, and what it will lack.

    `path` is a file of the kernel, empty for the newest that is installed.
    """
    stored = engine.store.read_set()
    if stored.problem:
        raise BpfOomError(f"the persisted set is damaged: {stored.problem}", "run the play again, it mends the set")
    module = Module(engine.paths)
    if not path:
        release = release or newest(module)
        # The one that runs may have been started from anywhere, and its types are at hand.
        path = engine.paths.btf if release == module.release() else ""
    kernel = read_kernel(path) if path else other_kernel(module, release)
    if path == engine.paths.btf:
        kernel = Kernel(kernel.types, module.release(), module.kernel_build_id())
    verdict = interface_on(module, kernel, release or kernel.release, proven, allowed)
    types = _types(module, kernel, verdict)
    found: dict[str, dict[str, Any]] = {
        name: {"loads": False, "problems": [why], "degraded": []} for name, why in stored.broken.items()
    }
    for name, manifest in stored.manifests.items():
        unusable = engine.store.object_problem(manifest)
        data = b"" if unusable else engine.store.object_bytes(manifest)
        wrong = [unusable] if unusable else problems(data, *types)
        found[name] = {
            "loads": not wrong and verdict.usable,
            "problems": wrong,
            "degraded": [] if wrong else without(data, *types),
        }
    return {"interface": verdict.report(), "policies": dict(sorted(found.items()))}


def objections(found: dict[str, Any]) -> list[str]:
    """Why the host would be without a policy that it has, a sentence without its end each."""
    policies, interface = found["policies"], found["interface"]
    bad = [interface["sentence"].rstrip(".")] if policies and not interface["usable"] else []
    return bad + [
        f"policy '{name}' will not load on that kernel: {'; '.join(policy['problems'])}"
        for name, policy in policies.items()
        if policy["problems"]
    ]
