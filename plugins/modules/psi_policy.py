#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One BPF PSI policy; the work is done by the action plugin of the same name and by policy_set."""

from __future__ import annotations

DOCUMENTATION = r"""
module: psi_policy
short_description: Ensure one BPF PSI policy on a host
version_added: 0.1.0
description:
  - Ensures that one PSI policy is compiled, loaded and persisted, or that it is neither, and leaves the others alone.
  - To manage all policies of a host use M(linuxmm.bpf_oom.policy_set), which needs one call for all of them.
requirements:
  - Linux with C(bpf_psi_ops), BTF and cgroup v2
  - libbpf 1.5 or later on the host
  - clang, llvm-strip and the headers of libbpf where policies are compiled
extends_documentation_fragment:
  - linuxmm.bpf_oom.options
  - linuxmm.bpf_oom.options.single
  - linuxmm.bpf_oom.attributes
  - linuxmm.bpf_oom.attributes.action
seealso:
  - module: linuxmm.bpf_oom.policy_set
  - module: linuxmm.bpf_oom.policy_info
author:
  - The linuxmm.bpf_oom authors (@linuxmm)
"""

EXAMPLES = r"""
- name: Ensure one PSI policy
  linuxmm.bpf_oom.psi_policy:
    name: example
    policy: pressure_oom
    params:
      scope: [/system.slice/db.service]

- name: Drop it
  linuxmm.bpf_oom.psi_policy:
    name: example
    state: absent
"""

RETURN = r"""
policy:
  description: The policy after the call, or as it would be after it in check mode; empty when it is absent.
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
  sample: {kind: psi, order: 100, persisted: true, loaded: true, active: true, why: ""}
capability:
  description: What the host can do, as in M(linuxmm.bpf_oom.policy_info).
  returned: success
  type: dict
details:
  description: The compiler's or the verifier's log, when there is one.
  returned: failure
  type: str
"""
