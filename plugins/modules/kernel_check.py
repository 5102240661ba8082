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
  - For a host that is about to reboot into another kernel. Says who has the interface there, that kernel or a module
    that is installed for it, compares each persisted object with their BTF, and fails when a policy would not be loaded.
  - A module counts when it would be loaded, so when it is for this release, signed if the host takes only signed ones, and tried
    on this build of the kernel or allowed without.
  - Looks for callbacks, functions, tracepoints and for each structure and field that the programs read, as libbpf does when it
    loads them. A program that asks whether a field of a structure exists has code for both answers, so that no field of this
    structure is missed.
  - What the other kernel's verifier would say is not known. Only a machine that runs it can tell.
  - Changes nothing.
extends_documentation_fragment:
  - linuxmm.bpf_oom.attributes
  - linuxmm.bpf_oom.attributes.info
  - linuxmm.bpf_oom.attributes.action
options:
  path:
    description:
      - A file on the host, the kernel's BTF as in C(/sys/kernel/btf/vmlinux), its C(vmlinux), or its image, as
        C(/boot/vmlinuz-*), compressed by gzip, xz, zstd (needs C(libzstd.so.1)) or lz4 (needs C(liblz4.so.1)).
      - By default the image of the newest kernel that is installed, which boot loaders take unless they are told otherwise.
    type: path
  release:
    description:
      - The release of that kernel. An image and a C(vmlinux) say it themselves, plain BTF does not. Without O(path), the
        installed kernel to look at.
    type: str
    version_added: 0.2.0
  allow_untried:
    description:
      - Whether a module is good enough that nobody has tried on that build of the kernel, as
        O(linuxmm.bpf_oom.kernel_module#module:allow_untried).
    type: bool
    default: false
    version_added: 0.2.0
seealso:
  - module: linuxmm.bpf_oom.kernel_module
  - module: linuxmm.bpf_oom.policy_info
author:
  - The linuxmm.bpf_oom authors (@linuxmm)
"""

EXAMPLES = r"""
- name: Will the policies load on the kernel that the next boot takes?
  linuxmm.bpf_oom.kernel_check:

- name: Reboot only then
  ansible.builtin.reboot:

- name: Will they on this one?
  linuxmm.bpf_oom.kernel_check:
    path: /boot/vmlinuz-6.12.117+deb13-amd64
"""

RETURN = r"""
interface:
  description:
    - Who has the interface there. C(state) is V(kernel), V(proven) or V(untried) for a module, V(missing) when none is there,
      V(no_headers) when DKMS on the host cannot build it, V(unusable) when the file is damaged, V(refused) when the host would
      not load it, V(unnamed) when it is not known which kernel is meant. C(usable) is whether that is good enough, C(sentence)
      says all of it with the way out, C(release) and C(build_id) are the kernel's.
  returned: always, unless something could not be read
  type: dict
policies:
  description:
    - Each persisted policy, keyed by name. C(loads) is whether nothing is in the way, C(problems) says what is, a clause each,
      and C(degraded) what a policy that loads cannot do there, a sentence each.
  returned: always, unless something could not be read
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.engine import Engine
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.foresee import foresee, objections


def main() -> None:
    # What begins with _ comes from the action plugin.
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path"},
            "release": {"type": "str"},
            "allow_untried": {"type": "bool", "default": False},
            "_request": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    given, request = module.params, module.params["_request"]
    if request is None:
        module.fail_json(msg="kernel_check needs its action plugin; call it as linuxmm.bpf_oom.kernel_check from a play.")
    try:
        found = foresee(Engine(), given["path"] or "", given["release"] or "", request["proven"], given["allow_untried"])
    except BpfOomError as error:
        module.fail_json(msg=str(error), details=error.details)
    for name, policy in found["policies"].items():
        for each in policy["degraded"]:
            module.warn(f"Policy '{name}' will load, but {each}.")
    bad = objections(found)
    if bad:
        module.fail_json(msg=". ".join(bad), **found)
    interface = found["interface"]
    if interface["state"] == "untried" or not interface["usable"]:
        module.warn(interface["sentence"])
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
