# SPDX-License-Identifier: GPL-3.0-or-later
"""What people, templates and command lines put into variables: generated, hostile, and the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

#: In every vaulted value, and in nothing that is ever taken, so that it may be nowhere in what is said.
SECRET = "s3cret !"
TEXTS = [
    *(
        "",
        " ",
        "none",
        "null",
        "true",
        "False",
        "yes",
        "0",
        "1",
        "-1",
        "600",
        "--10",
        "\u00b2",
        "\u0663",
        "1e3",
        "0x10",
        "1_000",
        "9" * 40,
    ),
    *(
        "64M",
        "64m",
        "64MB",
        "500ms",
        "10s",
        "1.5s",
        "50%",
        "150%",
        "-5%",
        "uid:postgres",
        "user:root",
        "user:",
        "uid:5-4",
        "name:",
        "own:/",
    ),
    *(
        "/",
        "/a",
        "/a/",
        "//",
        "/a/../b",
        "/sys/fs/cgroup/x",
        "/**/x",
        "/a[0-9]",
        "/{a,b}",
        "/" + "x" * 300,
        "/\u00fc",
        "relative",
        "~",
        "/\n",
    ),
    *(
        "{}",
        "[]",
        "{",
        "[1",
        '{"a": 1}',
        "a=b c=d",
        "a,b",
        "present",
        "absent",
        "observe",
        "largest_leaf",
        "../../etc",
        "%s",
        "{0}",
        "$(id)",
    ),
    *("\0", "\r", "\x1b[31m", "\u202e", "\udcff", "'\"", "\\", "x" * 5000),
]
NUMBERS = [0, 1, -1, 100, 2**31, -(2**31), 2**63, 2**64, 10**30, 0.5, 1.0, float("inf"), True, False]
PARAMETERS = [
    *(
        "mode",
        "scope",
        "protect",
        "protect_extra",
        "avoid",
        "prefer",
        "victim",
        "shelter",
        "adj_weight",
        "cooldown_ms",
        "cooldown",
    ),
    *("min_usage", "count_file", "priorities", "default_priority", "resource", "level", "threshold_us", "threshold", "window_us"),
    *("window", "averages", "sustained_ms", "sustained", "free_swap_percent", "nonsense"),
]
POLICIES = ["largest_leaf", "largest_process", "over_request", "youngest", "by_priority", "pressure_oom", "watch", "nonsense"]
#: Makes a value of a text: as it comes from a vault, or marked as not to be templated.
Made = Callable[[str], Any]


class Inputs:
    def __init__(self, seed: int, vaulted: Made, unsafe: Made) -> None:
        self._rng = random.Random(seed)
        self._vaulted = vaulted
        self._unsafe = unsafe

    def value(self, depth: int = 2) -> Any:
        rng = self._rng
        kind = rng.randrange(9 if depth else 6)
        if kind == 0:
            return None
        if kind == 1:
            return rng.choice(NUMBERS)
        if kind == 2:
            return self._vaulted(SECRET + rng.choice(["", "\n", "/a", "5"]))
        if kind == 3:
            return self._unsafe(rng.choice([*TEXTS, "{{ 1 }}", "{{ missing }}"]))
        if kind in (4, 5):
            return rng.choice(TEXTS)
        if kind == 6:
            return [self.value(depth - 1) for _each in range(rng.randrange(4))]
        if kind == 7:
            return {rng.choice(TEXTS): self.value(depth - 1) for _each in range(rng.randrange(3))}
        return {}

    def entry(self) -> Any:
        """A policy of a set; often one that but for one thing is right."""
        rng = self._rng
        if rng.random() < 0.1:
            return self.value()
        entry: dict[str, Any] = {"policy": rng.choice(POLICIES)}
        params = {rng.choice(PARAMETERS): self.value() for _each in range(rng.randrange(3))}
        if rng.random() < 0.8:
            entry["params"] = params
        if rng.random() < 0.3:
            entry[rng.choice(["policy", "src", "kind", "params", "order", "state", "nonsense"])] = self.value()
        return entry

    def policies(self) -> Any:
        rng = self._rng
        if rng.random() < 0.1:
            return self.value()
        names = ["a", "b", "db-pressure", "Upper", "", "x" * 60]
        return {rng.choice(names[:3] if rng.random() < 0.9 else names): self.entry() for _each in range(rng.randrange(3))}


__all__ = ["SECRET", "Inputs"]
