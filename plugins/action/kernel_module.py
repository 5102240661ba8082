# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of kernel_module: find the module for a host's kernel, or build it, and send it where it is missing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.module import Built, inspect
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.manifest import bundle_digest
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._kernel import (
    built_module,
    dkms_source,
    dkms_version,
    proven,
    sign,
    source_digest,
)
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
        if arguments.get("build_on", "controller") == "host":
            return self._built_there(arguments, task_vars, told)
        try:
            data = self._module(str(host["release"]), arguments)
            built = inspect(data)
        except BpfOomError as error:
            return self.failure(error)
        same_file = host["installed"] is not None and Built(**host["installed"]).same_as(built)
        if same_file and (not host["runs"] or host["running"] == built.build_id):
            return {**same, **told, "interface": "module"}
        arguments["_request"].update(module=asdict(built), proven=proven())
        if not self._task.check_mode and not same_file:
            arguments["_blobs"] = self._send([built.digest], {built.digest: data})
        result = dict(self._execute_module(module_name=_NAME, module_args=arguments, task_vars=task_vars))
        result["warnings"] = [*told.get("warnings", []), *result.get("warnings", [])]
        return result

    def _built_there(self, arguments: dict[str, Any], task_vars: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
        for option in ("directory", "key", "certificate"):
            if arguments.get(option):
                error = BpfOomError(f"{option} is for modules that the controller has", "leave out either it or build_on: host")
                return self.failure(error)
        files = dkms_source()
        bundle = bundle_digest(files)
        source = {"version": dkms_version(files), "source": source_digest(files), "bundle": bundle, "names": sorted(files)}
        arguments["_request"].update(dkms=source, proven=proven())
        blobs = {bundle: json.dumps(sorted(files.items())).encode()}
        result = self.execute(_NAME, arguments, blobs, task_vars)
        result["warnings"] = [*told.get("warnings", []), *result.get("warnings", [])]
        return result

    def _module(self, release: str, arguments: dict[str, Any]) -> bytes:
        """Built or found, and signed here: the host gets no key."""
        directory, key = self._path(arguments, "directory"), self._path(arguments, "key")
        certificate = self._path(arguments, "certificate")
        found = built_module(release, directory)
        if key is None:
            if certificate is not None:
                raise BpfOomError("there is a certificate and no key to sign with", "give key, too")
            return found.data
        # Vault may keep them: what it decrypts goes at once.
        plain: list[str] = []
        try:
            for path in (key, certificate or key):
                plain.append(self._loader.get_real_file(path))
            return sign(found, Path(plain[0]), Path(plain[1]))
        except AnsibleError as error:
            why = str(error).strip().splitlines()[0].rstrip(".")
            raise BpfOomError(f"the module cannot be signed: {why}", "see bpf_oom_module_key") from None
        finally:
            for path in plain:
                self._loader.cleanup_tmp_file(path)

    def _path(self, arguments: dict[str, Any], option: str) -> str | None:
        """Beside the play, as with other tasks."""
        given = arguments.get(option)
        if not given:
            return None
        if not isinstance(given, str):
            raise AnsibleActionFail(f"the option {option} must be a path")
        return str(self._loader.path_dwim(given))
