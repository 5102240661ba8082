// SPDX-License-Identifier: GPL-2.0-or-later
/* Several policies: their order, falling through, unloading. */
#include <stdio.h>

#include "harness.h"

enum { BAIT, SAFE, GROWER, HOGS };

/*
 * An OOM in "t" that the kernel's own killer solves by killing `bait`. With `order` the
 * grower only gets its order, and the caller looks on.
 */
static void start_oom(struct hog hogs[HOGS])
{
	hogs[BAIT] = (struct hog){ .name = "bait", .cgroup = "t/bait", .adj = 1000 };
	hogs[SAFE] = (struct hog){ .name = "safe", .cgroup = "t/safe" };
	hogs[GROWER] = (struct hog){ .name = "grower", .cgroup = "t/grower" };
	cg_set("t", "memory.max", 30 * MIB);
	cg_set("t", "memory.swap.max", 0);
	cg_make("t/bait", false);
	cg_make("t/safe", false);
	cg_make("t/grower", false);
	for (int i = 0; i < HOGS; i++)
		hog_start(&hogs[i]);
	require(hog_fill(&hogs[BAIT], 15 * MIB) && hog_fill(&hogs[SAFE], 8 * MIB),
		"hogs fill", "they do not");
}

/* A second OOM in the same place: a new bait, and the grower wants the same again. */
static void again(struct hog hogs[HOGS])
{
	hogs[BAIT].pid = 0;
	hog_start(&hogs[BAIT]);
	require(hog_fill(&hogs[BAIT], 6 * MIB), "the bait fills", "it does not");
}

static void check_kernel_killed_bait(struct hog hogs[HOGS])
{
	check_killed(&hogs[BAIT]);
	check(wait_for(hog_filled(&hogs[GROWER])), "the grower gets its memory", "it does",
	      "it does not");
	check_alive(&hogs[SAFE]);
	check_log("oom_policy=default");
}

static struct policy probe(const char *name, int verdict)
{
	struct policy policy = policy_open("probe", name);

	policy_set_u32(&policy, "verdict", verdict);
	policy_load(&policy);
	policy_attach(&policy);
	return policy;
}

static void check_order(const char *what, struct policy *first, struct policy *second)
{
	uint64_t a = policy_u64(first, "called_ns"), b = policy_u64(second, "called_ns");

	check(a && b && a < b, what, "both called, in load order",
	      "first at %llu ns, second at %llu ns", (unsigned long long)a, (unsigned long long)b);
}

/* The order of the chain is the order of loading, and it follows reloading. */
static void chain_load_order(void)
{
	struct policy one = probe("one", 0), two = probe("two", 0);
	struct hog hogs[HOGS];

	start_oom(hogs);
	hog_order(&hogs[GROWER], 12 * MIB);
	check_kernel_killed_bait(hogs);
	check_order("policies run in load order", &one, &two);

	policy_unload(&one);
	one = probe("one", 0);
	*(uint64_t *)policy_data(&two, "called_ns") = 0;
	again(hogs);
	hog_order(&hogs[GROWER], 6 * MIB);
	check_kernel_killed_bait(hogs);
	check_order("a reloaded policy is the last", &two, &one);
}

/* 0 passes on: the second policy decides, and the log names it. */
static void chain_zero_passes_on(void)
{
	struct policy passes = probe("passes", 0), kills = probe("kills", 1),
		      third = probe("third", 0);
	struct hog hogs[HOGS];

	start_oom(hogs);
	*(int32_t *)policy_data(&kills, "targets") = hogs[SAFE].pid;
	hog_order(&hogs[GROWER], 12 * MIB);
	check_killed(&hogs[SAFE]);
	check(wait_for(hog_filled(&hogs[GROWER])), "the grower gets its memory", "it does",
	      "it does not");
	check_alive(&hogs[BAIT]);
	check_log("oom_policy=kills");
	check(policy_u64(&passes, "nr_calls") > 0, "the first policy was asked", "1 or more", "%llu",
	      (unsigned long long)policy_u64(&passes, "nr_calls"));
	check_int("calls of the policy behind the one that killed", 0,
		  policy_u64(&third, "nr_calls"));
}

/* Who claims progress without having made any is not believed. */
static void chain_false_claim(void)
{
	struct policy liar = probe("liar", 1), second = probe("second", 0);
	struct hog hogs[HOGS];

	start_oom(hogs);
	hog_order(&hogs[GROWER], 12 * MIB);
	check_kernel_killed_bait(hogs);
	check_order("the policy behind the liar is asked", &liar, &second);
}

/* What one policy freed is not to the credit of the next. */
static void chain_memory_freed_is_not_inherited(void)
{
	struct policy kills = probe("kills", 0), next = probe("next", 0);
	struct hog hogs[HOGS];

	start_oom(hogs);
	*(int32_t *)policy_data(&kills, "targets") = hogs[SAFE].pid;
	hog_order(&hogs[GROWER], 12 * MIB);
	check_killed(&hogs[SAFE]);
	check(wait_for(hog_filled(&hogs[GROWER])), "the grower gets its memory", "it does",
	      "it does not");
	check(policy_u64(&next, "nr_calls") > 0, "the next policy was asked", "1 or more", "%llu",
	      (unsigned long long)policy_u64(&next, "nr_calls"));
	check_int("calls that found memory already freed", 0, policy_u32(&next, "freed_on_entry"));
}

static void unloading_restores_default(void)
{
	struct policy policy = policy_start("largest_leaf", "gone_tomorrow");
	struct hog hogs[HOGS];

	start_oom(hogs);
	policy_unload(&policy);
	hog_order(&hogs[GROWER], 12 * MIB);
	/*
	 * No word about the others: without a policy nobody waits until the bait's pages are
	 * really free (see bpf_oom_task_pending() in the series), so the kernel may kill on.
	 */
	check_killed(&hogs[BAIT]);
	check_log("oom_policy=default");
	check_not_log("oom_policy=gone_tomorrow");
}

/* The scope's figures as a policy sees them, against the files of cgroupfs. */
static void memcg_statistics(void)
{
	struct policy policy = probe("reader", 0);
	struct hog cached = { .name = "cached", .cgroup = "t/cached", .file = true };
	long long usage, file;
	struct hog hogs[HOGS];

	cg_make("t/cached", false);
	hog_start(&cached);
	require(hog_fill(&cached, 5 * MIB), "a file fills", "it does not");
	start_oom(hogs);
	hog_order(&hogs[GROWER], 12 * MIB);
	check_killed(&hogs[BAIT]);
	check_int("cgroup id of the OOM's scope", cg_id("t"), policy_u64(&policy, "scope_id"));
	usage = policy_u64(&policy, "scope_usage");
	check(usage > 28 * (long long)MIB && usage <= 30 * (long long)MIB,
	      "usage at the OOM is at the limit of 30 MiB", "28 MiB to 30 MiB", "%lld bytes", usage);
	file = policy_u64(&policy, "scope_file");
	check(file >= 5 * (long long)MIB && file < 7 * (long long)MIB,
	      "page cache at the OOM is the file of 5 MiB", "5 MiB to 7 MiB", "%lld bytes", file);
	check_int("a memcg OOM is not global", 0, policy_u32(&policy, "is_global"));
}

const struct scenario chain_scenarios[] = {
	{ "chain_load_order", "common", chain_load_order },
	{ "chain_zero_passes_on", "common", chain_zero_passes_on },
	{ "chain_false_claim", "common", chain_false_claim },
	{ "chain_memory_freed_is_not_inherited", "common", chain_memory_freed_is_not_inherited },
	{ "unloading_restores_default", "common", unloading_restores_default },
	{ "memcg_statistics", "common", memcg_statistics },
	{ }
};
