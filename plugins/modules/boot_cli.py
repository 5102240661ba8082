#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command bpf-oom, which loads the persisted policies at boot."""

from __future__ import annotations

DOCUMENTATION = r"""
module: boot_cli
short_description: Install the command bpf-oom, which loads the persisted policies at boot
version_added: 0.1.0
description:
  - Packs the collection's own host side into one executable file, the same bytes on every controller, and installs it.
  - It is run by C(/usr/bin/python3) where that is Python 3.8 or later, and else by the Python that runs this module, if that is
    root's alone.
  - "The command knows C(apply), C(status), C(decisions), C(unload), C(verify) and C(kill-log)."
extends_documentation_fragment:
  - linuxmm.bpf_oom.attributes
  - linuxmm.bpf_oom.attributes.action
options:
  dest:
    description: Where the file goes.
    type: path
    default: /usr/lib/linuxmm-bpf-oom/bpf-oom.pyz
  link:
    description: The symbolic link to it, on the search path.
    type: path
    default: /usr/sbin/bpf-oom
  fact:
    description:
      - Another symbolic link to it, as a local fact, such as C(/etc/ansible/facts.d/bpf_oom.fact). Whoever gathers facts finds
        what C(bpf-oom status --json) says as C(ansible_local.bpf_oom) then. Empty for none.
      - Without it, an existing link is left alone.
    type: str
    default: ''
  state:
    description: Whether file and links shall be there.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: linuxmm.bpf_oom.policy_set
author:
  - The linuxmm.bpf_oom authors (@linuxmm)
"""

EXAMPLES = r"""
- name: Install the command
  linuxmm.bpf_oom.boot_cli:

- name: Remove it
  linuxmm.bpf_oom.boot_cli:
    state: absent
"""

RETURN = r"""
dest:
  description: Where the file is, or was.
  returned: success
  type: str
digest:
  description: The SHA-256 of the file that belongs there.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.install import Installation, interpreter
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import FACT


def main() -> None:
    # _digest and _blobs come from the action plugin.
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path", "default": "/usr/lib/linuxmm-bpf-oom/bpf-oom.pyz"},
            "link": {"type": "path", "default": "/usr/sbin/bpf-oom"},
            "fact": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "_digest": {"type": "str"},
            "_blobs": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    if module.params["_digest"] is None:
        module.fail_json(msg="boot_cli needs its action plugin; call it as linuxmm.bpf_oom.boot_cli from a play.")
    fact = module.params["fact"]
    if fact and not (fact.startswith("/") and fact.endswith(FACT)):
        module.fail_json(msg=f"The fact {fact!r} is no local fact; give an absolute path that ends in {FACT}.")
    for option in ("dest", "link"):
        if not module.params[option].startswith("/"):
            module.fail_json(
                msg=f"The {option} {module.params[option]!r} is relative, and nobody knows to what; give an absolute path."
            )
    links = [module.params["link"]] + ([fact] if fact else [])
    try:
        python = interpreter() if module.params["state"] == "present" else ""
        result = Installation(module.params["dest"], links, python).ensure(
            module.params["state"], module.params["_digest"], module.params["_blobs"] or {}, module.check_mode
        )
    except BpfOomError as error:
        module.fail_json(msg=str(error), details=error.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
