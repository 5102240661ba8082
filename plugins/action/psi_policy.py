# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of psi_policy, which has no module of its own: policy_set does the work on the host."""

from __future__ import annotations

from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._single import SingleAction


class ActionModule(SingleAction):
    kind = "psi"
