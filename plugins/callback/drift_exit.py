# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An exit status that tells drift: for those who run their own plays with --check."""

from __future__ import annotations

DOCUMENTATION = r"""
name: drift_exit
type: aggregate
short_description: Ends a run in check mode with an exit status of its own when something would change
version_added: 0.1.0
description:
  - Ansible ends with 0 when a run in check mode finds that something would change. With this plugin such a run ends with
    O(exit_status), if nothing failed and no host was unreachable; those keep their own status.
  - Only what ran in check mode counts.
requirements:
  - enabled through C(callbacks_enabled)
options:
  exit_status:
    description: The exit status, 1 to 255.
    type: int
    default: 3
    env:
      - name: BPF_OOM_DRIFT_EXIT_STATUS
    ini:
      - section: callback_bpf_oom_drift_exit
        key: exit_status
author:
  - The linuxmm.bpf_oom authors (@linuxmm)
"""

from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "linuxmm.bpf_oom.drift_exit"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._drifted: set[str] = set()

    def v2_runner_on_ok(self, result: Any) -> None:
        # Before ansible-core 2.19 there are only the names with an underscore, which later ones are about to drop.
        task, told, host = (
            getattr(result, name) if hasattr(result, name) else getattr(result, f"_{name}") for name in ("task", "result", "host")
        )
        if task.check_mode and told.get("changed"):
            self._drifted.add(host.get_name())

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if not self._drifted or stats.failures or stats.dark:
            return
        status = int(self.get_option("exit_status"))
        if not 1 <= status <= 255:
            self._display.error(f"drift_exit: exit_status is {status}; give 1 to 255.")
            status = 3
        self._display.display(f"drift: {', '.join(sorted(self._drifted))}")
        raise SystemExit(status)
