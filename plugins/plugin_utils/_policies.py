# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part: read the library of policies, type parameters, compile, and make the host's request."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.yaml import yaml_load
from ansible.module_utils.errors import UnsupportedError

from ..module_utils._common.errors import BpfOomError, from_errno
from ..module_utils._common.params import check_name, whole_number
from ..module_utils._common.specs import ENTRY_SPEC
from ..module_utils._common.typed import check_metadata, type_params
from ..module_utils._engine.compiler import FLAGS, Toolchain, compile_bundle, find_tool, find_toolchain, input_digest
from ..module_utils._store.manifest import bundle_digest, digest
from ._vaulted import mask, plain

# bpf/ of this very collection, wherever it is installed.
LIBRARY = Path(__file__).resolve().parents[2] / "bpf"
LIBRARY_SOURCE = "policy.bpf.c"
#: The files of parameters that each brings.
SKELETONS = {"rank_cgroups": ("rank_cgroups",), "rank_processes": ("rank_processes",), "psi": ("psi", "conditions")}
#: The ending of a site's own template, which is rendered for each host on the controller.
TEMPLATE = ".j2"
_ORDER = (-(2**31), 2**31 - 1)


def cache_directory() -> Path:
    base = os.environ.get("BPF_OOM_CACHE")
    if not base:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "linuxmm-bpf-oom")
    return Path(base) / "objects"


@functools.lru_cache(maxsize=None)
def library_names() -> list[str]:
    return sorted(path.parent.name for path in (LIBRARY / "policies").glob("*/policy.yml"))


@functools.lru_cache(maxsize=None)
def library_headers() -> dict[str, str]:
    """Ours, by their names in a bundle; the same for every policy of a task."""
    return {path.relative_to(LIBRARY).as_posix(): path.read_text(encoding="utf-8") for path in (LIBRARY / "include").rglob("*.h")}


def _read_yaml(path: Path) -> Any:
    try:
        return yaml_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BpfOomError(f"{path.name} beside the policy's source cannot be read: {error}", "correct that file") from None


@functools.lru_cache(maxsize=None)
def _skeleton(name: str) -> Any:
    parts = [_read_yaml(LIBRARY / "include" / "bpf_oom" / f"{part}.yml") for part in SKELETONS[name]]
    return {
        "parameters": {key: spec for part in parts for key, spec in part["parameters"].items()},
        "constraints": [rule for part in parts for rule in part["constraints"]],
    }


def read_metadata(path: Path) -> dict[str, Any]:
    """A policy.yml, with the parameters of the skeleton that it names; its own entries go before those."""
    data = _read_yaml(path)
    skeleton = data.pop("skeleton", None) if isinstance(data, dict) else None
    if skeleton is None:
        return check_metadata(data, str(path))
    if skeleton not in SKELETONS:
        raise BpfOomError(f"{path}: there is no skeleton '{skeleton}'", f"use one of {', '.join(SKELETONS)}, or leave it out")
    common = _skeleton(skeleton)
    own = data.get("parameters") or {}
    if not isinstance(own, dict) or not all(isinstance(spec, dict) for spec in own.values()):
        raise BpfOomError(f"{path}: 'parameters' is not a dictionary of dictionaries", "correct that file")
    merged = {name: {**spec, **own.get(name, {})} for name, spec in common["parameters"].items()}
    data["parameters"] = {**merged, **{name: spec for name, spec in own.items() if name not in merged}}
    data["constraints"] = [*common["constraints"], *(data.get("constraints") or [])]
    return check_metadata(data, str(path))


@functools.lru_cache(maxsize=None)
def library_metadata(name: str) -> dict[str, Any]:
    return read_metadata(LIBRARY / "policies" / name / "policy.yml")


@functools.lru_cache(maxsize=None)
def library_bundle(name: str) -> tuple[dict[str, str], str]:
    """A policy's sources, and their digest."""
    files = read_bundle(LIBRARY / "policies" / name / LIBRARY_SOURCE)
    return files, bundle_digest(files)


def read_ahead() -> None:
    """Read the library in the process that imports this: the workers for all hosts are forked from it, and find it read."""
    with contextlib.suppress(BpfOomError, OSError, UnicodeDecodeError):
        # What cannot be read is told to who needs it.
        for name in library_names():
            library_metadata(name)
            library_bundle(name)


def read_bundle(source: Path, rendered: str | None = None) -> dict[str, str]:
    """The source, or what was rendered of it, the headers beside it, and ours."""
    files = {path.name: path for path in source.parent.glob("*.h")}
    if rendered is None:
        files[source.name] = source
    try:
        found = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
        found.update(library_headers())
    except (OSError, UnicodeDecodeError) as error:
        raise BpfOomError(f"a source of policy {source} cannot be read: {error}", "give a readable UTF-8 text file") from None
    if rendered is not None:
        found[source.name[: -len(TEMPLATE)]] = rendered
    return found


def _status(paths: Iterable[str]) -> list[list[Any]]:
    """What tells whether files are still the same, None for those that are not there."""
    found = []
    for path in paths:
        try:
            status = os.stat(path)
            found.append([path, status.st_ino, status.st_size, status.st_mtime_ns])
        except OSError:
            found.append([path, None])
    return found


def known_toolchain() -> Toolchain:
    """find_toolchain(), without asking clang again as long as the same files are there: this is called for each host.

    Who installs a second libbpf before the first in clang's path of headers removes the cache, or names it in CPATH.
    """
    notes = cache_directory().parent / "toolchain.json"
    clang, strip = find_tool("clang"), find_tool("llvm-strip")
    settings = [FLAGS, clang, strip, *(os.environ.get(name, "") for name in ("CPATH", "C_INCLUDE_PATH"))]
    places = [os.path.realpath(path) for path in (clang, strip) if path] + ["/usr/local/include/bpf"]
    try:
        known = json.loads(notes.read_text(encoding="utf-8"))
        if known["settings"] == settings and known["files"] == _status([*places, *known["headers"]]):
            return Toolchain(str(clang), strip, known["identity"], tuple(known["headers"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not noted yet, or by another version
    found = find_toolchain()
    now = {
        "settings": settings,
        "files": _status([*places, *found.headers]),
        "headers": found.headers,
        "identity": found.identity,
    }
    try:
        _write(notes, json.dumps(now).encode())
    except OSError:
        pass  # then the next one asks clang, too
    return found


class Resolver:
    """Turns the inventory's policies into a request; `find` resolves a `src` and `render` a template as Ansible does."""

    def __init__(self, compile_on: str, find: Callable[[str], str], render: Callable[[str], str] = str) -> None:
        self._compile_on = compile_on
        self._find = find
        self._render = render
        self._toolchain: Toolchain | None = None
        self._built: dict[Path, dict[str, Any]] = {}
        self.blobs: dict[str, Path | bytes] = {}

    def request(self, policies: Mapping[str, Any], kind: str | None = None) -> dict[str, Any]:
        """`kind` is that of the module which manages one kind only."""
        present, absent = {}, []
        for name, given in sorted(policies.items(), key=lambda item: str(item[0])):
            try:
                check_name(name)
                entry = _entry(given)
                if entry["state"] == "absent":
                    absent.append(str(name))
                else:
                    present[str(name)] = self._policy(entry, kind)
            except BpfOomError as error:
                raise mask(BpfOomError(f"policy '{name}': {error.cause}", error.remedy, error.details), given) from None
        return {"policies": present, "absent": absent, "blobs": {}}

    def _policy(self, given: Mapping[str, Any], only: str | None) -> dict[str, Any]:
        program, src = given.get("policy"), given.get("src")
        if bool(program) == bool(src):
            raise BpfOomError(
                "it needs either 'policy' or 'src'", f"name one of the library ({', '.join(library_names())}) or a source file"
            )
        if src:
            source = Path(self._find(str(src)))
            program = source.name[: -len(TEMPLATE)] if source.name.endswith(TEMPLATE) else source.name
            beside = source.parent / "policy.yml"
            metadata = (
                read_metadata(beside) if beside.exists() else {"kind": given.get("kind"), "parameters": {}, "constraints": []}
            )
        else:
            if program not in library_names():
                raise BpfOomError(
                    f"there is no policy '{program}' in the library", f"use one of {', '.join(library_names())}, or src"
                )
            source = LIBRARY / "policies" / str(program) / LIBRARY_SOURCE
            metadata = library_metadata(str(program))
        kind = given.get("kind") or metadata["kind"]
        if kind not in ("oom", "psi"):
            raise BpfOomError(f"the kind of '{program}' is {kind!r}", "give kind: oom or kind: psi beside src")
        if kind != metadata["kind"]:
            raise BpfOomError(
                f"'{program}' is a policy of kind {metadata['kind']}, not {kind}", "leave out kind, or use another policy"
            )
        if only and kind != only:
            raise BpfOomError(f"'{program}' is a policy of kind {kind}", f"manage it with the module {kind}_policy")
        _refuse_conditions(kind, given["params"], str(program))
        params = type_params(metadata["parameters"], metadata["constraints"], given["params"], str(program))
        resolved = {
            "kind": kind,
            "order": given["order"],
            "program": str(program),
            "source": "src" if src else "library",
            "params": params,
        }
        return {**resolved, **self._sources(str(program), source)}

    def _sources(self, program: str, source: Path) -> dict[str, Any]:
        """Compiled once, however many policies have it."""
        if source not in self._built:
            self._built[source] = self._build(program, source)
        return self._built[source]

    def _build(self, program: str, source: Path) -> dict[str, Any]:
        rendered = self._render(str(source)) if source.name.endswith(TEMPLATE) else None
        main = source.name if rendered is None else program
        if source == LIBRARY / "policies" / program / LIBRARY_SOURCE:
            files, bundle = library_bundle(program)
        else:
            files = read_bundle(source, rendered)
            bundle = bundle_digest(files)
        if self._compile_on == "host":
            self.blobs[bundle] = json.dumps(sorted(files.items())).encode()
            return {"bundle": bundle, "main": main}
        toolchain = self._toolchain = self._toolchain or known_toolchain()
        inputs = input_digest(program, bundle, toolchain.identity)
        cached = cache_directory() / f"{inputs}.o"
        found = _cached(cached)
        if found is None:
            data = compile_bundle(program, files, main, toolchain)
            found = digest(data)
            try:
                _write(cached, data)
                _write(_note(cached), found.encode())
            except OSError as error:
                raise BpfOomError(
                    from_errno(f"the cache of compiled policies, {cached.parent}, cannot be written", error.errno or 0).cause,
                    "name a directory that can with the environment variable BPF_OOM_CACHE",
                ) from None
        self.blobs[inputs] = cached
        return {"bundle": bundle, "compiler": toolchain.identity, "inputs": inputs, "object": found}


def unanswered(policies: Mapping[str, Any]) -> list[str]:
    """A warning of policies that declare OOMs while every OOM policy beside them observes; `policies` are a request's."""
    modes: dict[str, dict[str, str]] = {"oom": {}, "psi": {}}
    for name, policy in policies.items():
        modes[policy["kind"]][name] = policy["params"].get("mode", {}).get("value", "enforce")
    declaring = sorted(name for name, mode in modes["psi"].items() if mode == "enforce")
    if not declaring or not modes["oom"] or "enforce" in modes["oom"].values():
        return []
    return [
        f"{', '.join(declaring)} declares OOMs while every OOM policy of this set observes, so the kernel's own killer chooses"
        " who dies; for a rehearsal that kills nobody let it observe, too."
    ]


def _note(cached: Path) -> Path:
    return cached.with_suffix(".sha256")


def _cached(cached: Path) -> str | None:
    """The digest of an object in the cache, None when it is not there, or not what was compiled once."""
    try:
        found = digest(cached.read_bytes())
        return found if _note(cached).read_bytes() == found.encode() else None
    except OSError:
        return None


def _entry(given: Any) -> dict[str, Any]:
    """One policy of the inventory, by ansible-core's own rules for options; null is what is not given."""
    keys = ", ".join(ENTRY_SPEC)
    if not isinstance(given, Mapping):
        raise BpfOomError(f"{given!r} is no description of a policy", f"give a dictionary with {keys}")
    # Its children are commented out: nobody meant all defaults.
    if "params" in given and given["params"] is None:
        raise BpfOomError("params is null", "write parameters below it, or leave it out")
    checked = ArgumentSpecValidator(ENTRY_SPEC).validate({str(key): value for key, value in plain(given).items()})
    for error in checked.errors:
        if isinstance(error, UnsupportedError):
            unknown = sorted(str(key) for key in given if key not in ENTRY_SPEC)
            raise BpfOomError(f"there is no option {unknown[0]!r}", f"use {keys}")
        raise BpfOomError(error.msg, f"correct one of its options {keys}")
    entry: dict[str, Any] = checked.validated_parameters
    # A number by rules of our own: ansible-core takes true for 1, and its versions differ over 1e3.
    order = 100 if entry["order"] is None else whole_number(entry["order"])
    if order is None or not _ORDER[0] <= order <= _ORDER[1]:
        raise BpfOomError(f"order is {entry['order']!r}", f"give a whole number from {_ORDER[0]} to {_ORDER[1]}")
    return {**entry, "order": order, "params": entry["params"] or {}}


def _refuse_conditions(kind: str, given: Any, program: str) -> None:
    """Conditions say when it is an OOM; whoever is asked about one has nothing to wait for."""
    if kind == "psi" or not isinstance(given, Mapping):
        return
    for name in given:
        if name in _read_yaml(LIBRARY / "include" / "bpf_oom" / "conditions.yml")["parameters"]:
            raise BpfOomError(
                f"'{name}' is a condition, and '{program}' is a policy of kind {kind}, which has none",
                "give it to a policy of kind psi, such as pressure_oom",
            )


def _write(path: Path, data: bytes) -> None:
    """Into the cache, whole or not at all: other runs read it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


read_ahead()
