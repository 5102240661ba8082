# SPDX-License-Identifier: GPL-3.0-or-later
"""Boots Debian's files without its services: the root image of the test machines, with guest.py in the place of systemd."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "molecule" / "shared"), str(ROOT / "tests" / "kernel"), os.environ["ANSIBLE_COLLECTIONS_PATH"]]

import kernel_tier  # noqa: E402
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._policies import Resolver  # noqa: E402
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._zipapp import build  # noqa: E402

import accel  # noqa: E402
import image  # noqa: E402

#: A machine that says nothing for so long hangs.
SILENT_SECONDS = 300
#: Two sets with everything that a change can be about: one policy that stays, others that change, come, go and swap places.
SETS: dict[str, Any] = {
    "a": {
        "stays": {"policy": "by_priority", "order": 1, "params": {"mode": "observe"}},
        "leaf": {"policy": "largest_leaf", "order": 10, "params": {"min_usage": 1048576}},
        "second": {"policy": "largest_process", "order": 20},
        "pressure": {"policy": "pressure_oom", "params": {"scope": ["/demo.slice"]}},
    },
    "b": {
        "stays": {"policy": "by_priority", "order": 1, "params": {"mode": "observe"}},
        "second": {"policy": "largest_process", "order": 20},
        "leaf": {"policy": "largest_leaf", "order": 30, "params": {"min_usage": 2097152}},
        "youngest": {"policy": "youngest", "order": 40},
    },
}


def disk_with_guest(directory: Path) -> Path:
    """A disk with the program of the machine, two versions of the command, the requests for both sets, and their objects."""
    files = directory / "files"
    (files / "objects").mkdir(parents=True)
    shutil.copy2(HERE / "guest.py", files / "guest.py")
    command = build()
    (files / "new.pyz").write_bytes(command)
    # guest.py does what modules do, too, and the command has not all that they have.
    host_side = ROOT / "plugins/module_utils"
    rooms = sorted(path.parent for path in host_side.glob("_*/__init__.py"))
    everything = {room.name: sorted(path.stem for path in room.glob("[a-z]*.py")) for room in rooms}
    (files / "modules.zip").write_bytes(build(everything))
    # As another version would be: other bytes, and it runs.
    (files / "old.pyz").write_bytes(command.replace(b"/python3 -I\n", b"/python3 -IB\n", 1))
    shutil.copyfile(ROOT / "roles/policies/templates/bpf-oom.service.j2", files / "bpf-oom.service")
    resolver = Resolver("controller", str)
    common = {"state": "present", "exclusive": True, "on_incapable": "fail"}
    requests = {name: {**resolver.request(policies), **common} for name, policies in SETS.items()}
    (files / "requests.json").write_text(json.dumps(requests), encoding="utf-8")
    for inputs, path in resolver.blobs.items():
        assert isinstance(path, Path)
        shutil.copyfile(path, files / "objects" / f"{inputs}.o")
    disk = directory / "guest.disk"
    kernel_tier.run("/sbin/mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", files, disk, "16M")
    return disk


class Machine:
    """One disk, booted as often as one likes."""

    def __init__(self, directory: Path, name: str, guest: Path, artifact: Path) -> None:
        self.directory, self.name, self.guest, self.artifact = directory, name, guest, artifact
        self.disk = directory / f"{name}.qcow2"
        self.console = directory / f"{name}.console"
        kernel_tier.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image.image() / "root.ext4", "-F", "raw", self.disk)

    def log(self) -> str:
        return self.console.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")

    @contextlib.contextmanager
    def boot(self, *words: str) -> Iterator[Iterator[dict[str, Any]]]:
        """What the machine says, line by line, until it ends; its power is cut when nobody listens any more."""
        results = self.directory / f"{self.name}.results"
        results.write_bytes(b"")
        bzimage = self.artifact / "bzImage"
        command = ["qemu-system-x86_64", "-machine", "q35", *accel.accel_arguments(bzimage), "-smp", "1", "-m", "512"]
        command += ["-nodefaults", "-display", "none", "-no-reboot", "-no-user-config"]
        command += ["-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console"]
        command += ["-serial", f"file:{results}", "-kernel", str(bzimage)]
        # What the machine flushes is kept; what it has not even written is lost with it.
        command += ["-drive", f"file={self.disk},if=virtio,format=qcow2,cache=writeback"]
        command += ["-drive", f"file={self.guest},if=virtio,format=raw,readonly=on"]
        # A journal that is not committed by the clock either.
        arguments = ["console=ttyS0", "loglevel=5", "panic=-1", "root=/dev/vda", "rw", "rootflags=commit=3600", "init=/bin/sh"]
        start = f"mount -t devtmpfs dev /dev; mount -o ro /dev/vdb /mnt && exec python3 -I /mnt/guest.py {' '.join(words)}"
        command += ["-append", " ".join([*arguments, "--", "-c", f'"{start}"'])]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            yield self._listen(process, results)
        finally:
            process.kill()
            process.communicate()

    def _listen(self, process: subprocess.Popen[str], results: Path) -> Iterator[dict[str, Any]]:
        since = time.monotonic()
        with results.open(encoding="utf-8") as file:
            begun = ""
            while True:
                ended = process.poll() is not None
                if line := file.readline():
                    begun, since = begun + line, time.monotonic()
                    if begun.endswith("\n"):
                        yield json.loads(begun)
                        begun = ""
                elif ended:
                    return
                elif time.monotonic() > since + SILENT_SECONDS:
                    raise RuntimeError(f"the machine said nothing for {SILENT_SECONDS} s:\n{self.log()[-3000:]}")
                else:
                    time.sleep(0.02)  # between two looks at a file
