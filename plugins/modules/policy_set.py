#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The complete set of a host's BPF OOM and PSI policies."""

from __future__ import annotations

DOCUMENTATION = r"""
module: policy_set
short_description: Ensure the complete set of BPF OOM and PSI policies of a host
version_added: 0.1.0
description:
  - Compiles, loads and persists a host's OOM and PSI policies, all in one call, and drops those that are not in the set.
  - A policy is compared with what its manifest on disk says and with what the running kernel shows. Nothing counts as
    unchanged only because it was written last time.
  - What is new is loaded beside the old, verified, and then replaces it, so that there is never a gap. When anything
    fails, nothing is changed.
  - A policy that watches a cgroup which does not exist is persisted and waits; a warning says so.
requirements:
  - Linux with C(bpf_oom_ops) and C(bpf_psi_ops), BTF, cgroup v2 and, for PSI policies, PSI
  - libbpf 1.5 or later on the host
  - clang, llvm-strip and the headers of libbpf where policies are compiled
extends_documentation_fragment:
  - linuxmm.bpf_oom.options
  - linuxmm.bpf_oom.attributes
  - linuxmm.bpf_oom.attributes.action
options:
  policies:
    description:
      - The policies, keyed by name. Needed with O(state=present).
      - "Each is a dictionary. C(policy) names one of the library, or C(src) a source file or a template C(*.bpf.c.j2) of
        your own with its C(kind), V(oom) or V(psi), unless a C(policy.yml) beside it says it; C(params) is a dictionary of
        parameters; C(order), by default 100, is the place in the chain; C(state) is V(present) or V(absent)."
      - A name has at most 48 lower-case letters, digits, underscores and dashes, and starts with a letter.
    type: dict
  exclusive:
    description: Whether policies of ours that are not in O(policies) are dropped.
    type: bool
    default: true
  foreign:
    description:
      - What to do with OOM and PSI policies that something other than this collection registered in the kernel.
      - V(leave) only tells of them, in the return value RV(drift) and in M(linuxmm.bpf_oom.policy_info).
      - V(remove) unregisters them, by detaching their link or, where they have none, by deleting the value of their map.
        What somebody pinned stays pinned and acts no more. A daemon that registered it may do so again.
    type: str
    choices: [leave, remove]
    default: leave
  interface_announced:
    description:
      - For check mode only, where a task before this one is about to bring the interface to a stock kernel, as
        M(linuxmm.bpf_oom.kernel_module) does. That the kernel lacks it now is no reason to fail then.
    type: bool
    default: false
  state:
    description: With V(absent) everything is unloaded and nothing of ours stays in the state directories.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: linuxmm.bpf_oom.policy_info
  - module: linuxmm.bpf_oom.oom_policy
  - module: linuxmm.bpf_oom.psi_policy
author:
  - The linuxmm.bpf_oom authors (@linuxmm)
"""

EXAMPLES = r"""
- name: Kill the largest leaf cgroup, and call it an OOM when the databases stall
  linuxmm.bpf_oom.policy_set:
    policies:
      leaf:
        policy: largest_leaf
        params:
          min_usage: 16777216
      db-pressure:
        policy: pressure_oom
        params:
          scope: [/system.slice/db.service]
          threshold_us: 300000
          window_us: 1000000

- name: Use a policy of our own before the library's, in a fleet where some kernels cannot
  linuxmm.bpf_oom.policy_set:
    policies:
      ours:
        src: policies/ours.bpf.c
        kind: oom
        order: 10
      leaf:
        policy: largest_leaf
    on_incapable: persist_only

- name: Unload everything and leave nothing
  linuxmm.bpf_oom.policy_set:
    state: absent
"""

RETURN = r"""
policies:
  description: Every policy of ours after the call, or as it would be after it in check mode.
  returned: success
  type: dict
  contains:
    kind:
      description: V(oom) or V(psi).
      type: str
    order:
      description: Place in the chain.
      type: int
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
  sample:
    leaf: {kind: oom, order: 100, persisted: true, loaded: true, active: true, why: ""}
drift:
  description:
    - Each way in which the host differed from what is wanted, before anything was changed.
    - Only O(exclusive=true) finds policies of this collection that are not wanted.
  returned: success
  type: list
  elements: dict
  contains:
    policy:
      description: The name of the policy.
      type: str
    aspect:
      description:
        - What differs. V(source), V(object), V(manifest), V(order), V(parameter) and V(mode) are about what is persisted,
          V(parameter) and V(mode) also about what is loaded. V(loaded), V(tags), V(link), V(pin), V(order) and V(scope) are about
          what the kernel has. V(set) is the persisted set as a whole, V(foreign) a policy that somebody else registered,
          see O(foreign), and V(capability) what keeps a policy from being loaded.
      type: str
    what:
      description: The difference in a sentence.
      type: str
capability:
  description: What the host can do, as in M(linuxmm.bpf_oom.policy_info). Empty with O(state=absent).
  returned: success
  type: dict
details:
  description: The compiler's or the verifier's log, when there is one.
  returned: failure
  type: str
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.specs import SET_REQUIRED_IF, SET_SPEC
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.run import run


def main() -> None:
    # _request and _blobs come from the action plugin; of no interest to who reads the result, which would carry them back.
    module = AnsibleModule(
        argument_spec=dict(SET_SPEC, _request={"type": "str"}, _blobs={"type": "dict"}),
        required_if=SET_REQUIRED_IF,
        supports_check_mode=True,
    )
    request, blobs = module.params.pop("_request"), module.params.pop("_blobs")
    if request is None:
        module.fail_json(msg="policy_set needs its action plugin; call it as linuxmm.bpf_oom.policy_set from a play.")
    try:
        result = run(dict(json.loads(request), blobs=blobs or {}), module.check_mode)
    except BpfOomError as error:
        module.fail_json(msg=str(error), details=error.details)
    for warning in result.pop("warnings", []):
        module.warn(warning)
    if not module._diff:
        result.pop("diff", None)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
