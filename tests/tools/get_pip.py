# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for the get-pip.py that ansible-test wants to download for its virtual environments.

Python brings a pip of its own; nothing has to come from the network for that. In a process of its
own, because ensurepip replaces modules that the caller has loaded.
"""

from __future__ import annotations

import subprocess
import sys

sys.exit(subprocess.call([sys.executable, "-m", "ensurepip", "--default-pip"]))
