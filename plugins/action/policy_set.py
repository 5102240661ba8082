# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of policy_set: validate and compile here, send what the host lacks."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.specs import SET_REQUIRED_IF, SET_SPEC
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._policies import Resolver, unanswered
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._transfer import TransferringAction
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._wanted import refuse_slips


class ActionModule(TransferringAction):
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec(argument_spec=SET_SPEC, required_if=SET_REQUIRED_IF)
        resolver = Resolver(options["compile_on"], self.find, self.renderer(task_vars or {}))
        try:
            policies = options["policies"] or {}
            refuse_slips(policies)
            request = resolver.request(policies if options["state"] == "present" else {})
        except BpfOomError as error:
            return self.failure(error)
        request.update({key: options[key] for key in ("state", "exclusive", "foreign", "on_incapable", "interface_announced")})
        arguments = {**self._task.args, "_request": json.dumps(request)}
        result = self.execute("linuxmm.bpf_oom.policy_set", arguments, resolver.blobs, task_vars or {})
        for sentence in unanswered(request["policies"]):
            result.setdefault("warnings", []).append(sentence)
        return result
