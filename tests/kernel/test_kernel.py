# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel interface and the policies in a machine without a distribution.

Each scenario is C code in runner/; what it is about stands there. All scenarios of a boot run in
one go, when the first of them is asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import kernel_tier
import pytest
from kernel_tier import EMULATORS_INT3, Boot, emulator_failed, scenarios
from splats import splats

import accel

SCENARIOS = {
    "common": [
        "oom_seed",
        "oom_seed_without_policy",
        "largest_leaf_kills_all_tasks",
        "shelter_cgroup_spares_the_leaf",
        "largest_leaf_counts_plain_subcgroups",
        "largest_leaf_ignores_page_cache",
        "largest_leaf_count_file",
        "largest_leaf_min_usage",
        "largest_leaf_skips_removed_cgroup",
        "oom_group",
        "chain_load_order",
        "chain_zero_passes_on",
        "chain_false_claim",
        "chain_memory_freed_is_not_inherited",
        "unloading_restores_default",
        "memcg_statistics",
        "bypass_false_claims",
        "bypass_slow_policy",
        "bypass_lasts_longer_each_time",
        "bypass_begins_anew_after_progress",
        "bypass_means_in_a_row",
        "registering_wants_sys_admin",
        "registering_wants_a_link",
        "unloading_waits_for_handler",
        "panic_on_oom_spares_memcg",
        "allocating_task_spares_memcg",
        "sysrq_asks_policies",
        "nofs_memcg_oom",
        "group_kill_counts_once",
        "selftest_of_the_series",
        "kill_refusals",
        "refusal_frees_nothing",
        "no_second_victim",
        "late_close_is_waited_for",
        "hanging_close_is_not_waited_for_for_ever",
        "verifier_refuses_kfuncs",
        "verifier_refuses_sleeping",
        "verifier_guards_oom_control",
        "verifier_refuses_user_memory",
        "handler_cannot_fault",
        "handler_cannot_recurse",
        "psi_seed",
        "pressure_oom_twice",
        "pressure_oom_system_wide",
        "pressure_oom_missing_cgroup",
        "psi_bad_orders",
        "psi_bad_watches",
        "psi_failing_init",
        "psi_removed_cgroup",
        "psi_free_is_told_once",
        "declared_oom_weighs_score_adj",
        "psi_from_a_cgroup_namespace",
        "psi_constraint_texts",
        "declaring_without_waiting",
        "psi_restarted_service",
        "psi_online_during_init",
        "psi_many_during_init",
        "psi_late_for_many",
        "psi_same_trigger_twice",
        "psi_trigger_cap",
        "psi_averages",
        "psi_averages_forget_the_past",
        "pressure_oom_follows_restart",
        "psi_unload_under_pressure",
    ],
    "global": [
        "global_oom",
        "global_oom_without_policy",
        "global_kill_refusals",
        "global_allocating_task",
        "declared_global_without_victim",
        "process_of_the_root_cgroup_dies",
        "page_cache_of_all_is_not_the_roots",
    ],
    "balloon": ["declared_global_met_by_notifier"],
    "policies": [
        "policies_rank_cgroups",
        "policies_rank_otherwise",
        "observe_records_both",
        "victim_is_a_process",
        "victim_is_a_cgroup",
        "victim_is_an_oom_group",
        "protected_process_spares_its_oom_group",
        "protected_subcgroup_lives_alone",
        "cooldown_takes_the_next_best",
        "scopes_lie_in_one_another",
        "decisions_are_a_ring",
        "pressure_must_last",
        "pressure_cooldown",
        "pressure_without_victim",
        "pressure_observed",
        "watch_never_acts",
        "unwatched_is_not_called_watched",
        "pressure_and_swap",
        "pod_above_its_request_by_leaf",
        "pod_above_its_request_by_process",
        "pod_above_its_request_by_request",
        "pod_above_its_request_by_priority",
        "small_sidecar_is_not_the_culprit",
        "oom_of_a_pod_is_not_its_containers",
        "oom_of_a_pod_is_the_pods",
        "container_dies_as_one",
        "worker_dies_alone",
        "lowered_limit_kills_inside",
        "lowered_limit_among_unkillable_returns",
        "lowered_limit_among_protected_returns",
        "path_of_a_cgroup_that_went_at_once",
    ],
    "conditions": [
        "pressure_off_in_one",
        "more_cgroups_than_can_be_watched",
        "busy_is_no_action",
        "free_memory_is_that_of_meminfo",
        "free_memory_spares_the_system",
        "free_memory_short_in_the_system",
        "free_memory_of_a_cgroup",
        "free_swap_of_a_cgroup",
    ],
    "trees": ["random_trees"],
    "storm": ["replacing_leaves_no_gap", "replacing_witness_sees_gap", "storm"],
    "module": [
        "module_is_loaded_once",
        "module_stays_under_a_policy",
        "module_beside_tracers",
        "module_beside_probes",
        "module_and_another_hook",
        "module_needs_ftrace",
        "module_and_cpu_hotplug",
        "module_reload_storm",
        "module_kills_after_the_storm",
    ],
    "victims": [
        "a_leaf_name",
        "a_leaf_path",
        "a_process_ranked",
        "a_leaf_victim_process",
        "a_leaf_minus_1000",
        "b_session",
        "b_renamed",
        "b_deep_31",
        "b_deep_34",
        "b_deep_34_empty_protect",
        "b_long",
        "b_long_empty_protect",
        "c_memfd_mapped",
        "c_memfd_written",
        "c_shared_anonymous",
        "c_process",
        "x_tmpfs_stays",
        "d_process_adj_1",
        "d_process_adj_1000",
        "d_process_adj_999",
        "d_leaf_adj_1000",
        "d_leaf_adj_0",
        "e_process",
        "e_leaf_cgroup",
        "e_leaf_process",
        "login_of_a_user_lives",
        "root_of_a_container_is_not_root",
        "delegated_cgroup_is_not_roots",
        "request_of_everything",
        "nobody_is_there_to_die",
        "b_session_process",
        "i_zombies",
        "x1_leaf",
        "x1_leaf_group",
        "x1_oom_group",
        "x2_bomb",
        "x2_threads",
        "x3_leaf",
        "x3_process",
        "x4_mlock",
        "x5_space",
        "x5_backslash",
        "x5_not_utf8",
        "x5_star_in_name",
        "x5_255",
        "x5_stars",
        "x5_stars_match",
        "x5_newline",
        "x6_frozen",
        "x6_frozen_process",
        "x7_vfork_leaf",
        "x7_vfork_process",
        "x7_vfork_leaf_process",
        "x7_dstate",
        "x7_clone_vm",
        "x8_unkillable",
        "x9_threaded_leaf",
        "x9_threaded_process",
        "x9_threaded_protected",
        "x10_observe_first",
        "moved_process_is_found",
        "moved_process_is_found_by_itself",
        "who_moved_into_a_group_is_found",
        "who_stays_does_not_pay_for_who_moved",
        "child_of_a_survivor_gives_nothing_back",
        "parent_and_moved_child_hold_it_together",
        "process_without_its_leader_is_found",
        "process_without_its_leader_is_found_by_itself",
        "leader_left_behind_is_no_reason_to_die",
        "small_process_dies_before_a_protected_one",
        "small_leaf_dies_before_a_protected_one",
        "shared_memory_filled_anew_counts",
        "survivors_hold_shared_memory_once",
        "group_of_a_sheltered_leaf_lives",
    ],
    "hidden": [
        "h_hidden_400",
        "h_hidden_600",
    ],
    "swapoff": [
        "bypass_not_for_a_busy_host",
        "f_leaf",
        "f_process",
        "full_swap_counts_for_leaves",
        "full_swap_counts_for_processes",
    ],
}

#: What needs more than the plain first version of the interface, on a kernel of FLAVOUR=plain.
BEYOND_PLAIN = {
    "bypass_begins_anew_after_progress",
    "bypass_false_claims",
    "bypass_lasts_longer_each_time",
    "bypass_means_in_a_row",
    "bypass_not_for_a_busy_host",
    "bypass_slow_policy",
    "group_kill_counts_once",
    "more_cgroups_than_can_be_watched",
    "oom_group",
    "pressure_oom_follows_restart",
    "psi_averages",
    "psi_averages_forget_the_past",
    "psi_constraint_texts",
    "psi_late_for_many",
    "psi_many_during_init",
    "psi_online_during_init",
    "psi_restarted_service",
    "psi_same_trigger_twice",
    "psi_trigger_cap",
    "selftest_of_the_series",
    "storm",
    "unwatched_is_not_called_watched",
}
ALL = {scenario: name for name, names in SCENARIOS.items() for scenario in names}
if not kernel_tier.is_stock():
    # A kernel with the interface built in has no module for it.
    del SCENARIOS["module"]
else:
    SCENARIOS["common"] = [each for each in SCENARIOS["common"] if each != "selftest_of_the_series"]
if os.environ.get("FLAVOUR") == "plain":
    SCENARIOS = {name: [each for each in names if each not in BEYOND_PLAIN] for name, names in SCENARIOS.items()}

Booter = Callable[[str], Boot]


# The statistics in the kernel's OOM reports, most of a log.
_STATISTIC = re.compile(r"\] [a-z_]+ \d+$")


def _tail(log: str, lines: int) -> str:
    return "\n".join([line for line in log.splitlines() if not _STATISTIC.search(line)][-lines:])


@pytest.mark.parametrize(("name", "scenario"), [(name, scenario) for name in SCENARIOS for scenario in SCENARIOS[name]])
def test_scenario(boot: Booter, name: str, scenario: str, record_property: Callable[[str, object], None]) -> None:
    booted = boot(name)
    outcome = booted.outcomes.get(scenario)
    if outcome is None:
        pytest.fail(
            f"the machine said nothing about {scenario}; {booted.why_ended}; the end of its log:\n{_tail(booted.log, 60)}",
            pytrace=False,
        )
    for note in outcome.notes:
        record_property(scenario, note)
    if not outcome.ok:
        report = [f"{scenario} ({outcome.seconds} s in the machine)"]
        for check in outcome.checks:
            report.append(f"  {'ok    ' if check.ok else 'FAILED'} {check.what}")
            if not check.ok:
                report += [f"           expected: {check.expected}", f"           actual:   {check.actual}"]
        report += ["the end of its kernel log:", _tail(booted.log_of(scenario), 60)]
        pytest.fail("\n".join(report), pytrace=False)


@pytest.mark.parametrize("name", SCENARIOS)
def test_kernel_log_is_clean(boot: Booter, name: str) -> None:
    found = splats(boot(name).log)
    if found:
        pytest.fail(f"{len(found)} splats in the log of boot {name}:\n\n" + "\n\n".join(found), pytrace=False)


@pytest.mark.parametrize("name", SCENARIOS)
def test_machine_ran_to_its_end(boot: Booter, name: str) -> None:
    booted = boot(name)
    assert booted.why_ended == "it ended"
    assert "reboot: Restarting system" in booted.log


if os.environ.get("FLAVOUR") == "plain":

    def test_the_plain_kernel_has_the_prototypes_of_the_first_version(artifact: Path) -> None:
        names = set((artifact / "btf").read_bytes().split(b"\0"))
        assert {b"constraint_text__nullable", b"handle_cgroup_free", b"bpf_psi_ops"} <= names
        assert not {b"constraint_text__ign", b"handle_cgroup_online", b"bpf_psi__nullable", b"bpf_oom_limits"} & names


def test_panic_on_oom_comes_before_policies(boot: Booter) -> None:
    booted = boot("panic")
    assert "Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled" in booted.log
    assert "BPF policy" not in booted.log
    assert booted.outcomes == {}


def test_no_scenario_is_forgotten(initramfs: Path) -> None:
    known = scenarios(initramfs.parent / "runner")
    assert {scenario: name for scenario, name in known.items() if name not in ("bench", "panic")} == ALL


@pytest.mark.parametrize(
    "line",
    [
        "[    1.234567] WARNING: CPU: 1 PID: 42 at mm/oom_kill.c:999 bpf_handle_oom+0x12/0x34",
        "[    1.234567] BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "[    1.234567] BUG: KASAN: slab-use-after-free in psi_trigger_destroy+0x12/0x34",
        "[    1.234567] BUG: sleeping function called from invalid context at mm/page_alloc.c:1",
        "[    1.234567] kernel BUG at mm/memcontrol.c:123!",
        "[    1.234567] Oops: 0002 [#1] PREEMPT SMP",
        "[    1.234567] general protection fault, probably for non-canonical address 0xdead000000000100",
        "[    1.234567] INFO: task scenario:77 blocked for more than 30 seconds.",
        "[    1.234567] rcu: INFO: rcu_preempt self-detected stall on CPU",
        "[    1.234567] WARNING: possible circular locking dependency detected",
        "[    1.234567] WARNING: suspicious RCU usage",
        "[    1.234567] refcount_t: underflow; use-after-free.",
        "[    1.234567] Kernel panic - not syncing: System is deadlocked on memory",
        "[    1.234567] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
    ],
)
def test_splat_is_recognised(line: str) -> None:
    assert splats(f"[    1.0] before\n{line}\n[    1.3] after\n") == [f"{line}\n[    1.3] after"]


def test_only_an_int3_is_the_emulators_fault(artifact: Path) -> None:
    """Whatever else ends a machine is a fault of ours."""
    assert EMULATORS_INT3.search("[   41.742568] Oops: int3: 0000 [#1] SMP")
    for line in ("BUG: KASAN: use-after-free", "Oops: general protection fault: 0000 [#1] SMP", "Kernel panic - not syncing: x"):
        assert not EMULATORS_INT3.search(line)
        assert not emulator_failed(line, artifact)


def test_oom_report_is_no_splat() -> None:
    report = (
        "[    2.1] hog invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0 oom_policy=default\n"
        "[    2.1] CPU: 1 UID: 0 PID: 50 Comm: hog Not tainted 6.12.107 #1\n[    2.1] Call Trace:\n[    2.1]  <TASK>\n"
        "[    2.1]  dump_stack_lvl+0x4d/0x70\n[    2.1]  </TASK>\n"
        "[    2.1] Memory cgroup out of memory: Killed process 50 (hog) total-vm:1kB\n"
    )
    assert splats(report) == []


def test_accelerator_probe_works(artifact: Path) -> None:
    """Under emulation it must answer, else "KVM hangs" would be the probe's own fault."""
    assert accel.probe(artifact / "bzImage", accel.EMULATION) == ""
