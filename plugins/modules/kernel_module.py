#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The kernel module that brings the interface to a stock kernel."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kernel_module
short_description: Ensure that a stock kernel has the interface for OOM and PSI policies, by a module
version_added: 0.2.0
description:
  - Installs the kernel module C(bpf_oom) for the kernel that runs, and loads it. It is built once for each kernel, on the
    controller, and sent to the hosts that lack it. A kernel that has the interface itself is left alone.
  - Installs it also for a kernel that shall run after the next boot, and warns when the newest that is installed has none.
  - What the host or its kernel would refuse is refused in words before anything is touched. What the module itself refuses is
    repeated from the kernel log.
  - When another build of the module runs, the policies that stand on it are unloaded, the module is replaced and the policies are
    loaded again; the result says for how long none acted. When the new one does not load, the old one comes back.
extends_documentation_fragment:
  - linuxmm.bpf_oom.attributes
  - linuxmm.bpf_oom.attributes.action
options:
  state:
    description:
      - Whether the module shall be installed and loaded. With V(absent) it is unloaded, and the modules of all kernels are
        removed; refused while policies that stand on it are loaded.
    type: str
    choices: [present, absent]
    default: present
  release:
    description:
      - The release of an installed kernel that does not run, or V(newest) for the newest that is installed. Its module is
        installed and not loaded, so that a boot into that kernel finds it.
      - By default the kernel that runs.
    type: str
    version_added: 0.2.0
  build_on:
    description:
      - Where the module is built. With V(host), DKMS builds it there, of the source of this collection, and by itself for each
        kernel that is installed later; that wants the packages C(dkms) and C(linux-headers-RELEASE), which the role
        P(linuxmm.bpf_oom.kernel#role) installs. DKMS signs with a key of the host, so O(key) and O(directory) are for
        V(controller).
    type: str
    choices: [controller, host]
    default: controller
    version_added: 0.2.0
  directory:
    description:
      - A directory on the controller with modules that were built before, each as C(RELEASE/bpf_oom.ko), such as signed ones.
        A release that is not there is an error then.
      - Without it, modules are built on the controller with C(kernel/module/build) of this collection, which works on Debian, as
        root, for Debian's kernels. It keeps them below C(BPF_OOM_CACHE), by default C(~/.cache/linuxmm-bpf-oom).
    type: path
  key:
    description:
      - A private key on the controller, in PEM, with which the module is signed there. Ansible Vault may keep the file. It takes
        the place of any signature that the module has. The passphrase of an encrypted key is taken from C(KBUILD_SIGN_PIN) in the
        environment of the controller. The key is never sent to a host.
      - The kernel's own C(sign-file) signs, from the headers that the module was built with, or from this machine's.
    type: path
    version_added: 0.2.0
  certificate:
    description:
      - The certificate of O(key), X.509 in PEM or DER. The hosts must trust it, by the firmware or by C(mokutil --import).
      - By default it is looked for in the file of the key.
    type: path
    version_added: 0.2.0
  allow_untried:
    description:
      - Whether to load the module into a kernel on which it was never tried in a virtual machine, as C(kernel/module/proven.json)
        of this collection lists them by build id.
    type: bool
    default: false
seealso:
  - module: linuxmm.bpf_oom.policy_set
  - module: linuxmm.bpf_oom.policy_info
author:
  - The linuxmm.bpf_oom authors (@linuxmm)
"""

EXAMPLES = r"""
- name: Make a stock kernel capable
  linuxmm.bpf_oom.kernel_module:

- name: Have a module for the kernel that the next boot takes, too
  linuxmm.bpf_oom.kernel_module:
    release: newest

- name: Sign it for hosts with Secure Boot
  linuxmm.bpf_oom.kernel_module:
    key: /srv/bpf_oom/module.key
    certificate: /srv/bpf_oom/module.pem

- name: Use modules that were built and signed elsewhere
  linuxmm.bpf_oom.kernel_module:
    directory: /srv/bpf_oom/signed
"""

RETURN = r"""
release:
  description: The release of the kernel that the module is for.
  returned: success
  type: str
interface:
  description: Who has the interface now, V(kernel) when it is built in and nothing was done, else V(module).
  returned: with O(state=present)
  type: str
gap_ms:
  description: For how many milliseconds no policy acted, when the module was replaced; else none.
  returned: with O(state=present)
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.engine import Engine
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.module import Module
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.foresee import warn_of_newest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.provide import Provision, describe


def main() -> None:
    # What begins with _ comes from the action plugin.
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "release": {"type": "str"},
            "build_on": {"type": "str", "choices": ["controller", "host"], "default": "controller"},
            "directory": {"type": "path"},
            # Paths on the controller, which a log may show.
            "key": {"type": "path", "no_log": False},
            "certificate": {"type": "path"},
            "allow_untried": {"type": "bool", "default": False},
            "_request": {"type": "dict"},
            "_blobs": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    given, request = module.params, module.params["_request"]
    if request is None:
        module.fail_json(msg="kernel_module needs its action plugin; call it as linuxmm.bpf_oom.kernel_module from a play.")
    try:
        engine = Engine()
        if request["step"] == "describe":
            found = describe(Module(engine.paths), given["release"] or "")
            for warning in warn_of_newest(Module(engine.paths)) if found["runs"] else []:
                module.warn(warning)
            module.exit_json(changed=False, **found)
        provision = Provision(engine, given["release"] or "")
        if given["state"] == "absent":
            result = provision.absent(module.check_mode)
        else:
            blobs = given["_blobs"] or {}
            rest = (blobs, request["proven"], given["allow_untried"], module.check_mode)
            dkms = request.get("dkms")
            result = provision.by_dkms(dkms, *rest) if dkms else provision.present(request["module"], *rest)
    except BpfOomError as error:
        module.fail_json(msg=str(error), details=error.details)
    for warning in provision.warnings:
        module.warn(warning)
    if not module._diff:
        result.pop("diff", None)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
