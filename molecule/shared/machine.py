#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disposable Debian 13 machines on QEMU with the kernel of this tree, or with Debian's.

    machine.py image                      build the root image (cached)
    machine.py create NAME [--json]       start a machine and wait until it answers
    machine.py ssh NAME [COMMAND...]      run a command in it, or log in
    machine.py inventory NAME             an inventory of it, for ansible-playbook --inventory
    machine.py list | log NAME | scan NAME | reboot NAME | destroy NAME
    machine.py unplug NAME | plug NAME    a power cut, and the boot after it

A machine is a directory under the cache: a disk overlay, the serial log, a QMP socket. The first machine of a kind boots; its
state is saved, and every later one starts from there in seconds. Such machines share what the saved one knew: its random
pool, its boot id, its machine id. They are for tests on the loopback interface and for nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import accel
import image

COMMAND_LINE = "console=ttyS0 root=/dev/vda rw net.ifnames=0 loglevel=5 systemd.show_status=0"
BOOT_LIMIT = 900  # seconds: an emulated boot takes half a minute on two idle cores
RESUME_LIMIT = 120
BOOT_ID = "/proc/sys/kernel/random/boot_id"
# What a healthy kernel never writes. "Call Trace" is not among them: every OOM report has one.
SPLATS = re.compile(
    r"\bWARNING: |\bBUG: |kernel BUG at|\bOops\b|general protection fault|Kernel panic|refcount_t: |UBSAN: "
    r"|INFO: task .* blocked for more than|rcu: INFO: |self-detected stall|suspicious RCU usage|soft lockup"
    r"|possible (circular|recursive) locking|inconsistent lock state|bad unlock balance|Unable to handle kernel"
)


class MachineError(Exception):
    """Something about a machine that its user must know."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def fail(text: str) -> NoReturn:
    raise MachineError(text)


def splats(log: str) -> list[str]:
    """The lines of a kernel log that no test may pass over."""
    return [line for line in log.splitlines() if SPLATS.search(line)]


def kernel() -> pathlib.Path:
    """The kernel to boot: BPF_OOM_KERNEL names an artifact directory, else the one that kernel/build makes or has."""
    chosen = os.environ.get("BPF_OOM_KERNEL")
    if chosen is None:
        run = subprocess.run([str(image.repository() / "kernel/build")], stdout=subprocess.PIPE, text=True, check=False)
        if run.returncode:
            fail("kernel/build failed, see above")
        chosen = run.stdout.strip()
    path = pathlib.Path(chosen) / "bzImage"
    return path if path.exists() else fail(f"{path} does not exist")


class Qmp:
    """QEMU's control socket."""

    def __init__(self, directory: pathlib.Path) -> None:
        # A path of a socket must not be longer than 107 bytes, a cache directory may be.
        handle = os.open(directory, os.O_PATH)
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(60)
            self._socket.connect(f"/proc/self/fd/{handle}/qmp")
        finally:
            os.close(handle)
        self._lines = self._socket.makefile("rw")
        self._lines.readline()
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: Any) -> Any:
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._lines.flush()
        while True:
            line = self._lines.readline()
            if not line:
                fail(f"QEMU closed its control socket during {command}")
            answer = json.loads(line)
            if "error" in answer:
                fail(f"QEMU refused {command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class Machine:
    """One machine: its directory and what is running in it."""

    def __init__(self, name: str, directory: pathlib.Path | None = None) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name):
            fail(f"a machine cannot be called {name!r}: small letters, digits and hyphens, at most 31")
        self.name = name
        self.directory = directory or image.cache_root() / "machines" / name
        self.serial = self.directory / "serial.log"

    @property
    def facts(self) -> dict[str, Any]:
        try:
            facts: dict[str, Any] = json.loads((self.directory / "machine.json").read_text())
        except FileNotFoundError:
            fail(f"there is no machine called {self.name}")
        return facts

    def pid(self) -> int | None:
        """The process id of its QEMU, if that is running; a recycled number does not count."""
        try:
            pid = int((self.directory / "pid").read_text())
            arguments = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if str(self.directory / "disk.qcow2") in _drive_files(arguments) else None

    def log(self) -> str:
        return self.serial.read_text(errors="replace") if self.serial.exists() else ""

    def ssh_options(self) -> list[str]:
        facts = self.facts
        options = {
            "Port": facts["port"],
            "User": "root",
            "IdentityFile": facts["key"],
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": facts["known_hosts"],
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": image.HOST_NAME,
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": 60,
            "ServerAliveInterval": 30,
            "ServerAliveCountMax": 10,
            "LogLevel": "ERROR",
        }
        return ["-F", "none", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]

    def ssh_command(self, command: list[str]) -> list[str]:
        return ["ssh", *self.ssh_options(), "127.0.0.1", *([shlex.join(command)] if command else [])]

    def run(self, command: list[str], limit: float = 300, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine, with the words it is given and no shell to split them."""
        run = subprocess.run(
            self.ssh_command(command), capture_output=True, text=True, timeout=limit, check=False, stdin=subprocess.DEVNULL
        )
        if check and run.returncode:
            fail(f"in {self.name}: {shlex.join(command)}: exit {run.returncode}: {run.stderr.strip() or run.stdout.strip()}")
        return run

    def inventory(self) -> dict[str, Any]:
        facts = self.facts
        return {
            "ansible_host": "127.0.0.1",
            "ansible_port": facts["port"],
            "ansible_user": "root",
            "ansible_ssh_private_key_file": facts["key"],
            "ansible_ssh_common_args": shlex.join(self.ssh_options()),
            "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=120s",
            "ansible_pipelining": True,
            "ansible_python_interpreter": "/usr/bin/python3",
            # Known here; else the package action gathers facts to find out.
            "ansible_package_use": "ansible.builtin.apt",
        }

    def qmp(self) -> Qmp:
        return Qmp(self.directory)

    def start(
        self,
        qemu: list[str],
        backing: pathlib.Path,
        backing_format: str,
        incoming: pathlib.Path | None = None,
        durable: bool = False,
    ) -> None:
        """Start QEMU on a new overlay of the disk. What a machine has flushed survives a power cut only if it is DURABLE."""
        disk = self.directory / "disk.qcow2"
        overlay = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(backing), "-F", backing_format, str(disk)]
        subprocess.run(overlay, check=True)
        cache = "writeback" if durable else "unsafe"
        arguments = [
            *qemu,
            *("-drive", f"file={_comma(disk)},if=virtio,format=qcow2,cache={cache}"),
            *("-chardev", f"file,id=serial,path={_comma(self.serial)},append=on", "-serial", "chardev:serial"),
            *("-qmp", "unix:qmp,server=on,wait=off"),
        ]
        self._launch(arguments, ["-incoming", f"exec:cat {shlex.quote(str(incoming))}"] if incoming else [])

    def _launch(self, arguments: list[str], incoming: list[str], once: str = "") -> None:
        """Start its QEMU and note how; `once` are words for the kernel command line that are not noted."""
        line = arguments.index("-append") + 1
        now = [*arguments[:line], f"{arguments[line]} {once}".strip(), *arguments[line + 1 :]]
        with open(self.directory / "qemu.log", "w") as output:
            process = subprocess.Popen(
                [*now, *incoming],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        (self.directory / "pid").write_text(str(process.pid))
        deadline = time.monotonic() + 60
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                fail(f"QEMU did not start: {(self.directory / 'qemu.log').read_text().strip()}")
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError), contextlib.closing(self.qmp()) as qmp:
                forwards = qmp("human-monitor-command", **{"command-line": "info usernet"})
                port = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", forwards)
                break
            time.sleep(0.05)
        root = image.image()
        facts = {"name": self.name, "port": int(port[1]) if port else fail("QEMU forwards no port")}
        facts |= {"key": str(root / "id_ed25519"), "known_hosts": str(root / "known_hosts"), "qemu": arguments}
        (self.directory / "machine.json").write_text(json.dumps(facts))
        (self.directory / "inventory.json").write_text(json.dumps({"fleet": {"hosts": {self.name: self.inventory()}}}, indent=2))

    def resume(self) -> None:
        """Let a machine run that was saved while it stood still, once its state is read."""
        deadline = time.monotonic() + RESUME_LIMIT
        with contextlib.closing(self.qmp()) as qmp:
            while (status := qmp("query-status")["status"]) == "inmigrate":
                if time.monotonic() > deadline:
                    fail(f"QEMU did not read the saved state within {RESUME_LIMIT} s")
                time.sleep(0.05)
            if status != "paused":
                fail(f"QEMU could not read the saved state: {status}")
            qmp("cont")

    def wait(self, limit: float = BOOT_LIMIT) -> None:
        """Wait until the machine has booted and lets us in."""
        began = time.monotonic()
        told = 0
        while not self._answers():
            elapsed = time.monotonic() - began
            if self.pid() is None:
                fail(f"QEMU ended while {self.name} booted: {(self.directory / 'qemu.log').read_text().strip()}")
            if "Kernel panic" in self.log():
                fail(f"the kernel of {self.name} panicked:\n" + "\n".join(self.log().splitlines()[-30:]))
            if elapsed > limit:
                fail(f"{self.name} did not answer within {limit} s:\n" + "\n".join(self.log().splitlines()[-30:]))
            if elapsed >= told + 15:
                told = int(elapsed)
                say(f"  {self.name} is booting, {told} s")
            time.sleep(0.2)
        state = self.run(["systemctl", "is-system-running", "--wait"], limit=limit, check=False).stdout.strip()
        if state != "running":
            failed = self.run(["systemctl", "--failed", "--plain", "--no-legend"], check=False).stdout
            fail(f"{self.name} booted, but systemd says {state!r}: {failed.strip()}")

    def _answers(self) -> bool:
        """Whether sshd sends its banner: QEMU itself accepts the connection, so that alone says nothing."""
        try:
            with socket.create_connection(("127.0.0.1", self.facts["port"]), timeout=2) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def reboot(self) -> None:
        """Restart it, and wait until it has booted anew."""
        boot = self.run(["cat", BOOT_ID]).stdout
        # The connection may break before the command has told its end.
        self.run(["systemctl", "reboot"], check=False)
        deadline = time.monotonic() + BOOT_LIMIT
        while time.monotonic() < deadline:
            if self._answers():
                now = self.run(["cat", BOOT_ID], check=False)
                if now.returncode == 0 and now.stdout != boot:
                    return self.wait()
            time.sleep(0.2)
        fail(f"{self.name} did not come back from the reboot within {BOOT_LIMIT} s")

    def unplug(self) -> None:
        """Cut its power: what it has not flushed is lost."""
        pid = self.pid()
        if pid is None:
            fail(f"{self.name} does not run")
        self._end(pid, ((signal.SIGKILL, 30),))

    def plug(self, boot: list[str] | None = None, append: str = "") -> None:
        """Boot it after a power cut, from the disk as it is, and wait until it answers.

        With another kernel if one is given, and this once with more words on its command line.
        """
        if self.pid() is not None:
            fail(f"{self.name} is running already")
        (self.directory / "qmp").unlink(missing_ok=True)
        arguments = list(self.facts["qemu"])
        if boot is not None:
            for option in ("-kernel", "-initrd"):
                if option in arguments:
                    place = arguments.index(option)
                    del arguments[place : place + 2]
            arguments += boot
        self._launch(arguments, [], once=append)
        self.wait()

    def stop(self) -> None:
        pid = self.pid()
        if pid is None:
            return
        with contextlib.suppress(OSError, MachineError), contextlib.closing(self.qmp()) as qmp:
            qmp("quit")
        self._end(pid, ((None, 10), (signal.SIGTERM, 10), (signal.SIGKILL, 30)))

    def _end(self, pid: int, steps: tuple[tuple[signal.Signals | None, float], ...]) -> None:
        """Wait for the end of its QEMU, after each signal for so many seconds.

        The end is that of its files, too: a process that ends loses its command line first, and its lock on the disk later.
        """
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            for number, patience in steps:
                if number is not None:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(process, number)
                if select.select([process], [], [], patience)[0]:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
                    return
        finally:
            os.close(process)
        fail(f"QEMU {pid} of {self.name} does not end")

    def destroy(self) -> None:
        """End the machine and remove all of it but its last serial log."""
        self.stop()
        if self.serial.exists():
            logs = image.cache_root() / "logs"
            logs.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.serial, logs / f"{self.name}.serial.log")
        if self.directory.exists():
            shutil.rmtree(self.directory)

    def copy(self, files: list[pathlib.Path], target: str) -> None:
        """Put files into a directory of the machine."""
        self.run(["mkdir", "--parents", target])
        subprocess.run(["scp", "-q", *self.ssh_options(), *map(str, files), f"127.0.0.1:{target}/"], check=True)


def _comma(path: pathlib.Path) -> str:
    return str(path).replace(",", ",,")


def _drive_files(arguments: list[bytes]) -> list[str]:
    drives = (word.decode(errors="replace") for word in arguments if word.startswith(b"file="))
    return [drive[len("file=") :].split(",if=virtio")[0].replace(",,", ",") for drive in drives]


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """One process at a time builds a cached thing; the others find it done."""
    path = image.cache_root() / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def boot_arguments(which: str) -> list[str]:
    """Which kernel to boot, `ours` or `debian`, as QEMU wants to be told."""
    if which == "ours":
        return ["-kernel", str(kernel())]
    with lock("image"):
        root = image.image()
    return ["-kernel", str(root / "vmlinuz"), "-initrd", str(root / "initrd.img")]


def qemu_arguments(boot: list[str], memory: int, cpus: int, append: str) -> list[str]:
    return [
        *("qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none", "-machine", "q35"),
        *accel.accel_arguments(pathlib.Path(boot[1])),
        *("-smp", str(cpus), "-m", str(memory), *boot, "-append", f"{COMMAND_LINE} {append}".strip()),
        # Port 0: QEMU takes a free one and tells which, so two machines that start at once cannot want the same.
        *("-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:22", "-device", "virtio-net-pci,netdev=net,romfile="),
        *("-device", "virtio-rng-pci"),
    ]


def snapshot(qemu: list[str], root: pathlib.Path, boot: pathlib.Path) -> pathlib.Path:
    """The saved state of a machine of this kind that has just booted; made when there is none."""
    version = subprocess.run([qemu[0], "--version"], check=True, capture_output=True, text=True).stdout
    inputs = [version, root.name, hashlib.sha256(boot.read_bytes()).hexdigest(), *qemu]
    target = image.cache_root() / "snapshots" / hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]
    if target.exists():
        return target
    work = target.with_name(f"{target.name}.new")
    machine = Machine("snapshot", work)
    machine.destroy()
    work.mkdir(parents=True)
    say("booting a new kind of machine, once")
    try:
        machine.start(qemu, root / "root.ext4", "raw")
        machine.wait()
        machine.run(["sync"])
        with contextlib.closing(machine.qmp()) as qmp:
            qmp("stop")
            qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            qmp("migrate", uri="exec:cat > state")
            while (status := qmp("query-migrate")["status"]) not in ("completed", "failed"):
                time.sleep(0.05)
        if status == "failed":
            fail("QEMU could not save the state of the machine")
        machine.stop()
    except BaseException:
        machine.destroy()
        raise
    work.rename(target)
    return target


def create(
    name: str,
    memory: int = 1024,
    cpus: int = 2,
    append: str = "",
    cold: bool = False,
    durable: bool = False,
    which: str = "ours",
) -> Machine:
    """Start a machine and wait until it answers. COLD boots it, without and around the saved state."""
    machine = Machine(name)
    if machine.pid() is not None:
        fail(f"{name} is running already; destroy it first")
    machine.destroy()
    boot = boot_arguments(which)
    with lock("image"):
        root = image.image()
    qemu = qemu_arguments(boot, memory, cpus, append)
    saved = None
    if not cold:
        with lock("snapshots"):
            saved = snapshot(qemu, root, pathlib.Path(boot[1]))
    machine.directory.mkdir(parents=True)
    try:
        if saved is None:
            machine.start(qemu, root / "root.ext4", "raw", durable=durable)
            machine.wait()
        else:
            shutil.copyfile(saved / "serial.log", machine.serial)
            machine.start(qemu, saved / "disk.qcow2", "qcow2", incoming=saved / "state", durable=durable)
            machine.resume()
            machine.wait(RESUME_LIMIT)
            # Its clock still shows when it was saved.
            machine.run(["date", "--utc", "--set", f"@{time.time():.3f}"])
    except BaseException:
        machine.destroy()
        raise
    return machine


def machines() -> list[Machine]:
    directory = image.cache_root() / "machines"
    return [Machine(entry.name) for entry in sorted(directory.iterdir())] if directory.exists() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("image")
    verbs.add_parser("list")
    for verb in ("create", "destroy", "reboot", "unplug", "plug", "log", "scan", "inventory", "ssh"):
        verbs.add_parser(verb).add_argument("name")
    creating = verbs.choices["create"]
    creating.add_argument("--memory", type=int, default=1024, help="MiB")
    creating.add_argument("--cpus", type=int, default=2)
    creating.add_argument("--cold", action="store_true", help="boot it, do not start from a saved state")
    creating.add_argument("--durable", action="store_true", help="what it flushes to its disk survives a power cut")
    for verb in ("create", "plug"):
        verbs.choices[verb].add_argument("--kernel", choices=["ours", "debian"], help="ours, unless said otherwise before")
        verbs.choices[verb].add_argument("--append", default="", help="more words for the kernel command line")
    creating.add_argument("--json", action="store_true", help="print the inventory variables")
    verbs.choices["ssh"].add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    # Ctrl-C and a polite kill alike leave no half-started machine behind.
    signal.signal(signal.SIGTERM, lambda *_unused: sys.exit(143))
    try:
        return act(options)
    except MachineError as error:
        say(f"machine: {error}")
    except subprocess.CalledProcessError as error:
        say(f"machine: {shlex.join(map(str, error.cmd))} ended with {error.returncode}")
    except KeyboardInterrupt:
        say("machine: interrupted")
    return 1


def act(options: argparse.Namespace) -> int:
    if options.verb == "image":
        with lock("image"):
            print(image.image())
        return 0
    if options.verb == "list":
        for machine in machines():
            pid = machine.pid()
            print(f"{machine.name}\t{f'pid {pid}, ssh port ' + str(machine.facts['port']) if pid else 'not running'}")
        return 0
    if options.verb == "create":
        began = time.monotonic()
        made = create(
            options.name, options.memory, options.cpus, options.append, options.cold, options.durable, options.kernel or "ours"
        )
        say(f"{made.name} is up after {time.monotonic() - began:.0f} s")
        if options.json:
            print(json.dumps(made.inventory()))
        return 0
    machine = Machine(options.name)
    if options.verb == "destroy":
        machine.destroy()
    elif options.verb == "reboot":
        machine.reboot()
    elif options.verb == "unplug":
        machine.unplug()
    elif options.verb == "plug":
        machine.plug(boot_arguments(options.kernel) if options.kernel else None, options.append)
    elif options.verb == "log":
        print(machine.log(), end="")
    elif options.verb == "inventory":
        print(machine.directory / "inventory.json")
    elif options.verb == "scan":
        found = splats(machine.log())
        print("\n".join(found) or f"no splat in the kernel log of {machine.name}")
        return 1 if found else 0
    else:
        command = options.command[1:] if options.command[:1] == ["--"] else options.command
        # As with ssh itself, the shell over there reads the words.
        return subprocess.run([*machine.ssh_command([]), *command], check=False).returncode
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
