# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Callable
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


@pytest.fixture(scope="session")
def boot(artifact: Path, initramfs: Path, workplace: Path) -> Callable[[str], kernel_tier.Boot]:
    """Boots a machine by name, once; whoever asks again gets what it said."""
    done: dict[str, kernel_tier.Boot] = {}

    def boot_once(name: str) -> kernel_tier.Boot:
        if name not in done:
            done[name] = kernel_tier.boot(artifact, initramfs, workplace, name)
        return done[name]

    return boot_once


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What scenarios count is told whether they pass or not."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for scenario, note in report.user_properties:
                terminalreporter.write_line(f"{scenario}: {note}")
