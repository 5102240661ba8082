#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep a host's set of policies under a name, and bring it back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: policy_backup
short_description: Keep a host's set of policies under a name, and bring it back
version_added: 0.1.0
description:
  - Keeps what is persisted, its objects too, on the host itself, and makes it the persisted and loaded set again, without a
    compiler and without the inventory that it came from.
  - Bringing it back is a change like any other. What is new is loaded and verified before the old is dropped.
  - A host that has no policies keeps that, and loses its policies when it is restored.
requirements:
  - what M(linuxmm.bpf_oom.policy_set) needs
extends_documentation_fragment:
  - linuxmm.bpf_oom.attributes
options:
  name:
    description: The name of the kept set, at most 48 lower-case letters, digits, V(_) and V(-).
    type: str
    default: rollout
  state:
    description:
      - V(kept) keeps the set that is persisted now; it replaces one of that name.
      - V(restored) makes the kept set the persisted and loaded one; it stays kept.
      - V(absent) forgets the kept set.
    type: str
    choices: [kept, restored, absent]
    default: kept
seealso:
  - module: linuxmm.bpf_oom.policy_set
author:
  - The linuxmm.bpf_oom authors (@linuxmm)
"""

EXAMPLES = r"""
- name: Keep what the host has
  linuxmm.bpf_oom.policy_backup:

- name: Bring it back
  linuxmm.bpf_oom.policy_backup:
    state: restored
"""

RETURN = r"""
policies:
  description: Each policy as in M(linuxmm.bpf_oom.policy_set), with O(state=restored).
  returned: success
  type: dict
drift:
  description: How the host differed from the kept set, as in M(linuxmm.bpf_oom.policy_set), with O(state=restored).
  returned: success
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.sets import back_up


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "default": "rollout"},
            "state": {"type": "str", "choices": ["kept", "restored", "absent"], "default": "kept"},
        },
        supports_check_mode=True,
    )
    try:
        result = back_up(module.params["name"], module.params["state"], module.check_mode)
    except BpfOomError as error:
        module.fail_json(msg=str(error), details=error.details)
    for warning in result.pop("warnings", []):
        module.warn(warning)
    if not module._diff:
        result.pop("diff")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
