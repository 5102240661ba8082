// SPDX-License-Identifier: GPL-2.0-or-later
/* The seed's OOM, and what largest_leaf chooses. */
#include <stdio.h>
#include <string.h>

#include "harness.h"

enum { CG1, CG2, CG4, CG5, SEED_HOGS };

/*
 * The four cgroups of the seed: held back by freezing them, then filled one after the
 * other. The kernel's own heuristic would choose cg1; cg4 is the largest leaf.
 */
static struct hog *seed_oom(struct hog hogs[SEED_HOGS])
{
	static const struct hog table[SEED_HOGS] = {
		[CG1] = { .name = "cg1", .cgroup = "t/cg1", .adj = 1000 },
		[CG2] = { .name = "cg2", .cgroup = "t/cg2", .adj = -1000 },
		[CG4] = { .name = "cg4", .cgroup = "t/cg3/cg4" },
		[CG5] = { .name = "cg5", .cgroup = "t/cg3/cg5" },
	};
	static const int mib[SEED_HOGS] = { 10, 40, 30, 20 };
	struct hog *first = NULL;
	int i;

	cg_set("t", "memory.max", 80 * MIB);
	cg_set("t", "memory.swap.max", 0);
	cg_make("t/cg1", false);
	cg_make("t/cg2", false);
	cg_make("t/cg3", true);
	cg_make("t/cg3/cg4", false);
	cg_make("t/cg3/cg5", false);
	for (i = 0; i < SEED_HOGS; i++) {
		hogs[i] = table[i];
		hog_start(&hogs[i]);
		cg_freeze(hogs[i].cgroup, true);
		hog_order(&hogs[i], mib[i] * MIB);
	}
	for (i = 0; i < SEED_HOGS && !first; i++) {
		cg_freeze(hogs[i].cgroup, false);
		wait_for((first = first_dead(hogs, SEED_HOGS)) || hog_filled(&hogs[i]));
	}
	for (; i < SEED_HOGS; i++)
		cg_freeze(hogs[i].cgroup, false);
	wait_for(first || (first = first_dead(hogs, SEED_HOGS)));
	return first;
}

static void check_first(const char *name, struct hog *first)
{
	check(first && !strcmp(first->name, name), "the first to die is", name, "%s",
	      first ? first->name : "nobody");
}

static void oom_seed(void)
{
	struct policy policy = policy_start("largest_leaf", "seed_policy");
	struct hog hogs[SEED_HOGS], *first;

	first = seed_oom(hogs);
	check_first("cg4", first);
	check_killed(&hogs[CG4]);
	check_int("cg4's memory.events.local oom_kill", 1,
		  cg_field("t/cg3/cg4", "memory.events.local", "oom_kill"));
	check_int("cg4's memory.events oom_kill", 1,
		  cg_field("t/cg3/cg4", "memory.events", "oom_kill"));
	check(wait_for(hog_filled(&hogs[CG5])), "cg5 gets its memory", "20 MiB", "it does not");
	check_int("the parent's memory.events oom_kill", 1,
		  cg_field("t", "memory.events", "oom_kill"));
	check_alive(&hogs[CG1]);
	check_alive(&hogs[CG2]);
	check_alive(&hogs[CG5]);
	check_log("oom_policy=seed_policy");
	check_constraint("CONSTRAINT_MEMCG");
	check_log("BPF policy largest_leaf: Killed process");
	check_int("the policy counts its kill", 1, policy_u64(&policy, "nr_kills"));
	check_int("the policy counts no error", 0, policy_u64(&policy, "nr_errors"));
}

static void oom_seed_without_policy(void)
{
	struct hog hogs[SEED_HOGS], *first;

	first = seed_oom(hogs);
	check_first("cg1", first);
	check_killed(&hogs[CG1]);
	check_int("cg1's memory.events.local oom_kill", 1,
		  cg_field("t/cg1", "memory.events.local", "oom_kill"));
	check_alive(&hogs[CG2]);
	check_log("oom_policy=default");
}

/*
 * One leaf against another: fill `hogs` in turn below a limit of `limit_mib`, the last
 * one brings the OOM about.
 */
static void fill(struct hog *hogs, const int *mib, int count, int limit_mib)
{
	int i;

	cg_set("t", "memory.max", limit_mib * MIB);
	cg_set("t", "memory.swap.max", 0);
	for (i = 0; i < count; i++) {
		hog_start(&hogs[i]);
		if (i < count - 1)
			require(hog_fill(&hogs[i], mib[i] * MIB), "a hog fills", "%s does not",
				hogs[i].name);
		else
			hog_order(&hogs[i], mib[i] * MIB);
	}
}

/* All tasks of the leaf die; a leaf is counted as a whole. */
static void largest_leaf_kills_all_tasks(void)
{
	struct policy policy = policy_start("largest_leaf", "largest_leaf");
	struct hog hogs[] = {
		{ .name = "many1", .cgroup = "t/many" }, { .name = "many2", .cgroup = "t/many" },
		{ .name = "many3", .cgroup = "t/many" }, { .name = "single", .cgroup = "t/single" },
		{ .name = "grower", .cgroup = "t/grower" },
	};
	static const int mib[] = { 9, 9, 9, 18, 16 };
	int i;

	cg_make("t/many", false);
	cg_make("t/single", false);
	cg_make("t/grower", false);
	fill(hogs, mib, 5, 50);
	for (i = 0; i < 3; i++)
		check_killed(&hogs[i]);
	check(wait_for(hog_filled(&hogs[4])), "the grower gets its memory", "16 MiB", "it does not");
	check_alive(&hogs[3]);
	check_int("oom_kill of the leaf", 3, cg_field("t/many", "memory.events.local", "oom_kill"));
	check_int("oom_kill of all", 3, cg_field("t", "memory.events", "oom_kill"));
	check_int("kills counted by the policy", 3, policy_u64(&policy, "nr_kills"));
}

/* With shelter: cgroup, the seed's rule, a leaf with one -1000 task is spared as a whole. */
static void shelter_cgroup_spares_the_leaf(void)
{
	struct policy policy = policy_open("largest_leaf", "largest_leaf");
	struct hog hogs[] = {
		{ .name = "big", .cgroup = "t/mixed" },
		{ .name = "protected", .cgroup = "t/mixed", .adj = -1000 },
		{ .name = "small", .cgroup = "t/small" }, { .name = "grower", .cgroup = "t/grower" },
	};
	static const int mib[] = { 25, 2, 12, 16 };

	policy_set_u32(&policy, "shelter", 1);
	policy_load(&policy);
	policy_attach(&policy);
	cg_make("t/mixed", false);
	cg_make("t/small", false);
	cg_make("t/grower", false);
	fill(hogs, mib, 4, 50);
	check_killed(&hogs[2]);
	check(wait_for(hog_filled(&hogs[3])), "the grower gets its memory", "16 MiB", "it does not");
	check_alive(&hogs[0]);
	check_alive(&hogs[1]);
	check_int("kills counted by the policy", 1, policy_u64(&policy, "nr_kills"));
}

/* Leaf means a leaf of the memory controller: cgroups below without it belong to it. */
static void largest_leaf_counts_plain_subcgroups(void)
{
	struct policy policy = policy_start("largest_leaf", "largest_leaf");
	struct hog hogs[] = {
		{ .name = "below", .cgroup = "t/service/worker" },
		{ .name = "other", .cgroup = "t/other" }, { .name = "grower", .cgroup = "t/grower" },
	};
	static const int mib[] = { 25, 15, 16 };

	cg_make("t/service", false);
	cg_make("t/service/worker", false);
	cg_make("t/other", false);
	cg_make("t/grower", false);
	fill(hogs, mib, 3, 50);
	check_killed(&hogs[0]);
	check(wait_for(hog_filled(&hogs[2])), "the grower gets its memory", "16 MiB", "it does not");
	check_alive(&hogs[1]);
	check_int("oom_kill of the leaf", 1, cg_field("t/service", "memory.events", "oom_kill"));
	check_int("kills counted by the policy", 1, policy_u64(&policy, "nr_kills"));
}

/* Page cache of files does not make a leaf large, unless count_file says so. */
static void page_cache(bool count_file)
{
	struct policy policy = policy_open("largest_leaf", "largest_leaf");
	struct hog hogs[] = {
		{ .name = "cached", .cgroup = "t/cached", .disk = true },
		{ .name = "anon", .cgroup = "t/anon" }, { .name = "grower", .cgroup = "t/grower" },
	};
	static const int mib[] = { 24, 14, 20 };

	policy_set(&policy, "count_file", &count_file, 1);
	policy_load(&policy);
	policy_attach(&policy);
	cg_make("t/cached", false);
	cg_make("t/anon", false);
	cg_make("t/grower", false);
	fill(hogs, mib, 3, 50);
	check_killed(&hogs[count_file ? 0 : 1]);
	check(wait_for(hog_filled(&hogs[2])), "the grower gets its memory", "20 MiB", "it does not");
	check_alive(&hogs[count_file ? 1 : 0]);
	check_int("kills counted by the policy", 1, policy_u64(&policy, "nr_kills"));
}

static void largest_leaf_ignores_page_cache(void)
{
	page_cache(false);
}

static void largest_leaf_count_file(void)
{
	page_cache(true);
}

/* All are below min_usage: that leaves nothing to the kernel's killer, which would take cg1. */
static void largest_leaf_min_usage(void)
{
	struct policy policy = policy_open("largest_leaf", "largest_leaf");
	struct hog hogs[SEED_HOGS], *first;

	policy_set_u64(&policy, "min_usage", 70 * MIB);
	policy_load(&policy);
	policy_attach(&policy);
	first = seed_oom(hogs);
	check_first("cg4", first);
	check_log("oom_policy=largest_leaf");
	check_int("kills of the policy", 1, policy_u64(&policy, "nr_kills"));
}

/* A removed cgroup that still holds pages is not a candidate. */
static void largest_leaf_skips_removed_cgroup(void)
{
	struct policy policy = policy_open("largest_leaf", "largest_leaf");
	struct hog ghost = { .name = "ghost", .cgroup = "t/ghost", .file = true };
	struct hog hogs[] = {
		{ .name = "other", .cgroup = "t/other" }, { .name = "grower", .cgroup = "t/grower" },
	};
	static const int mib[] = { 15, 18 };
	bool count_file = true;

	policy_set(&policy, "count_file", &count_file, 1);
	policy_load(&policy);
	policy_attach(&policy);
	cg_make("t/ghost", false);
	cg_make("t/keeper", false);
	cg_make("t/other", false);
	cg_make("t/grower", false);
	hog_start(&ghost);
	require(hog_fill(&ghost, 24 * MIB), "the ghost fills", "it does not");
	/* The pages stay charged to it while a process elsewhere maps the file. */
	cg_join("t/keeper", ghost.pid);
	require(cg_remove("t/ghost"), "the ghost's cgroup goes", "it does not");
	fill(hogs, mib, 2, 50);
	check_killed(&hogs[0]);
	check(wait_for(hog_filled(&hogs[1])), "the grower gets its memory", "18 MiB", "it does not");
	check_alive(&ghost);
	check_int("kills counted by the policy", 1, policy_u64(&policy, "nr_kills"));
	check_int("errors counted by the policy", 0, policy_u64(&policy, "nr_errors"));
}

/* memory.oom.group: the policy's kill takes the group along, and it is counted. */
static void oom_group(void)
{
	struct policy policy = policy_open("probe", "probe_kills");
	struct hog hogs[] = {
		{ .name = "group1", .cgroup = "t/group" }, { .name = "group2", .cgroup = "t/group" },
		{ .name = "grower", .cgroup = "t/grower" },
	};
	static const int mib[] = { 10, 10, 20 };
	int32_t *targets;

	policy_set_u32(&policy, "verdict", 1);
	policy_load(&policy);
	policy_attach(&policy);
	targets = policy_data(&policy, "targets");
	cg_make("t/group", false);
	cg_make("t/grower", false);
	cg_write("t/group", "memory.oom.group", "1");
	cg_set("t", "memory.max", 30 * MIB);
	cg_set("t", "memory.swap.max", 0);
	hog_start(&hogs[0]);
	hog_start(&hogs[1]);
	hog_start(&hogs[2]);
	require(hog_fill(&hogs[0], mib[0] * MIB) && hog_fill(&hogs[1], mib[1] * MIB),
		"the group fills", "it does not");
	targets[0] = hogs[0].pid;
	hog_order(&hogs[2], mib[2] * MIB);
	check_killed(&hogs[0]);
	check_killed(&hogs[1]);
	check_int("oom_kill of the group", 2,
		  cg_field("t/group", "memory.events.local", "oom_kill"));
	check_int("oom_group_kill of the group", 1,
		  cg_field("t/group", "memory.events.local", "oom_group_kill"));
	check_int("bpf_oom_kill_process()", 0, (int32_t)policy_u32(&policy, "results"));
	check_log("oom_policy=probe_kills");
}

const struct scenario oom_scenarios[] = {
	{ "oom_seed", "common", oom_seed },
	{ "oom_seed_without_policy", "common", oom_seed_without_policy },
	{ "largest_leaf_kills_all_tasks", "common", largest_leaf_kills_all_tasks },
	{ "shelter_cgroup_spares_the_leaf", "common", shelter_cgroup_spares_the_leaf },
	{ "largest_leaf_counts_plain_subcgroups", "common", largest_leaf_counts_plain_subcgroups },
	{ "largest_leaf_ignores_page_cache", "common", largest_leaf_ignores_page_cache },
	{ "largest_leaf_count_file", "common", largest_leaf_count_file },
	{ "largest_leaf_min_usage", "common", largest_leaf_min_usage },
	{ "largest_leaf_skips_removed_cgroup", "common", largest_leaf_skips_removed_cgroup },
	{ "oom_group", "common", oom_group },
	{ }
};
