#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run out of memory on purpose in a scratch cgroup, and see who dies."""

from __future__ import annotations

DOCUMENTATION = r"""
module: drill
short_description: Run out of memory on purpose in a scratch cgroup, and see who dies
version_added: 0.1.0
description:
  - Makes the cgroup C(bpf-oom-drill) in O(parent) with limits of its own, starts a few processes in it, lets them fill more
    memory than it has, and reports who was killed, by which policy, how fast, and the proofs of it.
  - Fails when somebody else died than O(expect) says, or when a proof is missing.
  - Nothing outside of the scratch cgroup can be reached, as the kernel kills inside of the cgroup that is out of memory. The
    scratch cgroup is always removed; what a drill that was killed has left, the next one removes.
  - Refuses, before anything is made, when no active policy answers for the scratch cgroup, when the one that does only observes,
    when the host or a limit further up has too little free memory, when a pressure policy also watches something further up or
    nobody is sure what it watches, and when C(vm.panic_on_oom) is 2.
  - No policy can be changed on the host while a drill runs.
requirements:
  - a kernel and policies as M(linuxmm.bpf_oom.policy_set) needs them
attributes:
  action_group:
    description: Belongs to C(group/linuxmm.bpf_oom.all) of C(module_defaults).
    support: full
    membership: [linuxmm.bpf_oom.all]
  check_mode:
    description: Makes no drill in C(check_mode) and says what it would do. What would be refused is refused.
    support: full
  diff_mode:
    description: Leaves nothing, so there is no difference to show.
    support: N/A
  platform:
    description: Where it runs.
    platforms: linux
    support: full
options:
  kind:
    description:
      - With V(memcg), the scratch cgroup reaches its C(memory.max), and an OOM policy has to choose.
      - With V(pressure), it is slowed down at its C(memory.high), and a PSI policy whose scope stands for the scratch cgroup
        itself has to declare an OOM.
    type: str
    choices: [memcg, pressure]
    default: memcg
  parent:
    description: The path of the cgroup to make the scratch cgroup in. It has to be in the scope of the policies to drill.
    type: str
    default: /
  processes:
    description:
      - The processes, each in a cgroup of its own below the scratch cgroup, in the order in which they fill their memory.
      - By default C(bait) with 10 MiB and C(oom_score_adj) 1000, C(guarded) with 40 MiB and -1000, C(largest) with 30 MiB and
        C(second) with 20 MiB, of which a policy that kills the largest cgroup kills C(largest).
    type: list
    elements: dict
    suboptions:
      name:
        description: Its name, also that of its cgroup, 1 to 15 lower-case letters, digits, C(_) and C(-).
        type: str
        required: true
      mib:
        description: How much it wants, in MiB.
        type: int
        required: true
      oom_score_adj:
        description: Its C(oom_score_adj), from -1000, never killed, to 1000.
        type: int
        default: 0
  limit_mib:
    description:
      - The limit of the scratch cgroup in MiB; less than the processes want together. By default the last one does not fit.
    type: int
  expect:
    description: The names of the processes that have to die, all of them and nobody else.
    type: list
    elements: str
    required: true
  policy:
    description: The policy that has to have chosen them, or declared the OOM; by default any.
    type: str
  witness:
    description:
      - Who has to see the kills besides the policy. V(bcc) compiles a BPF program of its own and needs bcc and the kernel's
        headers on the host, V(tracefs) reads the tracepoint, V(auto) is V(bcc) where it works, else V(tracefs).
    type: str
    choices: [auto, bcc, tracefs]
    default: auto
  timeout:
    description: How long to wait for each step, such as a death, in seconds.
    type: int
    default: 60
seealso:
  - module: linuxmm.bpf_oom.policy_info
author:
  - The linuxmm.bpf_oom authors (@linuxmm)
"""

EXAMPLES = r"""
- name: Does the policy of this slice kill the largest cgroup?
  linuxmm.bpf_oom.drill:
    parent: /workload.slice
    expect: [largest]
    policy: largest

- name: Is the preferred one killed although it is small?
  linuxmm.bpf_oom.drill:
    processes:
      - {name: batch, mib: 10}
      - {name: database, mib: 60}
    limit_mib: 48
    expect: [batch]
"""

RETURN = r"""
victims:
  description: Who died, first one first.
  returned: success or failure
  type: list
  elements: dict
  contains:
    name:
      description: The process.
      type: str
    pid:
      description: Its pid.
      type: int
    cgroup:
      description: Its cgroup.
      type: str
    policy:
      description: Whose record says that it chose the victim; V((none\)) when it was the kernel itself.
      type: str
    declared_by:
      description: The pressure policy that declared the OOM, empty when none did.
      type: str
    chosen_ms:
      description: Milliseconds from the begin of the decision to the choice.
      type: float
    latency_ms:
      description: Milliseconds from the begin of the decision until the process was gone, seen every 10 ms.
      type: float
proofs:
  description: Each claim that has to hold, as C(claim), C(holds) and C(evidence).
  returned: success or failure
  type: list
  elements: dict
bystanders:
  description: The pids of others that the kernel killed on this host meanwhile.
  returned: success or failure
  type: list
  elements: int
passed:
  description: Whether every claim holds.
  returned: success or failure
  type: bool
witness:
  description: Who saw the kills, V(bcc) or V(tracefs).
  returned: success or failure
  type: str
cgroup:
  description: The scratch cgroup, which is gone.
  returned: success or failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.drill import run_drill


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "kind": {"type": "str", "choices": ["memcg", "pressure"], "default": "memcg"},
            "parent": {"type": "str", "default": "/"},
            "processes": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "mib": {"type": "int", "required": True},
                    "oom_score_adj": {"type": "int", "default": 0},
                },
            },
            "limit_mib": {"type": "int"},
            "expect": {"type": "list", "elements": "str", "required": True},
            "policy": {"type": "str"},
            "witness": {"type": "str", "choices": ["auto", "bcc", "tracefs"], "default": "auto"},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    try:
        result = run_drill(module.params, module.check_mode)
    except BpfOomError as error:
        module.fail_json(msg=str(error), details=error.details)
    for warning in result.pop("warnings", []):
        module.warn(warning)
    wrong = [proof for proof in result.get("proofs", []) if not proof["holds"]]
    if wrong:
        module.fail_json(msg=f"The drill failed: that {wrong[0]['claim']} does not hold ({wrong[0]['evidence']}).", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
