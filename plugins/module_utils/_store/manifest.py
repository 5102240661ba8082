# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest: what one policy on one host must be, as JSON."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Mapping

from .._common.errors import BpfOomError
from .._common.params import INTEGERS, SELECTORS_MAX, TYPES, Params, check_name, check_selector

SCHEMA = 1
KINDS = ("oom", "psi")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Manifest:
    name: str
    kind: str
    order: int
    program: str  # the library's name for it, or the file name of a `src`
    source: str  # library or src
    bundle: str  # digest of the sources
    compiler: str  # identity of the tool-chain
    inputs: str  # digest of all that went into the object: its name, and what the loaded policy carries
    object: str  # SHA-256 of the object file
    params: Params = field(default_factory=dict)

    def text(self) -> str:
        return json.dumps(dict(asdict(self), schema=SCHEMA), indent=1, sort_keys=True) + "\n"


def parse(text: str, name: str) -> Manifest:
    """The manifest in `text`, or why it is none."""

    def broken(why: str) -> BpfOomError:
        return BpfOomError(f"the manifest of policy '{name}' is damaged ({why})", "run the play again, it writes a new one")

    try:
        data = json.loads(text)
    except ValueError as error:
        raise broken(f"no JSON: {error}") from None
    if not isinstance(data, dict):
        raise broken("no JSON object")
    schema = data.pop("schema", None)
    if schema != SCHEMA:
        raise broken(f"schema {schema!r}, this version reads {SCHEMA}")
    try:
        manifest = Manifest(**data)
    except TypeError as error:
        raise broken(str(error)) from None
    try:
        _check(manifest, name)
    except (BpfOomError, TypeError, KeyError, AttributeError) as error:
        raise broken(str(error)) from None
    return manifest


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(manifest: Manifest, name: str) -> None:
    def need(condition: bool, what: str) -> None:
        if not condition:
            raise TypeError(what)

    need(check_name(manifest.name) == name, "another policy's name")
    need(manifest.kind in KINDS, f"kind {manifest.kind!r}")
    need(_is_int(manifest.order), f"order {manifest.order!r}")
    need(manifest.source in ("library", "src") and isinstance(manifest.program, str), "source or program")
    for part in ("bundle", "compiler", "inputs", "object"):
        need(bool(_DIGEST.match(getattr(manifest, part))), f"{part} is no digest")
    for key, param in manifest.params.items():
        kind, value = param["type"], param["value"]
        need(kind in TYPES, f"type of parameter {key}")
        need(isinstance(param.get("default", True), bool), f"default of parameter {key}")
        need(isinstance(param.get("unit", ""), str), f"unit of parameter {key}")
        if kind == "bool":
            need(isinstance(value, bool), f"value of parameter {key}")
        elif kind in ("selectors", "weights"):
            need(
                isinstance(value, dict if kind == "weights" else list) and len(value) <= SELECTORS_MAX,
                f"value of parameter {key}",
            )
            users = param.get("users", {})
            need(isinstance(users, dict), f"users of parameter {key}")
            for number in users.values():
                need(number is None or (_is_int(number) and 0 <= number < 2**32 - 1), f"users of parameter {key}")
            for text in value:
                check_selector(text)
                weight = value[text] if kind == "weights" else 0
                need(_is_int(weight) and -(2**31) <= weight < 2**31, f"value of parameter {key}")
        else:
            low, high = INTEGERS["u32" if kind == "choice" else kind]
            number = param["number"] if kind == "choice" else value
            need(_is_int(number) and low <= number <= high, f"value of parameter {key}")


def sort_key(manifest: Manifest) -> Any:
    """The chain's order."""
    return (manifest.kind, manifest.order, manifest.name)


def set_digest(texts: Mapping[str, str]) -> str:
    """The digest that names a set of manifests."""
    return hashlib.sha256(json.dumps(sorted(texts.items())).encode()).hexdigest()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def bundle_digest(files: Dict[str, str]) -> str:
    return digest(json.dumps(sorted(files.items())).encode())
