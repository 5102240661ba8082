# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import concurrent.futures
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import kernel_tier
import pytest


@pytest.fixture(scope="session")
def artifact() -> Path:
    return kernel_tier.kernel()


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernel-tier")


@pytest.fixture(scope="session")
def initramfs(artifact: Path, workplace: Path) -> Path:
    return kernel_tier.build_initramfs(artifact, workplace)


#: What the machines of this run said.
BOOTED: list[kernel_tier.Boot] = []
#: Machines wait a lot, for windows of pressure and for the kernel's limit on OOM reports.
SIDE_BY_SIDE = 2


@pytest.fixture(scope="session")
def boot(
    request: pytest.FixtureRequest, artifact: Path, initramfs: Path, workplace: Path
) -> Iterator[Callable[[str], kernel_tier.Boot]]:
    """Boots a machine by name, once; whoever asks again gets what it said. All that the run needs start at once."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    needed = [name for name in kernel_tier.BOOTS if any(call and call.params.get("name") == name for call in calls)]
    with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        booted: dict[str, concurrent.futures.Future[kernel_tier.Boot]] = {}

        def boot_once(name: str) -> kernel_tier.Boot:
            for each in [*needed, name]:
                if each not in booted:
                    booted[each] = pool.submit(kernel_tier.boot, artifact, initramfs, workplace, each)
            return booted[name].result()

        yield boot_once
        pool.shutdown(cancel_futures=True)
        BOOTED.extend(each.result() for each in booted.values() if each.done() and not each.cancelled())


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where everything passed on a stock kernel, notes which one that was, for whoever keeps the list of them."""
    path = os.environ.get("BPF_OOM_PROVEN")
    if path and exitstatus == 0 and BOOTED and kernel_tier.is_stock():
        build_ids = {booted.build_id() for booted in BOOTED}
        release = (kernel_tier.kernel() / "release").read_text().strip()
        Path(path).write_text(json.dumps({"release": release, "build_id": build_ids.pop() if len(build_ids) == 1 else ""}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What scenarios count is told whether they pass or not."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for scenario, note in report.user_properties:
                terminalreporter.write_line(f"{scenario}: {note}")
