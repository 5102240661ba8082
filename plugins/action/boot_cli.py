# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of boot_cli: pack the CLI here, send it where it differs."""

from __future__ import annotations

from typing import Any

from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.manifest import digest
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._transfer import TransferringAction
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._zipapp import build


class ActionModule(TransferringAction):
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        archive = build()
        name = digest(archive)
        arguments = {**self._task.args, "_digest": name}
        return self.execute("linuxmm.bpf_oom.boot_cli", arguments, {name: archive}, task_vars or {})
