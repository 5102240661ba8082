# SPDX-License-Identifier: GPL-3.0-or-later
"""What a boot makes of a damaged store, and what a user without rights can do: nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from testinfra.host import Host

from machine import Machine, splats

STATE = "/var/lib/linuxmm-bpf-oom"
PINS = "/sys/fs/bpf/linuxmm_bpf_oom"
LEAF, PRESSURE = "demo-largest-leaf", "demo-pressure"
UNIT = "bpf-oom.service"


def status(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.check_output("bpf-oom status --json"))
    return found


def active(host: Host) -> set[str]:
    return {name for name, policy in status(host)["policies"].items() if policy["active"]}


def test_the_plays_before_ran_to_their_end(host: Host) -> None:
    assert host.file("/root/bpf-oom-faults").content_string == "7"
    assert host.file("/root/bpf-oom-both").content_string == "both"


@pytest.fixture
def kept(host: Host) -> Iterator[None]:
    """The store as it is, and after the test again, with everything loaded."""
    host.check_output(f"cp -a {STATE} /root/kept-state")
    yield
    host.check_output(f"rm -rf {STATE} && mv /root/kept-state {STATE}")
    host.check_output(f"bpf-oom apply && systemctl restart {UNIT}")
    assert active(host) == {LEAF, PRESSURE}


def damage_manifest(host: Host) -> None:
    host.check_output(f"echo '{{' > {STATE}/current/{LEAF}.json")


def damage_object(host: Host) -> None:
    number = status(host)["policies"][LEAF]["object"]
    host.check_output(f"echo >> {STATE}/objects/{number}.o")


def swap_objects(host: Host) -> None:
    """Each is whole, and not what its name says."""
    first, second = (status(host)["policies"][name]["object"] for name in (LEAF, PRESSURE))
    host.check_output(f"cd {STATE}/objects && cp {second}.o {first}.o")


def remove_object(host: Host) -> None:
    host.check_output(f"rm {STATE}/objects/{status(host)['policies'][LEAF]['object']}.o")


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("damage", [damage_manifest, damage_object, swap_objects, remove_object])
def test_a_boot_loads_all_but_the_broken_one_and_says_why(host: Host, damage: Callable[[Host], None]) -> None:
    host.check_output("bpf-oom unload")
    damage(host)
    assert host.run(f"systemctl restart {UNIT}").rc != 0
    assert host.run(f"systemctl is-failed {UNIT}").stdout.strip() == "failed"
    assert active(host) == {PRESSURE}
    journal = host.check_output(f"journalctl --unit={UNIT} --output=cat --lines=20")
    assert f"{LEAF} was not loaded: " in journal
    assert status(host)["policies"][LEAF]["why"]


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("damage", [damage_manifest, damage_object, swap_objects, remove_object])
def test_what_is_loaded_goes_on_acting_and_the_damage_is_told(host: Host, damage: Callable[[Host], None]) -> None:
    before = status(host)["policies"][LEAF]["link_id"]
    damage(host)
    host.run(f"systemctl restart {UNIT}")
    found = status(host)["policies"][LEAF]
    assert found["loaded"] and found["link_id"] == before
    assert found["drift"]


def test_the_word_on_the_command_line_keeps_the_boot_unit_from_loading(host: Host) -> None:
    host.check_output("bpf-oom unload && sed 's/$/ linuxmm.bpf_oom=off/' /proc/cmdline > /root/cmdline")
    try:
        host.check_output("mount --bind /root/cmdline /proc/cmdline")
        host.check_output(f"systemctl restart {UNIT}")
        assert active(host) == set()
        assert [each["id"] for each in status(host)["capability"]["problems"]] == ["off"]
        assert "linuxmm.bpf_oom=off" in host.check_output(f"journalctl --no-pager --lines=20 --unit={UNIT}")
    finally:
        host.check_output("umount /proc/cmdline")
    host.check_output(f"systemctl restart {UNIT}")
    assert active(host) == {LEAF, PRESSURE}


def test_without_a_bpf_file_system_it_is_said_and_the_next_run_brings_all_back(host: Host) -> None:
    """With it go the pins, and with them the policies."""
    host.check_output("umount /sys/fs/bpf")
    try:
        assert [each["id"] for each in status(host)["capability"]["problems"]] == ["bpffs"]
        refused = host.run("bpf-oom apply")
        assert refused.rc != 0 and "BPF file system is mounted at /sys/fs/bpf" in refused.stderr
    finally:
        host.check_output("mount -t bpf -o mode=700 bpf /sys/fs/bpf")
    host.check_output(f"systemctl restart {UNIT}")
    assert active(host) == {LEAF, PRESSURE}


def test_the_off_switch_and_the_way_back(host: Host) -> None:
    host.check_output("bpf-oom unload")
    assert active(host) == set()
    assert host.run(f"ls {PINS}").rc != 0
    host.check_output("bpf-oom apply")
    assert active(host) == {LEAF, PRESSURE}


@pytest.mark.parametrize(
    "attempt",
    [
        "bpf-oom status",
        "bpf-oom decisions",
        "bpf-oom unload",
        "bpf-oom apply",
        f"rm {PINS}/{LEAF}/link",
        f"ls {PINS}",
        f"/usr/sbin/bpftool map dump pinned {PINS}/{LEAF}/decisions",
        "/usr/sbin/bpftool struct_ops list",
        f"cat {STATE}/current/{LEAF}.json",
        f"sh -c 'echo > {STATE}/current/{LEAF}.json'",
        f"mv {STATE} /tmp/mine",
        f"ln -s /tmp {STATE}/objects",
        "sh -c 'echo > /run/linuxmm-bpf-oom/lock'",
        "sh -c 'flock --nonblock /run/linuxmm-bpf-oom/lock true'",
        "sh -c 'echo >> /usr/lib/linuxmm-bpf-oom/bpf-oom.pyz'",
        f"systemctl stop {UNIT}",
        f"systemctl disable {UNIT}",
        f"systemctl mask {UNIT}",
        "mkdir /sys/fs/cgroup/bpf-oom-drill",
    ],
)
def test_an_unprivileged_user_can_neither_change_nor_stop_nor_read(host: Host, attempt: str) -> None:
    before = status(host)["policies"]
    links = {name: policy["link_id"] for name, policy in before.items()}
    # bpftool ends with 255, which Testinfra takes for an end of ssh itself.
    assert host.run(f"! setpriv --reuid=65534 --regid=65534 --clear-groups {attempt}").rc == 0
    assert {name: policy["link_id"] for name, policy in status(host)["policies"].items()} == links
    assert active(host) == {LEAF, PRESSURE}


def test_an_environment_does_not_reach_into_the_command(host: Host) -> None:
    """The command is for root, who may have come by sudo with a user's variables."""
    host.check_output("mkdir -p /tmp/evil && echo 'raise SystemExit(77)' > /tmp/evil/json.py")
    assert host.run("cd /tmp/evil && PYTHONPATH=/tmp/evil PYTHONSTARTUP=/tmp/evil/json.py bpf-oom status").rc == 0


def test_nothing_has_drifted(host: Host) -> None:
    assert host.run("bpf-oom verify").stdout == ""


def test_kernel_log_has_no_splat(host: Host) -> None:
    assert splats(host.check_output("dmesg")) == []
    assert splats(Machine(os.environ["BPF_OOM_MACHINE"]).log()) == []
