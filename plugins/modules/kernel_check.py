#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Say whether the persisted policies will load on another kernel."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kernel_check
short_description: Say whether the persisted policies will load on another kernel
version_added: 0.1.0
description:
  - For a host that is about to reboot into another kernel. Compares each persisted object with the BTF of that kernel and fails
    when a policy would not be loaded.
  - Looks for callbacks, functions, tracepoints and for each structure and field that the programs read, as libbpf does when it
    loads them. A program that asks whether a field of a structure exists has code for both answers, so that no field of this
    structure is missed.
  - What the other kernel's verifier would say is not known. Only a machine that runs it can tell.
  - Changes nothing.
extends_documentation_fragment:
  - linuxmm.bpf_oom.attributes
  - linuxmm.bpf_oom.attributes.info
options:
  path:
    description:
      - A file on the host, the kernel's BTF as in C(/sys/kernel/btf/vmlinux), its C(vmlinux), or its image, as
        C(/boot/vmlinuz-*), compressed by gzip, xz, zstd (needs C(libzstd.so.1)) or lz4 (needs C(liblz4.so.1)).
    type: path
    required: true
seealso:
  - module: linuxmm.bpf_oom.policy_info
author:
  - The linuxmm.bpf_oom authors (@linuxmm)
"""

EXAMPLES = r"""
- name: Will the policies load on the new kernel?
  linuxmm.bpf_oom.kernel_check:
    path: /boot/vmlinuz-6.12.117

- name: Reboot only then
  ansible.builtin.reboot:
"""

RETURN = r"""
policies:
  description:
    - Each persisted policy, keyed by name. C(loads) is whether nothing is in the way, C(problems) says what is, a clause each,
      and C(degraded) what a policy that loads cannot do there, a sentence each.
  returned: always, unless something could not be read
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine import Engine
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._sets import foresee


def main() -> None:
    module = AnsibleModule(argument_spec={"path": {"type": "path", "required": True}}, supports_check_mode=True)
    try:
        policies = foresee(Engine(), module.params["path"])
    except BpfOomError as error:
        module.fail_json(msg=str(error), details=error.details)
    for name, policy in policies.items():
        for each in policy["degraded"]:
            module.warn(f"Policy '{name}' will load, but {each}.")
    bad = [
        f"policy '{name}' will not load on that kernel: {'; '.join(each['problems'])}"
        for name, each in policies.items()
        if not each["loads"]
    ]
    if bad:
        module.fail_json(msg=". ".join(bad), policies=policies)
    module.exit_json(changed=False, policies=policies)


if __name__ == "__main__":
    main()
