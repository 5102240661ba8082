# SPDX-License-Identifier: GPL-3.0-or-later
"""A pytest plugin: a scenario verifies more than once, and every run must be counted."""

from __future__ import annotations

import os
import pathlib

import pytest


@pytest.hookimpl(tryfirst=True)  # before pytest's own reporter reads the option
def pytest_configure(config: pytest.Config) -> None:
    config.option.xmlpath = str(pathlib.Path(os.environ["BPF_OOM_RESULTS"]) / f"molecule-{os.getpid()}.xml")
