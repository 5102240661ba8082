# SPDX-License-Identifier: GPL-3.0-or-later
"""What the collection's modules support."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options: {}
attributes:
  action_group:
    description: Belongs to C(group/linuxmm.bpf_oom.all) of C(module_defaults).
    support: full
    membership: [linuxmm.bpf_oom.all]
  check_mode:
    description: Can run in C(check_mode) and says truthfully what would change, also where nothing is installed yet.
    support: full
  diff_mode:
    description: Shows one readable block for each policy, before and after.
    support: full
  platform:
    description: Where it runs.
    platforms: linux
    support: full
"""

    INFO = r"""
options: {}
attributes:
  action_group:
    description: Belongs to C(group/linuxmm.bpf_oom.all) of C(module_defaults).
    support: full
    membership: [linuxmm.bpf_oom.all]
  check_mode:
    description: Only reads, so it does the same in C(check_mode).
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: N/A
  platform:
    description: Where it runs.
    platforms: linux
    support: full
"""

    ACTION = r"""
options: {}
attributes:
  action:
    description: Has an action plugin, which works on the controller before the module runs on the host.
    support: full
"""
