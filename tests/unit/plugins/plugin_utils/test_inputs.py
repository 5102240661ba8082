# SPDX-License-Identifier: GPL-3.0-or-later
"""Ten thousand inputs to what reads the inventory on the controller: taken whole, or one sentence that tells no secret."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible.utils.unsafe_proxy import wrap_var
from ansible_collections.linuxmm.bpf_oom.plugins.filter.c_literals import c_integer, c_string
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._policies import Resolver
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._wanted import REFUSED, wanted_policies
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.plugin_utils.common import vaulted
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.plugin_utils.inputs import SECRET, Inputs

NUMBER = 10000


def lost(src: str) -> str:
    raise BpfOomError(f"there is no source file {src}", "give one")


def sentence(error: Exception) -> None:
    said = f"{error} {getattr(error, 'details', '')}"
    assert "\n" not in said and said.isprintable()
    assert SECRET not in said and "s3cret" not in said


def test_policies() -> None:
    inputs, resolver, outcomes = Inputs(1, vaulted, wrap_var), Resolver("host", lost), Counter[str]()
    for _each in range(NUMBER):
        policies = inputs.policies()
        if not isinstance(policies, dict):
            continue
        try:
            json.dumps(resolver.request(policies))
            outcomes["taken"] += 1
        except BpfOomError as error:
            sentence(error)
            outcomes["refused"] += 1
    # Neither is everything refused, nor is everything taken.
    assert min(outcomes["taken"], outcomes["refused"]) > NUMBER / 10, outcomes


def test_variables_of_a_host() -> None:
    inputs = Inputs(2, vaulted, wrap_var)
    for _each in range(NUMBER):
        variables = {name: inputs.policies() for name in ("bpf_oom_policies", "bpf_oom_policies_of_db")}
        wanted = wanted_policies(variables, variables)
        if REFUSED in wanted:
            sentence(BpfOomError(wanted[REFUSED], ""))
        elif not wanted:
            assert all(str(value) == "{}" for value in variables.values())


@pytest.mark.parametrize("literal", [c_integer, c_string])
def test_literals(literal: Any) -> None:
    inputs = Inputs(3, vaulted, wrap_var)
    for _each in range(NUMBER):
        value = inputs.value()
        try:
            assert literal(value).isascii()
        except AnsibleFilterError as error:
            sentence(error)
