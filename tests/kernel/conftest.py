# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import machine
import pytest

#: The boots, with their memory in MiB. A global OOM comes sooner in a small machine.
BOOTS = {"common": 512, "global": 256, "storm": 384}


@pytest.fixture(scope="session")
def artifact() -> Path:
    return machine.kernel()


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernel-tier")


@pytest.fixture(scope="session")
def initramfs(artifact: Path, workplace: Path) -> Path:
    return machine.build_initramfs(artifact, workplace)


@pytest.fixture(scope="session")
def boot(artifact: Path, initramfs: Path, workplace: Path) -> Callable[[str], machine.Boot]:
    """Boots a machine by name, once; whoever asks again gets what it said."""
    done: dict[str, machine.Boot] = {}

    def boot_once(name: str) -> machine.Boot:
        if name not in done:
            done[name] = machine.boot(artifact, initramfs, workplace, name, BOOTS[name])
        return done[name]

    return boot_once
