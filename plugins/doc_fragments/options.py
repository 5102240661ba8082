# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that several modules of the collection share."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  compile_on:
    description:
      - Where policies are compiled. With V(controller) clang is needed on the controller only, and a host gets
        the finished object when it lacks it.
      - With V(host) the sources are sent and clang, llvm and libbpf-dev are needed on every host.
    type: str
    choices: [controller, host]
    default: controller
  on_incapable:
    description:
      - What to do on a host that cannot load a policy, for example because its kernel has no C(bpf_oom_ops).
      - V(fail) fails with the cause and the remedy, V(skip) changes nothing and warns, V(persist_only) persists the set
        and warns; the boot unit then loads it as soon as the host can.
    type: str
    choices: [fail, skip, persist_only]
    default: fail
"""

    SINGLE = r"""
options:
  name:
    description:
      - The policy's name on the host, under which it is pinned.
      - At most 48 lower-case letters, digits, underscores and dashes, starting with a letter.
    type: str
    required: true
  policy:
    description: The policy of the collection's library to use. Needed with O(state=present) unless O(src) is given.
    type: str
  src:
    description:
      - A policy source of your own on the controller, looked for like the O(ansible.builtin.copy#module:src) of a copy task.
      - One that ends in C(.j2) is a template, rendered for each host on the controller and looked for as a template task does.
        Values of the inventory shall come into it through the filters P(linuxmm.bpf_oom.c_integer#filter) and
        P(linuxmm.bpf_oom.c_string#filter).
      - Headers beside it are sent along. A C(policy.yml) beside it declares its parameters; without one it has none.
      - The source is trusted code and is your code review's business.
    type: path
  params:
    description:
      - Parameters of the policy. What is left out has the default of its C(policy.yml).
      - Unknown names and values out of range are refused on the controller, before anything is changed.
    type: dict
  order:
    description: Place in the chain; smaller numbers are loaded and asked first, equal ones by name.
    type: int
    default: 100
  state:
    description: Whether the policy shall be loaded and persisted, or neither.
    type: str
    choices: [present, absent]
    default: present
"""
