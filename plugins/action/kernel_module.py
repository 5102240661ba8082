# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of kernel_module: find the module for a host's kernel, or build it, and send it where it is missing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._module import inspect
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._kernel import built_module, proven
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._transfer import TransferringAction

_NAME = "linuxmm.bpf_oom.kernel_module"


class ActionModule(TransferringAction):
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments: dict[str, Any] = {**self._task.args, "_request": {"step": "ensure"}}
        if arguments.get("state", "present") == "absent":
            return dict(self._execute_module(module_name=_NAME, module_args=arguments, task_vars=task_vars))
        # Also says, in Ansible's words, what is wrong with the arguments.
        asked = {**self._task.args, "_request": {"step": "describe"}}
        host = self._execute_module(module_name=_NAME, module_args=asked, task_vars=task_vars)
        if host.get("failed"):
            return dict(host)
        same = {"changed": False, "release": host["release"], "interface": "kernel", "gap_ms": None}
        if host["kernel_has_it"]:
            return same
        # What it warns of holds whatever is done.
        told = {key: host[key] for key in ("warnings",) if key in host}
        try:
            data = built_module(str(host["release"]), self._directory(arguments.get("directory")))
            built = inspect(data)
        except BpfOomError as error:
            return self.failure(error)
        if host["installed"] == built.digest and (not host["runs"] or host["running"] == built.build_id):
            return {**same, **told, "interface": "module"}
        found = {**asdict(built), "signed": "yes" if built.signed else "no"}
        arguments["_request"].update(module=found, proven=proven())
        if not self._task.check_mode and host["installed"] != built.digest:
            arguments["_blobs"] = self._send([built.digest], {built.digest: data})
        result = dict(self._execute_module(module_name=_NAME, module_args=arguments, task_vars=task_vars))
        result["warnings"] = [*told.get("warnings", []), *result.get("warnings", [])]
        return result

    def _directory(self, given: Any) -> str | None:
        """Beside the play, as with other tasks."""
        if not given:
            return None
        if not isinstance(given, str):
            raise AnsibleActionFail("the option directory must be a path")
        return str(self._loader.path_dwim(given))
