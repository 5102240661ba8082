# SPDX-License-Identifier: GPL-3.0-or-later
"""Argument specs that a module and its action plugin share."""

from __future__ import annotations

from typing import Any, Dict

_COMPILE_ON = {"type": "str", "choices": ["controller", "host"], "default": "controller"}
_ON_INCAPABLE = {"type": "str", "choices": ["fail", "skip", "persist_only"], "default": "fail"}
_STATE = {"type": "str", "choices": ["present", "absent"], "default": "present"}

SET_SPEC: Dict[str, Dict[str, Any]] = {
    "policies": {"type": "dict"},
    "compile_on": _COMPILE_ON,
    "exclusive": {"type": "bool", "default": True},
    "foreign": {"type": "str", "choices": ["leave", "remove"], "default": "leave"},
    "on_incapable": _ON_INCAPABLE,
    "interface_announced": {"type": "bool", "default": False},
    "state": _STATE,
}
SET_REQUIRED_IF = [("state", "present", ["policies"])]

#: One policy of a set.
ENTRY_SPEC: Dict[str, Dict[str, Any]] = {
    "policy": {"type": "str"},
    "src": {"type": "str"},
    "kind": {"type": "str", "choices": ["oom", "psi"]},
    "params": {"type": "dict"},
    "order": {"type": "raw"},
    "state": _STATE,
}

SINGLE_SPEC: Dict[str, Dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "policy": {"type": "str"},
    "src": {"type": "path"},
    "params": {"type": "dict"},
    "order": {"type": "int", "default": 100},
    "state": _STATE,
    "compile_on": _COMPILE_ON,
    "on_incapable": _ON_INCAPABLE,
}
SINGLE_REQUIRED: Dict[str, Any] = {
    "mutually_exclusive": [("policy", "src")],
    "required_if": [("state", "present", ["policy", "src"], True)],
}
