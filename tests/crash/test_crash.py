# SPDX-License-Identifier: GPL-3.0-or-later
"""A change that is ended at any step, by SIGKILL or by a power cut, leaves the old set or the new; the next one completes it.

What is done and looked at stands in guest.py.
"""

from __future__ import annotations

import concurrent.futures
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import crash_tier
import kernel_tier
import pytest
from splats import splats

#: From one set to another, and the replacement of the installed command.
SWEEPS = ("nothing-a", "a-b", "b-a", "a-nothing", "command")
#: So many times the power is cut, at steps that lie evenly among all of a change.
CUTS = 20
#: An issue asks for so many points at least, over all sweeps.
POINTS = 50


@dataclass
class Found:
    events: list[dict[str, Any]]
    log: str

    def of(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], crash_tier.Machine]:
    directory = tmp_path_factory.mktemp("crash")
    artifact = kernel_tier.kernel()
    guest = crash_tier.disk_with_guest(directory)
    return lambda name: crash_tier.Machine(directory, name, guest, artifact)


@pytest.fixture(scope="session")
def swept(machine: Callable[[str], crash_tier.Machine], request: pytest.FixtureRequest) -> Iterator[Callable[[str], Found]]:
    """All sweeps that the run needs, two at once, each in a machine of its own."""

    def sweep(name: str) -> Found:
        one = machine(name)
        with one.boot("sweep", name) as says:
            events = list(says)
        return Found(events, one.log())

    calls = [getattr(item, "callspec", None) for item in request.session.items]
    needed = [name for name in SWEEPS if any(call and call.params.get("sweep") == name for call in calls)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = {name: pool.submit(sweep, name) for name in needed}
        yield lambda name: running[name].result()
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_killed_at_any_step_it_leaves_the_old_or_the_new_and_the_next_run_completes_it(
    swept: Callable[[str], Found], sweep: str, record_property: Callable[[str, object], None]
) -> None:
    found = swept(sweep)
    assert not found.of("failed"), found.of("failed")[0]["why"]
    points, (counted,) = found.of("point"), found.of("steps")
    wrong = [f"{each['step']}: {each['wrong']}" for each in points if each["wrong"]]
    left = {name: sum(each["left"] == name for each in points) for name in ("old", "new")}
    record_property(
        sweep, f"killed at {len(points)} of {counted['steps']} steps, left the old {left['old']} times, the new {left['new']}"
    )
    assert not wrong, f"{len(wrong)} of {len(points)} points:\n" + "\n".join(wrong)
    assert len(points) == counted["steps"] > 0
    assert found.of("end"), f"the machine ended early:\n{found.log[-3000:]}"
    assert left["old"] and left["new"]


def test_the_sweeps_have_points_enough(swept: Callable[[str], Found]) -> None:
    assert sum(len(swept(name).of("point")) for name in SWEEPS) >= POINTS


@pytest.mark.parametrize("sweep", SWEEPS)
def test_kernel_log_is_clean(swept: Callable[[str], Found], sweep: str) -> None:
    assert splats(swept(sweep).log) == []


def test_a_power_cut_at_any_step_boots_with_the_old_or_the_new_and_it_kills(
    machine: Callable[[str], crash_tier.Machine], record_property: Callable[[str, object], None]
) -> None:
    one = machine("power")
    # Each after a boot with the other, as it will be when they are cut; the first is from nothing.
    for name in ("a", "b", "a"):
        with one.boot("count", name) as says:
            assert list(says) == [{"event": "end"}]
    found, steps = [], []
    for number in range(1, CUTS + 2):
        with one.boot("power", f"{number}/{CUTS}") as says:
            # The power goes with the end of this block, while the machine stands still in the middle of the change.
            said = next(says, {"event": "nothing"})
        assert said["event"] == "cut", f"boot {number}: {said.get('why', '')}\n{one.log()[-3000:]}"
        found.append(said["found"])
        steps.append(said["step"])
    changed = sum(before != after for before, after in itertools.pairwise(found))
    record_property(
        "power", f"{CUTS} cuts, {changed} of them left the new set; at: {'; '.join(step.split('(')[0] for step in steps[:-1])}"
    )
    assert 0 < changed < CUTS
    assert splats(one.log()) == []
