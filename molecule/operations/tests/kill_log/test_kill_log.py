# SPDX-License-Identifier: GPL-3.0-or-later
"""The kill log has seen every kill, knows who chose the victim, and costs little."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

TEXTFILE = "/var/lib/prometheus/node-exporter/bpf_oom.prom"
UNIT = "bpf-oom-kill-log.service"
LIMIT = 180.0
# KiB; what the issue of the kill log allows.
RESIDENT_MAX = 30 * 1024


def metrics(host: Host) -> dict[str, float]:
    text = host.file(TEXTFILE).content_string
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if not line.startswith("#")}


def total(host: Host, pattern: str) -> float:
    return sum(value for name, value in metrics(host).items() if re.match(pattern, name))


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT:g} s in vain: {what}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def burst(host: Host) -> int:
    """How many the kernel killed in the bursts."""
    numbers = host.file("/var/lib/bpf-oom-burst").content_string.split()
    assert len(numbers) == 2 and int(numbers[0]) >= 1000 and int(numbers[1]) == 10
    return sum(map(int, numbers))


def test_the_drills_ran_to_the_end(host: Host) -> None:
    assert host.file("/var/lib/bpf-oom-drilled").content_string == "drilled"


def test_of_a_thousand_kills_none_is_lost_or_the_loss_is_counted(host: Host, burst: int) -> None:
    in_burst = r'bpf_oom_kills_total\{.*cgroup="(/bpf-oom-burst/.*|\(unknown\)|)"\}'

    def complete() -> bool:
        return total(host, in_burst) + total(host, "bpf_oom_kill_log_lost_total") >= burst

    wait_for(complete, "every kill to be counted")
    counted, lost = total(host, in_burst), total(host, "bpf_oom_kill_log_lost_total")
    assert counted + lost == burst
    # Only the SIGKILL of the service can lose some, those that it had just read.
    assert lost <= 200


def test_each_kill_is_said_to_be_the_policys(host: Host, burst: int) -> None:
    by_policy = total(host, r'bpf_oom_kills_total\{policy="demo-largest-leaf",cgroup="/bpf-oom-burst/group')
    nobodys = total(host, r'bpf_oom_kills_total\{policy="\((none|unknown)\)",cgroup="/bpf-oom-burst/group')
    assert nobodys == 0
    assert by_policy + total(host, "bpf_oom_kill_log_lost_total") == burst


def entries(host: Host, *matches: str) -> list[dict[str, Any]]:
    command = "journalctl --no-pager --output=json --unit=bpf-oom-kill-log.service " + " ".join(["%s"] * len(matches))
    return [json.loads(line) for line in host.check_output(command, *matches).splitlines()]


def test_the_journal_has_an_entry_for_each(host: Host, burst: int) -> None:
    found = [each for each in entries(host, "BPF_OOM_POLICY=demo-largest-leaf") if "burst" in each["BPF_OOM_CGROUP"]]
    assert total(host, "bpf_oom_kill_log_unsent_total") == 0
    # A service that is killed after it has sent and before it has written down sends and counts nothing twice.
    assert burst - total(host, "bpf_oom_kill_log_lost_total") <= len(found) <= burst
    pids = [each["BPF_OOM_PID"] for each in found]
    assert len(set(pids)) == len(pids)
    one = found[-1]
    assert one["BPF_OOM_TRIGGER"] == "memcg" and one["BPF_OOM_SCOPE"] == "/bpf-oom-burst"
    assert "policy demo-largest-leaf chose it" in one["MESSAGE"]


def test_the_journal_tells_who_declared_an_oom_of_pressure(host: Host) -> None:
    """The drill of pressure before."""
    (entry,) = entries(host, "BPF_OOM_DECLARED_BY=drill-pressure")
    assert entry["BPF_OOM_COMM"] == "hog" and "pressure policy drill-pressure declared the OOM" in entry["MESSAGE"]


def test_counters_of_the_policies_are_there(host: Host) -> None:
    found = metrics(host)
    for name in ("calls", "passes", "errors", "decisions"):
        assert f'bpf_oom_policy_{name}_total{{policy="demo-largest-leaf"}}' in found
    assert found['bpf_oom_last_kill_timestamp_seconds{policy="demo-largest-leaf"}'] > 1.7e9


def property_of(host: Host, name: str) -> str:
    return host.check_output("systemctl show --property=%s --value %s", name, UNIT)


def test_it_takes_little_memory_and_is_never_a_candidate(host: Host) -> None:
    pid = property_of(host, "MainPID")
    resident = int(re.search(r"^VmHWM:\s+(\d+) kB$", host.file(f"/proc/{pid}/status").content_string, re.MULTILINE)[1])  # type: ignore[index]
    assert resident < RESIDENT_MAX
    assert host.file(f"/proc/{pid}/oom_score_adj").content_string.strip() == "-1000"


def test_a_kill_by_the_kernel_is_nobodys(host: Host) -> None:
    host.check_output("bpf-oom unload")
    try:
        before = total(host, r'bpf_oom_kills_total\{policy="\(none\)"')
        killed = int(host.check_output("python3 /usr/local/lib/bpf-oom-scenarios/burst.py 1 2"))
        assert killed >= 1
        wait_for(lambda: total(host, r'bpf_oom_kills_total\{policy="\(none\)"') == before + killed, "the kill to be counted")
    finally:
        host.check_output("bpf-oom apply")


def test_it_runs_and_will_after_a_reboot(host: Host) -> None:
    assert host.service(UNIT).is_running and host.service(UNIT).is_enabled


def test_unprivileged_users_read_neither_state_nor_buffer(host: Host) -> None:
    for path in ("/var/lib/linuxmm-bpf-oom-kill-log/state.json", "/sys/kernel/tracing/instances/linuxmm_bpf_oom/trace"):
        assert host.run("setpriv --reuid=65534 --regid=65534 --clear-groups cat %s", path).rc != 0
    assert host.run("setpriv --reuid=65534 --regid=65534 --clear-groups cat %s", TEXTFILE).rc == 0
