# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a module; when it says what it lacks, send that and run it again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible.release import __version__ as ansible_version

from ..module_utils._common.errors import BpfOomError
from ._policies import TEMPLATE

# Before ansible-core 2.19 a template whose text looks like data becomes that; later ones keep texts, and warn of the option.
_UNCONVERTED = {"convert_data": False} if tuple(map(int, ansible_version.split(".")[:2])) < (2, 19) else {}


class TransferringAction(ActionBase):
    """One module call in the unchanged case, two when something must be sent."""

    def find(self, src: str) -> str:
        """Look for a source as a copy task does, for a template as a template task does."""
        folder = "templates" if src.endswith(TEMPLATE) else "files"
        try:
            return str(self._find_needle(folder, src))
        except AnsibleError:
            raise BpfOomError(
                f"there is no source file {src}", f"put it beside the play or into {folder}/, or give its full path"
            ) from None

    def renderer(self, task_vars: dict[str, Any]) -> Callable[[str], str]:
        """Renders a site's template with the variables of the host; typed filters make literals of them."""

        def render(path: str) -> str:
            lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
            try:
                return str(lookup.run([path], task_vars, **_UNCONVERTED)[0])
            except AnsibleError as error:
                raise BpfOomError(
                    f"the template {path} cannot be rendered: {str(error).strip().splitlines()[0].rstrip('.')}",
                    "correct it, or define what it needs",
                ) from None

        return render

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
