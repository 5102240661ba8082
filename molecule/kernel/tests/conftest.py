# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the tests of the machine find what they share."""

from __future__ import annotations

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "shared"))
