# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of kernel_check: on which kernels the module was tried."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._kernel import proven


class ActionModule(ActionBase):
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = {**self._task.args, "_request": {"proven": proven()}}
        name = "linuxmm.bpf_oom.kernel_check"
        return dict(self._execute_module(module_name=name, module_args=arguments, task_vars=task_vars))
