// SPDX-License-Identifier: GPL-2.0-or-later
/* OOMs of the whole system, in a small machine of their own: no memcg limit anywhere. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "harness.h"

enum { BAIT, PROTECTED, GROWER, HOGS };

static void start_global_oom(struct hog hogs[HOGS])
{
	hogs[BAIT] = (struct hog){ .name = "bait", .cgroup = "t/bait", .adj = 1000 };
	hogs[PROTECTED] = (struct hog){ .name = "protected", .cgroup = "t/protected", .adj = -1000 };
	hogs[GROWER] = (struct hog){ .name = "grower", .cgroup = "t/grower" };
	cg_make("t/bait", false);
	cg_make("t/protected", false);
	cg_make("t/grower", false);
	for (int i = 0; i < HOGS; i++)
		hog_start(&hogs[i]);
	require(hog_fill(&hogs[BAIT], 10 * MIB) && hog_fill(&hogs[PROTECTED], 20 * MIB),
		"hogs fill", "they do not");
}

static void global_oom(void)
{
	struct policy policy = policy_start("largest_leaf", "global_policy");
	long long kills = vmstat("oom_kill");
	struct hog hogs[HOGS];

	start_global_oom(hogs);
	hog_order(&hogs[GROWER], 4096 * MIB);
	check_killed(&hogs[GROWER]);
	check_int("oom_kill of /proc/vmstat", kills + 1, vmstat("oom_kill"));
	check_int("oom_kill of the cgroup", 1, cg_field("t/grower", "memory.events.local", "oom_kill"));
	check_int("oom of the cgroup, which a global OOM does not raise", 0,
		  cg_field("t/grower", "memory.events", "oom"));
	check_alive(&hogs[BAIT]);
	check_alive(&hogs[PROTECTED]);
	check_log("oom_policy=global_policy");
	check_constraint("CONSTRAINT_NONE");
	check_log(",global_oom,task_memcg=/t/grower,");
	check_int("kills of the policy", 1, policy_u64(&policy, "nr_kills"));
}

static void global_oom_without_policy(void)
{
	struct hog hogs[HOGS], *first = NULL;

	start_global_oom(hogs);
	hog_order(&hogs[GROWER], 4096 * MIB);
	wait_for((first = first_dead(hogs, HOGS)));
	check(first == &hogs[BAIT], "the first to die is", "bait", "%s",
	      first ? first->name : "nobody");
	check_killed(&hogs[BAIT]);
	check_killed(&hogs[GROWER]);
	check_alive(&hogs[PROTECTED]);
	check_log("oom_policy=default");
}

/* Init and kernel threads are in the scope of a global OOM, and yet not to be killed. */
static void global_kill_refusals(void)
{
	struct policy policy = policy_open("probe", "refused");
	struct hog hogs[HOGS];
	int32_t *targets, *results;

	policy_set_u32(&policy, "verdict", 1);
	policy_load(&policy);
	policy_attach(&policy);
	targets = policy_data(&policy, "targets");
	results = policy_data(&policy, "results");
	start_global_oom(hogs);
	targets[0] = 1;
	targets[1] = 2;
	targets[2] = hogs[PROTECTED].pid;
	targets[3] = hogs[GROWER].pid;
	hog_order(&hogs[GROWER], 4096 * MIB);
	check_killed(&hogs[GROWER]);
	check_int("a global OOM is global", 1, policy_u32(&policy, "is_global"));
	check_int("killing init (-EPERM)", -EPERM, results[0]);
	check_int("killing a kernel thread (-EPERM)", -EPERM, results[1]);
	check_int("killing a -1000 task (-EPERM)", -EPERM, results[2]);
	check_int("killing the grower", 0, results[3]);
	check_alive(&hogs[PROTECTED]);
	check_alive(&hogs[BAIT]);
}

/* Under pressure a policy declares an OOM of the system; the result of the kfunc. */
static int declare_global(struct hog *eater)
{
	struct policy policy = policy_open("psi_probe", NULL);

	cg_make("t/eater", false);
	cg_set("t/eater", "memory.high", 20 * MIB);
	cg_set("t/eater", "memory.swap.max", 0);
	hog_start(eater);
	policy_set_u32(&policy, "watch_resource", 1);
	policy_set_u32(&policy, "nr_watches", 1);
	policy_set_u32(&policy, "on_event", 2);
	policy_load(&policy);
	*(int32_t *)policy_data(&policy, "declare_result") = 12345;
	policy_attach(&policy);
	hog_order(eater, 60 * MIB);
	check(wait_for(policy_u32(&policy, "declare_result") != 12345), "bpf_out_of_memory(NULL) ends",
	      "it does", "%u events", policy_u32(&policy, "nr_events"));
	return (int32_t)policy_u32(&policy, "declare_result");
}

/* A declared OOM that finds nobody to kill must not panic. */
static void declared_global_without_victim(void)
{
	struct hog eater = { .name = "eater", .cgroup = "t/eater", .adj = -1000 };

	check_int("its result (no progress)", 0, declare_global(&eater));
	check_alive(&eater);
	check_log("no killable processes");
}

/*
 * When a notifier gives memory back nobody has to die: 1. Here it is the balloon, which the
 * host has blown up before; it lets go of memory in an OOM.
 */
static void declared_global_met_by_notifier(void)
{
	struct hog eater = { .name = "eater", .cgroup = "t/eater" };
	long long deflated;

	require(wait_for(vmstat("balloon_inflate") > 0), "the balloon holds memory", "it is empty");
	deflated = vmstat("balloon_deflate");
	check_int("its result (somebody gave memory back)", 1, declare_global(&eater));
	check(vmstat("balloon_deflate") > deflated, "the balloon gave memory back", "it did", "%lld pages",
	      vmstat("balloon_deflate") - deflated);
	check_alive(&eater);
	check_not_log("oom-kill:");
}

/* With oom_kill_allocating_task nobody chooses, so no policy is asked either. */
static void global_allocating_task(void)
{
	struct policy policy = policy_start("largest_leaf", "not_asked");
	struct hog hogs[HOGS];

	start_global_oom(hogs);
	sysctl_write("vm/oom_kill_allocating_task", "1");
	hog_order(&hogs[GROWER], 4096 * MIB);
	check_killed(&hogs[GROWER]);
	sysctl_write("vm/oom_kill_allocating_task", "0");
	check_int("calls of the policy", 0, policy_u64(&policy, "nr_calls"));
	check_log("Out of memory (oom_kill_allocating_task): Killed process");
	/* the hook of the module comes after this: who is not asked is not told of either */
	if (has_module())
		check_not_log("oom_policy=");
	else
		check_log("oom_policy=default");
	check_alive(&hogs[PROTECTED]);
}

/* panic_on_oom=1 panics before a policy is asked. The machine does not survive this. */
static void global_panic_on_oom(void)
{
	struct policy policy = policy_start("largest_leaf", "not_asked");
	struct hog hogs[HOGS];

	start_global_oom(hogs);
	sysctl_write("vm/panic_on_oom", "1");
	hog_order(&hogs[GROWER], 4096 * MIB);
	wait_for(hog_reap(&hogs[GROWER]));
	check(false, "the machine panics", "it does", "%llu calls of the policy",
	      (unsigned long long)policy_u64(&policy, "nr_calls"));
}

const struct scenario global_scenarios[] = {
	{ "global_allocating_task", "global", global_allocating_task },
	{ "global_panic_on_oom", "panic", global_panic_on_oom },
	{ "global_oom", "global", global_oom },
	{ "global_oom_without_policy", "global", global_oom_without_policy },
	{ "global_kill_refusals", "global", global_kill_refusals },
	{ "declared_global_without_victim", "global", declared_global_without_victim },
	{ "declared_global_met_by_notifier", "balloon", declared_global_met_by_notifier },
	{ }
};
