#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Everything about the BPF OOM and PSI policies of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: policy_info
short_description: Read a host's BPF OOM and PSI policies and what its kernel can do
version_added: 0.1.0
description:
  - Reads what is persisted, what is loaded and what is active, from the disk and from the running kernel, and changes nothing.
  - A policy counts as active only when the kernel holds it as its manifest says and it can act.
requirements:
  - libbpf 1.5 or later on the host, for anything that the kernel must be asked
extends_documentation_fragment:
  - linuxmm.bpf_oom.attributes.info
options:
  decisions:
    description:
      - How many of the newest decisions of each policy to return, 64 at most.
    type: int
    default: 10
seealso:
  - module: linuxmm.bpf_oom.policy_set
author:
  - The linuxmm.bpf_oom authors (@linuxmm)
"""

EXAMPLES = r"""
- name: Read everything
  linuxmm.bpf_oom.policy_info:
  register: oom

- name: Insist that every policy acts
  ansible.builtin.assert:
    that: oom.policies | dict2items | rejectattr('value.active') | length == 0
"""

RETURN = r"""
capability:
  description: What this kernel and host can do.
  returned: success
  type: dict
  contains:
    oom:
      description: Whether OOM policies can be loaded.
      type: bool
    psi:
      description: Whether PSI policies can be loaded.
      type: bool
    kernel:
      description: The running kernel's release.
      type: str
    libbpf:
      description: The version of libbpf, none when there is no usable one.
      type: str
    interface:
      description:
        - Who has the interface that policies stand on, V(kernel) if it is built in and V(module) if the module bpf_oom brings it
          to a stock kernel. None when nobody has.
      type: str
    structs:
      description: The struct_ops of the interface that the kernel's BTF, or the module's, has, with their members.
      type: dict
    kfuncs:
      description: The functions of the interface that the kernel's BTF, or the module's, has.
      type: list
      elements: str
    features:
      description:
        - What the kernel has beyond the plain first version of the interface, by name. Policies work without, with less.
        - V(cgroup_online) tells PSI policies about new cgroups, V(averages) lets them use the averaging aggregator,
          V(bypass) leaves out a policy for a time that is slow or makes no progress again and again. V(own_report) says that the
          kernel's own report of an OOM names the policy and what a program declared; without it, a line of the module does.
        - V(free_memory) lets PSI policies tell how much memory of the system is free; C(kernel.kptr_restrict) is not V(2) then.
      type: dict
    unprivileged_bpf:
      description:
        - Whether users without rights may load BPF programs of their own (C(kernel.unprivileged_bpf_disabled) is V(0)). They
          cannot load policies even then. None when the kernel does not say.
      type: bool
    problems:
      description: Each reason why policies cannot be loaded, as C(id), C(kind) (V(oom), V(psi) or V(any)) and C(sentence).
      type: list
      elements: dict
module:
  description:
    - The kernel module that brings the interface to a stock kernel. C(installed) is the one for the running kernel and C(running)
      what is loaded, each with C(version) and C(build_id), or none; C(releases) lists the kernels that one is installed for, and
      C(trial) says whether it has been loaded only lately.
  returned: success
  type: dict
policies:
  description: Every policy that is persisted or loaded, keyed by name.
  returned: success
  type: dict
  contains:
    kind:
      description: V(oom) or V(psi).
      type: str
    order:
      description: Place in the chain.
      type: int
    program:
      description: The policy of the library, or the file name of a source.
      type: str
    object:
      description: The digest that names the object.
      type: str
    params:
      description: The parameters that its manifest wants.
      type: dict
    persisted:
      description: Whether it will be loaded at boot.
      type: bool
    loaded:
      description: Whether it is registered in the kernel, with a pinned link.
      type: bool
    active:
      description: Whether it is loaded, as wanted, and can act.
      type: bool
    why:
      description: Why it is not active; empty when it is.
      type: str
    limits:
      description:
        - Where or when it does not act although it is active, a sentence with the remedy each. While C(vm.panic_on_oom) or
          C(vm.oom_kill_allocating_task) is 1, for example, no policy is asked at an OOM of the whole system.
      type: list
      elements: str
    reasons:
      description:
        - Everything in RV(policies.why) and RV(policies.limits) for programs, each with C(id), C(sentence) and C(whole), which
          says that it never acts.
        - The ids are V(drift), V(observe), V(scope), V(memory_controller), V(pressure_off), V(room), V(panic_on_oom),
          V(allocating_task), V(bypassed), V(detached), and those of RV(capability.problems).
      type: list
      elements: dict
    bypassed:
      description:
        - When the kernel has bypassed what is loaded, the last time that it did, which may be over, C(reason) in the kernel's
          words, C(time) and C(until) in seconds since 1970. None when it has not.
      type: dict
    observing:
      description: Whether it is loaded as wanted with O(linuxmm.bpf_oom.policy_set#module:policies) that say C(mode=observe), so
        that it decides and records and never acts.
      type: bool
    drift:
      description: Each difference between what is wanted, persisted and loaded.
      type: list
      elements: str
    counters:
      description: What it counted. Replacing a policy keeps its counters.
      type: dict
    decisions:
      description:
        - Its newest decisions, newest first. Reading them takes nothing away, and replacing a policy keeps them.
        - C(trigger) and C(scope) say what happened where, C(outcome) what the policy did, C(ranked) and C(skipped) the best
          candidates and those that were spared with a C(verdict) each, C(died) who really died, whoever chose them.
        - Sizes are bytes. C(time_ns) is nanoseconds since boot (C(CLOCK_BOOTTIME)), C(spent_ns) the time in the policy.
      type: list
      elements: dict
    link_id:
      description: The id of its link; the kernel asks OOM policies in the order of these.
      type: int
    tags:
      description: The tags of its programs.
      type: dict
    degraded:
      description: What it cannot do on this kernel although it acts, a sentence each.
      type: list
      elements: str
    unmatched:
      description:
        - Globs of its C(protect), C(avoid), C(prefer) and the like that stand for no cgroup now, a sentence each. Default lists,
          which name what only some hosts have, are left out.
      type: list
      elements: str
foreign:
  description: OOM and PSI policies that somebody else registered, each with C(name), C(kind), C(map_id) and C(link_id).
  returned: success
  type: list
  elements: dict
neighbours:
  description: Other OOM daemons that run on the host and kill by rules of their own.
  returned: success
  type: list
  elements: str
room:
  description: Bytes that are free where policies are persisted, as C(store), and available as memory, as C(memory).
  returned: success
  type: dict
pressure:
  description: The system's memory pressure, averages over a minute in percent, as C(some) and C(full). Empty without PSI.
  returned: success
  type: dict
booted:
  description: When the host booted, in seconds since 1970. A decision was made C(time_ns) nanoseconds later.
  returned: success
  type: float
problems:
  description: What is wrong with the persisted set as a whole, or left by an interrupted change.
  returned: success
  type: list
  elements: str
boot_unit:
  description: Whether the unit that loads the policies at boot is C(installed) and C(enabled).
  returned: success
  type: dict
libbpf:
  description: The version of libbpf, none when there is no usable one.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.engine import Engine
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.report import report


def main() -> None:
    module = AnsibleModule(argument_spec={"decisions": {"type": "int", "default": 10}}, supports_check_mode=True)
    if module.params["decisions"] < 0:
        module.fail_json(msg=f"There are no {module.params['decisions']} decisions; give how many of each policy, 0 or more.")
    try:
        found = report(Engine(), module.params["decisions"])
    except BpfOomError as error:
        module.fail_json(msg=str(error), details=error.details)
    for name in found["neighbours"]:
        module.warn(f"{name} runs on this host, too, and kills by rules of its own.")
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
