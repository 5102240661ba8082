# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of oom_policy and psi_policy: a set of one that leaves the others alone."""

from __future__ import annotations

import json
from typing import Any

from ..module_utils._common.errors import BpfOomError
from ..module_utils._common.specs import SINGLE_REQUIRED, SINGLE_SPEC
from ._policies import Resolver
from ._transfer import TransferringAction
from ._vaulted import mask

_OF_ONE = ("policy", "src", "params", "order", "state")


class SingleAction(TransferringAction):
    _requires_connection = True
    kind = ""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec(argument_spec=SINGLE_SPEC, **SINGLE_REQUIRED)
        one = {key: options[key] for key in _OF_ONE if options[key] is not None}
        if options["src"]:
            one["kind"] = self.kind
        resolver = Resolver(options["compile_on"], self.find, self.renderer(task_vars or {}))
        try:
            request = resolver.request({options["name"]: one}, self.kind)
        except BpfOomError as error:
            return self.failure(mask(error, self._task.args))
        # `state` is that of the set: it stays, also when its one policy goes.
        request.update(state="present", exclusive=False, on_incapable=options["on_incapable"])
        arguments = {"policies": {}, "_request": json.dumps(request)}
        result = self.execute("linuxmm.bpf_oom.policy_set", arguments, resolver.blobs, task_vars or {})
        result["policy"] = (result.pop("policies", None) or {}).get(options["name"], {})
        return result
