# SPDX-License-Identifier: GPL-3.0-or-later
"""The Debian 13 root image that every test machine boots from.

The digest of this file and of the APT settings names the image: change the recipe and the next run builds a new one.
Machines are started with our kernel, or with the one that Debian installs in it. libbpf1 is in it: bpftool and bcc depend on
it, so even a machine without a route to a mirror has what the role asks for.
"""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

SUITE = "trixie"
HOST_NAME = "bpf-oom-machine"
SIZE = "4G"
# python3-bpfcc compiles the witness of kills in the guest, from the kernel's own headers archive: tar and xz.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "libpam-systemd",
    "udev",
    "dbus",
    "openssh-server",
    "python3",
    "python3-apt",
    "libbpf1",
    "bpftool",
    "python3-bpfcc",
    "procps",
    "iproute2",
    "kmod",
    "linux-image-cloud-amd64",
    "apparmor",
    "secilc",
    "strace",
    "xz-utils",
)
# What no test looks at, and what costs seconds of an emulated boot.
MASKED = (
    "apparmor.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "ldconfig.service",
    "modprobe@.service",
    "serial-getty@ttyS0.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-networkd.service",
    "systemd-pcrlock-make-policy.service",
    "systemd-update-done.service",
    "systemd-udev-settle.service",
    "systemd-modules-load.service",
    "systemd-sysusers.service",
    "user@.service",
)
# QEMU's user network always has this shape, and the one card is there before init runs: no daemon needed.
NETWORK_UNIT = """\
[Unit]
Description=Address of the one network card
DefaultDependencies=no
Before=network.target
Wants=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/sbin/ip link set lo up
ExecStart=/sbin/ip link set eth0 up
ExecStart=/sbin/ip addr replace 10.0.2.15/24 dev eth0
ExecStart=/sbin/ip route replace default via 10.0.2.2

[Install]
WantedBy=sysinit.target
"""
# The slice that the pressure policy watches: wanted by slices.target, so that it is there before policies are loaded at boot.
DEMO_SLICE = """\
[Unit]
Description=What the pressure policy watches

[Install]
WantedBy=slices.target
"""
# A place in that slice. It is delegated, so scratch cgroups in it do not quarrel with
# systemd, and it is there from boot on.
DEMO_UNIT = """\
[Unit]
Description=Workloads of the pressure scenario

[Service]
Slice=demo.slice
ExecStart=/usr/bin/sleep infinity
Delegate=yes
DelegateSubgroup=main

[Install]
WantedBy=multi-user.target
"""
EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


def cache_root() -> pathlib.Path:
    """The directory that holds everything that can be built again."""
    base = os.environ.get("XDG_CACHE_HOME") or str(pathlib.Path.home() / ".cache")
    return pathlib.Path(os.environ.get("BPF_OOM_CACHE") or f"{base}/linuxmm-bpf-oom")


def repository() -> pathlib.Path:
    return pathlib.Path(__file__).resolve().parents[2]


def as_root(arguments: list[str]) -> list[str]:
    if os.geteuid() == 0:
        return arguments
    # Without a terminal of its own sudo must not wait for a password that nobody can type.
    return ["sudo", *([] if sys.stdin.isatty() else ["--non-interactive"]), "--", *arguments]


def apt_settings() -> list[str]:
    """How this machine reaches its mirror, for the few settings that decide whether it does."""
    dump = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
    wanted = ("Acquire::http::Proxy", "Acquire::https::", "Acquire::Check-")
    return [line for line in dump.splitlines() if line.startswith(wanted) and not line.endswith(' "";')]


def mirror() -> str:
    script = 'source "$1" && debian_mirror'
    archive = str(repository() / "kernel/archive.sh")
    run = subprocess.run(["bash", "-c", script, "bash", archive], check=True, stdout=subprocess.PIPE, text=True)
    return run.stdout.strip()


def digest() -> str:
    recipe = pathlib.Path(__file__).read_bytes() + "\n".join(apt_settings()).encode()
    return hashlib.sha256(recipe).hexdigest()[:16]


def overlay(public_key: str) -> bytes:
    """What we add to Debian, as a tar archive: its owner is root whoever builds it."""
    files = {
        "etc/fstab": "",
        "etc/hostname": HOST_NAME + "\n",
        "etc/hosts": f"127.0.0.1 localhost {HOST_NAME}\n",
        "etc/machine-id": "",
        "etc/resolv.conf": "nameserver 10.0.2.3\n",
        "etc/ssh/sshd_config.d/machine.conf": "PermitRootLogin prohibit-password\nUseDNS no\n",
        "etc/systemd/system/demo.slice": DEMO_SLICE,
        "etc/systemd/system/demo.service": DEMO_UNIT,
        "etc/systemd/system/machine-network.service": NETWORK_UNIT,
        "root/.ssh/authorized_keys": public_key,
    }
    links = {f"etc/systemd/system/{unit}": "/dev/null" for unit in MASKED}
    # A persistent journal: after a reboot it is the witness of what happened when.
    directories = {"root/.ssh": 0o700, "var/log/journal": 0o2755}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, mode in directories.items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(text.encode()), 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
        for path, target in links.items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return stream.getvalue()


def build(target: pathlib.Path) -> None:
    """Make the image in TARGET: root.ext4, Debian's kernel and initrd, the key that opens it, and its host key."""
    work = target.with_name(f"{target.name}.new")
    if work.exists():
        subprocess.run(as_root(["rm", "-rf", str(work)]), check=True)
    work.mkdir(parents=True)
    key = work / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", HOST_NAME, "-f", str(key)], check=True)
    tree = work / "tree"
    extra = work / "overlay.tar"
    extra.write_bytes(overlay(key.with_suffix(".pub").read_text()))
    bootstrap = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--quiet"]
    bootstrap += ["--include=" + ",".join(PACKAGES), "--keyring=/usr/share/keyrings/debian-archive-keyring.gpg"]
    bootstrap += [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED]
    bootstrap += [f"--aptopt={line}" for line in ['APT::Install-Recommends "false";', *apt_settings()]]
    bootstrap += [
        f"--customize-hook=tar-in {extra} /",
        '--customize-hook=chroot "$1" systemctl --quiet enable machine-network.service demo.slice demo.service ssh.service',
        f"--customize-hook=download /etc/ssh/ssh_host_ed25519_key.pub {work / 'host.pub'}",
    ]
    subprocess.run(as_root([*bootstrap, SUITE, str(tree), f"deb {mirror()} {SUITE} main"]), check=True, stdout=sys.stderr)
    for link in ("vmlinuz", "initrd.img"):
        # Debian's own names for the newest kernel; only root may read what is behind them.
        newest = f"{tree}{os.sep}{os.readlink(tree / link)}"
        subprocess.run(as_root(["cp", newest, str(work / link)]), check=True)
    disk = work / "root.ext4"
    make = ["mke2fs", "-q", "-t", "ext4", "-J", "size=16", "-m", "0", "-L", "root", "-d", str(tree), str(disk), SIZE]
    subprocess.run(as_root(make), check=True)
    subprocess.run(as_root(["rm", "-rf", str(tree)]), check=True)
    subprocess.run(as_root(["chown", "--recursive", f"{os.getuid()}:{os.getgid()}", str(work)]), check=True)
    host_key = " ".join((work / "host.pub").read_text().split()[:2])
    (work / "known_hosts").write_text(f"{HOST_NAME} {host_key}\n")
    extra.unlink()
    work.rename(target)


def image() -> pathlib.Path:
    """The directory of the image of this recipe, built when it is not there yet."""
    target = cache_root() / "image" / digest()
    if not target.exists():
        missing = [tool for tool in ("mmdebstrap", "mke2fs", "ssh-keygen") if not shutil.which(tool, path=_path())]
        if missing:
            raise SystemExit(f"cannot build the machine image, missing: {', '.join(missing)}; run tests/tools/setup")
        if subprocess.run(as_root(["true"]), check=False).returncode:
            raise SystemExit("building the machine image needs root: run 'make image' in a terminal, it asks for the password")
        print("building the Debian 13 image (about a minute)", file=sys.stderr, flush=True)
        build(target)
    return target


def _path() -> str:
    """PATH with the sbin directories, which users who are not root often lack."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
