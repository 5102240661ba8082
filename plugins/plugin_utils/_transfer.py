# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a module; when it says what it lacks, send that and run it again."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

from ..module_utils._errors import BpfOomError


class TransferringAction(ActionBase):
    """One module call in the unchanged case, two when something must be sent."""

    def find(self, src: str) -> str:
        """Look for a source as a copy task does."""
        try:
            return str(self._find_needle("files", src))
        except AnsibleError:
            raise BpfOomError(
                f"there is no source file {src}", "put it beside the play or into files/, or give its full path"
            ) from None

    def failure(self, error: BpfOomError) -> dict[str, Any]:
        return {"failed": True, "changed": False, "msg": str(error), "details": error.details}

    def execute(
        self, module: str, arguments: dict[str, Any], blobs: Mapping[str, Path | bytes], task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(module_name=module, module_args=arguments, task_vars=task_vars)
        needs = result.get("needs")
        if result.get("failed") or not needs:
            return result
        arguments["_blobs"] = self._send(needs, blobs)
        return dict(self._execute_module(module_name=module, module_args=arguments, task_vars=task_vars))

    def _send(self, needs: list[str], blobs: Mapping[str, Path | bytes]) -> dict[str, str]:
        shell = self._connection._shell
        if not shell.tmpdir:
            self._make_tmp_path()
        sent = {}
        for blob in needs:
            remote = shell.join_path(shell.tmpdir, blob)
            held = blobs[blob]
            if isinstance(held, Path):
                self._transfer_file(str(held), remote)
            else:
                with tempfile.NamedTemporaryFile() as local:
                    local.write(held)
                    local.flush()
                    self._transfer_file(local.name, remote)
            sent[blob] = remote
        self._fixup_perms2([shell.tmpdir, *sent.values()])
        return sent
