# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters for templates of policies: a value becomes one literal of C, or is refused."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.linuxmm.bpf_oom.plugins.filter.c_literals import c_integer, c_string
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.plugin_utils.common import vaulted
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("value", "kind", "literal"),
    [
        (0, "u64", "0ULL"),
        (2**64 - 1, "u64", "18446744073709551615ULL"),
        (-1, "s32", "-1"),
        ("600", "u64", "600ULL"),
        ("-5", "s64", "-5LL"),
        (-(2**63), "s64", "(-9223372036854775807LL - 1)"),
    ],
)
def test_integers(value: int, kind: str, literal: str) -> None:
    assert c_integer(value, kind) == literal


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("1 ", "u64"),
        ("--1", "s64"),
        ("\u00b2", "u64"),
        ("\u0663", "u64"),
        ("9" * 30, "u64"),
        ([], "u64"),
        (1, None),
        (1.0, "u64"),
        (True, "u32"),
        (-1, "u64"),
        (2**32, "u32"),
        (None, "s32"),
        ("0; system()", "u64"),
        (1, "int"),
    ],
)
def test_what_is_no_integer_is_refused(value: Any, kind: str) -> None:
    with pytest.raises(AnsibleFilterError):
        c_integer(value, kind)


@given(st.text(max_size=60))
def test_any_text_is_one_literal_and_stays_itself(text: str) -> None:
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        return
    literal = c_string(text)
    assert literal.isprintable() and literal.isascii()
    # Python reads these literals as C does.
    assert ast.literal_eval(f"b{literal}") == text.encode()


@pytest.mark.parametrize("value", [5, None, "a\0b", "x" * 256, "\udcff", b"a", ["a"]])
def test_what_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(AnsibleFilterError):
        c_string(value)


def test_a_vaulted_value_is_taken() -> None:
    assert c_string(vaulted("word")) == '"word"'
    assert c_integer(vaulted("600")) == "600ULL"


@pytest.mark.parametrize("secret", ["s3cret" * 60, "s3cret\0", "s3cret"])
def test_a_vaulted_value_is_never_told(secret: str) -> None:
    for literal in (c_integer, c_string):
        try:
            assert "s3cret" in literal(vaulted(secret)) and literal is c_string
        except AnsibleFilterError as error:
            assert "s3cret" not in str(error)
