# SPDX-License-Identifier: GPL-3.0-or-later
"""Every fault that the series closes, put back one at a time: its test must notice.

Runs on a kernel of FLAVOUR=faults, in which faults/SERIES.patch makes each fault switchable by the
kernel command line. On any other kernel this module has no tests.
"""

from __future__ import annotations

import os
from pathlib import Path

import kernel_tier
import pytest

#: Number in faults/*.patch: the fault, the boot, and the scenario that must fail with it.
FAULTS = {
    1: ("a trigger fires once only", "common", "pressure_oom_twice"),
    2: ("a declared OOM of the system does nothing", "common", "pressure_oom_system_wide"),
    3: ("a declared OOM without a victim panics", "global", "declared_global_without_victim"),
    4: ("-1000 is no protection", "common", "kill_refusals"),
    5: ("a task outside the scope is killed", "common", "kill_refusals"),
    6: ("init and kernel threads are no exception", "global", "global_kill_refusals"),
    7: ("what one policy freed is to the credit of the next", "common", "chain_memory_freed_is_not_inherited"),
    8: ("a victim without memory counts as memory freed", "common", "kill_refusals"),
    9: ("any program may call any kfunc", "common", "verifier_refuses_kfuncs"),
    10: ("a handler may fault", "common", "handler_cannot_fault"),
    11: ("a handler may copy from user memory", "common", "verifier_refuses_user_memory"),
    12: ("the newest policy is asked first", "common", "chain_load_order"),
    13: ("nobody waits for an earlier victim", "common", "no_second_victim"),
    14: ("unloading does not wait for a handler", "common", "unloading_waits_for_handler"),
    15: ("a failing init() leaves its triggers", "common", "psi_failing_init"),
    16: ("a removed cgroup keeps its trigger", "common", "psi_removed_cgroup"),
    17: ("creating a trigger is not marked as sleeping", "common", "verifier_refuses_sleeping"),
    18: ("a custom constraint skips the size of the scope", "common", "declared_oom_weighs_score_adj"),
    19: ("the first victim of a group counts twice", "common", "group_kill_counts_once"),
    20: ("who claims progress in vain is asked for ever", "common", "bypass_false_claims"),
    21: ("a removed cgroup is told of once for each trigger", "common", "psi_free_is_told_once"),
    22: ("a new cgroup is told of before it can be found", "common", "psi_restarted_service"),
    23: ("what is made while init() runs is not told of", "common", "psi_online_during_init"),
    24: ("the same trigger is made twice", "common", "psi_same_trigger_twice"),
    25: ("triggers without limit", "common", "psi_trigger_cap"),
    26: ("the averages cannot be chosen", "common", "psi_averages"),
    27: ("the id of a removed cgroup is lost", "common", "psi_seed"),
    28: ("everybody waits for another OOM", "common", "declaring_without_waiting"),
    29: ("any order is taken", "common", "psi_bad_orders"),
    30: ("policies come before the sysctls", "global", "global_allocating_task"),
    31: ("a handler may reclaim, and run into another OOM", "common", "handler_cannot_recurse"),
    32: ("a trigger on the averages counts what was before it", "common", "psi_averages_forget_the_past"),
    33: ("the child of a vfork() is killed, and its parent with it", "common", "kill_refusals"),
    34: ("an OOM policy may call any kfunc", "common", "verifier_refuses_user_memory"),
    35: ("a victim is finished before its files are closed", "common", "late_close_is_waited_for"),
    36: ("who hangs is waited for as long as others die", "common", "hanging_close_is_not_waited_for_for_ever"),
    37: ("the time of day decides over a bypass", "swapoff", "bypass_not_for_a_busy_host"),
    38: ("three claims in vain need not be in a row", "common", "bypass_means_in_a_row"),
    39: ("a bypass never ends", "common", "bypass_lasts_longer_each_time"),
    40: ("whoever may load programs may register a policy", "common", "registering_wants_sys_admin"),
    41: ("a policy may be registered without a link", "common", "registering_wants_a_link"),
    42: ("who loads sees only the cgroups of a namespace", "common", "psi_from_a_cgroup_namespace"),
    43: ("who is late by more than is remembered is told no more", "common", "psi_many_during_init"),
}
#: A second scenario that notices the same fault in another way.
ALSO = {16: "psi_seed", 20: "bypass_slow_policy"}


def _cases() -> list[tuple[int, str, str]]:
    cases = [(number, boot, scenario) for number, (_what, boot, scenario) in FAULTS.items()]
    return cases + [(number, FAULTS[number][1], scenario) for number, scenario in ALSO.items()]


if os.environ.get("FLAVOUR") == "faults":

    @pytest.mark.parametrize(("number", "name", "scenario"), _cases())
    def test_fault_is_noticed(
        artifact: Path, initramfs: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, number: int, name: str, scenario: str
    ) -> None:
        monkeypatch.setenv("BPF_OOM_SCENARIOS", scenario)
        booted = kernel_tier.boot(artifact, initramfs, workplace, name, append=(f"bpf_oom_fault={number}",))
        outcome = booted.outcomes.get(scenario)
        assert outcome is None or not outcome.ok, f"{scenario} passes although {FAULTS[number][0]}"

    def test_without_a_fault_the_same_kernel_passes(
        artifact: Path, initramfs: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failed = []
        for name in ("common", "global", "swapoff"):
            # Marked as not sleeping for good, see the patch: what the verifier checks cannot be switched at run time.
            wanted = {scenario for _number, boot, scenario in _cases() if boot == name} - {"verifier_refuses_sleeping"}
            monkeypatch.setenv("BPF_OOM_SCENARIOS", ",".join(sorted(wanted)))
            outcomes = kernel_tier.boot(artifact, initramfs, workplace, name).outcomes
            failed += [scenario for scenario in sorted(wanted) if scenario not in outcomes or not outcomes[scenario].ok]
        assert failed == []
