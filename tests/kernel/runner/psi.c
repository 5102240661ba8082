// SPDX-License-Identifier: GPL-2.0-or-later
/* The seed's pressure event, pressure_oom, and the life of triggers. */
#include <errno.h>
#include <stdio.h>

#include "harness.h"

#define RESOURCE_IO	0
#define RESOURCE_MEM	1
#define RESOURCE_FULL	0x80000000U

enum { EVENT_RECORDS, EVENT_DECLARES, EVENT_DECLARES_GLOBAL, EVENT_BAD_ORDERS };

/* A cgroup that throttles a process which wants far more: memory pressure. */
static void make_eater(struct hog *eater, const char *cgroup, int high_mib)
{
	*eater = (struct hog){ .name = "eater", .cgroup = cgroup };
	cg_make(cgroup, false);
	cg_set(cgroup, "memory.high", high_mib * MIB);
	cg_set(cgroup, "memory.swap.max", 0);
	hog_start(eater);
}

static struct policy psi_probe(const char *cgroup, uint32_t on_event)
{
	struct policy policy = policy_open("psi_probe", NULL);
	uint64_t id = cgroup ? cg_id(cgroup) : 0;
	uint32_t resource = RESOURCE_MEM | RESOURCE_FULL;

	policy_set(&policy, "watch_id", &id, sizeof(id));
	policy_set(&policy, "watch_resource", &resource, sizeof(resource));
	policy_set_u32(&policy, "nr_watches", 1);
	policy_set_u32(&policy, "on_event", on_event);
	return policy;
}

static void check_declared_kill(struct hog *eater, const char *cgroup)
{
	check_killed(eater);
	check_int("oom_kill", 1, cg_field(cgroup, "memory.events.local", "oom_kill"));
	check_int("oom, which only the charge path raises", 0,
		  cg_field(cgroup, "memory.events", "oom"));
	check_log("oom-kill:constraint=CONSTRAINT_BPF_PSI_MEM,");
}

/* The seed: two triggers, one cgroup goes away, the other one's process dies. */
static void psi_seed(void)
{
	struct policy policy = psi_probe(NULL, EVENT_DECLARES);
	uint32_t resources[2] = { RESOURCE_MEM | RESOURCE_FULL, RESOURCE_IO };
	struct hog eater;
	uint64_t ids[2];

	cg_make("t/cg1", false);
	make_eater(&eater, "t/cg2", 40);
	cg_freeze("t/cg2", true);
	hog_order(&eater, 500 * MIB);
	ids[0] = cg_id("t/cg2");
	ids[1] = cg_id("t/cg1");
	policy_set(&policy, "watch_id", ids, sizeof(ids));
	policy_set(&policy, "watch_resource", resources, sizeof(resources));
	policy_set_u32(&policy, "nr_watches", 2);
	policy_load(&policy);
	policy_attach(&policy);
	check_int("the memory trigger is made", 0, (int32_t)policy_u32(&policy, "watch_results"));
	check_int("the I/O trigger is made", 0, ((int32_t *)policy_data(&policy, "watch_results"))[1]);

	require(cg_remove("t/cg1"), "cg1 goes", "it does not");
	cg_freeze("t/cg2", false);
	check_declared_kill(&eater, "t/cg2");
	check_log("oom_policy=default");
	check(wait_for(policy_u32(&policy, "nr_frees") > 0), "handle_cgroup_free() is called", "once",
	      "never");
	check_int("calls of handle_cgroup_free()", 1, policy_u32(&policy, "nr_frees"));
	check_int("cgroup id it was called with", ids[1], policy_u64(&policy, "frees"));
	check(policy_u32(&policy, "nr_events") > 0, "events", "1 or more", "none");
	check_int("cgroup id of the first event", ids[0], policy_u64(&policy, "events"));
	check_int("errors counted", 0, policy_u64(&policy, "nr_errors"));
	check(wait_for(policy_u32(&policy, "declare_result") == 0), "bpf_out_of_memory()", "0", "%d",
	      (int32_t)policy_u32(&policy, "declare_result"));
}

static struct policy pressure_oom(uint64_t id, uint32_t level)
{
	struct policy policy = policy_open("pressure_oom", NULL);

	policy_set_u64(&policy, "cgroup_id", id);
	policy_set_u32(&policy, "level", level);
	policy_set_u32(&policy, "threshold_us", 100000);
	policy_load(&policy);
	policy_attach(&policy);
	return policy;
}

/* Twice: a trigger that fires once only would let the second process live. */
static void pressure_oom_twice(void)
{
	struct policy oom = policy_start("largest_leaf", "chosen_here");
	struct policy policy;
	struct hog eater;
	int round;

	make_eater(&eater, "t/cg", 40);
	policy = pressure_oom(cg_id("t/cg"), 1);
	hog_order(&eater, 500 * MIB);
	check_declared_kill(&eater, "t/cg");
	check_log("oom_policy=chosen_here");
	for (round = 2; round <= 3; round++) {
		eater.pid = 0;
		hog_start(&eater);
		hog_order(&eater, 500 * MIB);
		check_killed(&eater);
		check_int("oom_kill", round, cg_field("t/cg", "memory.events.local", "oom_kill"));
	}
	check(wait_for(policy_u64(&policy, "nr_declared") >= 3), "OOMs declared", "3 or more", "%llu",
	      (unsigned long long)policy_u64(&policy, "nr_declared"));
	check_int("tasks killed by the OOM policy", 3, policy_u64(&oom, "nr_kills"));
	check_int("oom, which only the charge path raises", 0,
		  cg_field("t/cg", "memory.events", "oom"));
}

/* System-wide: pressure in one place, the largest leaf of the system dies. */
static void pressure_oom_system_wide(void)
{
	struct policy oom = policy_start("largest_leaf", "system_wide");
	struct hog hogs[2] = { { .name = "big", .cgroup = "t/big" } };
	long long kills = vmstat("oom_kill");
	struct policy policy;

	cg_make("t/big", false);
	hog_start(&hogs[0]);
	require(hog_fill(&hogs[0], 120 * MIB), "the big one fills", "it does not");
	make_eater(&hogs[1], "t/eater", 20);
	policy = pressure_oom(0, 0);
	hog_order(&hogs[1], 60 * MIB);
	wait_for(hog_reap(&hogs[0]) || hog_reap(&hogs[1]));
	bpf_link__destroy(policy.link);
	policy.link = NULL;
	check_killed(&hogs[0]);
	check(vmstat("oom_kill") > kills, "oom_kill of /proc/vmstat rises", "it does", "by %lld",
	      vmstat("oom_kill") - kills);
	check_int("oom_kill of the big one", 1, cg_field("t/big", "memory.events.local", "oom_kill"));
	check_log("oom_policy=system_wide");
	check_log("oom-kill:constraint=CONSTRAINT_BPF_PSI_MEM,");
	check_log(",global_oom,task_memcg=/t/big,");
	check(policy_u64(&oom, "nr_kills") > 0, "the OOM policy kills", "it does", "it does not");
}

/* A path that does not exist makes no trigger, and no error. */
static void pressure_oom_missing_cgroup(void)
{
	struct policy policy = pressure_oom(~0ULL, 1);

	check_int("psimon threads", 0, count_threads("psimon"));
	check_int("events", 0, policy_u64(&policy, "nr_calls"));
}

static void psi_bad_orders(void)
{
	struct policy policy;
	struct hog eater;
	int32_t *results;

	make_eater(&eater, "t/cg", 20);
	policy = psi_probe("t/cg", EVENT_BAD_ORDERS);
	policy_load(&policy);
	policy_attach(&policy);
	results = policy_data(&policy, "bad_order_results");
	hog_order(&eater, 500 * MIB);
	check(wait_for(results[0] && results[1]), "the handler runs", "two errors", "%d, %d",
	      results[0], results[1]);
	check_int("order -1, which means sysrq (-EINVAL)", -EINVAL, results[0]);
	check_int("order 99 (-EINVAL)", -EINVAL, results[1]);
	check_alive(&eater);
	check_int("oom_kill", 0, cg_field("t/cg", "memory.events", "oom_kill"));
}

static void psi_failing_init(void)
{
	static const int init_results[] = { -EINVAL, 1 };
	struct policy policy;
	struct hog eater;
	unsigned int i;
	int err;

	make_eater(&eater, "t/cg", 20);
	for (i = 0; i < ARRAY_SIZE(init_results); i++) {
		policy = psi_probe("t/cg", EVENT_RECORDS);
		policy_set_u32(&policy, "init_result", init_results[i]);
		policy_load(&policy);
		err = policy_try_attach(&policy);
		check(err < 0, "attaching fails when init() does", "an error", "%d (init() returned %d)",
		      err, init_results[i]);
		check_int("the trigger had been made", 0,
			  (int32_t)policy_u32(&policy, "watch_results"));
		check(wait_for(!count_threads("psimon")), "no psimon thread is left", "none", "%d",
		      count_threads("psimon"));
		policy_unload(&policy);
	}
	/* And the way is free for one that works. */
	policy = psi_probe("t/cg", EVENT_RECORDS);
	policy_load(&policy);
	policy_attach(&policy);
	hog_order(&eater, 500 * MIB);
	check(wait_for(policy_u32(&policy, "nr_events") > 0), "a later policy gets events",
	      "1 or more", "none");
}

/* A bad watch is refused where it is asked for. */
static void psi_bad_watches(void)
{
	static const struct {
		const char *what;
		uint64_t id;
		uint32_t resource, threshold_us, window_us;
	} bad[] = {
		{ "a cgroup that does not exist", 1ULL << 40, RESOURCE_MEM, 100000, 1000000 },
		{ "an unknown resource", 0, 17, 100000, 1000000 },
		{ "threshold 0", 0, RESOURCE_MEM, 0, 1000000 },
		{ "a threshold above the window", 0, RESOURCE_MEM, 2000000, 1000000 },
		{ "window 0", 0, RESOURCE_MEM, 0, 0 },
		{ "a window above 10 s", 0, RESOURCE_MEM, 100000, 10000001 },
	};
	char what[128];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		struct policy policy = psi_probe(NULL, EVENT_RECORDS);

		policy_set_u64(&policy, "watch_id", bad[i].id);
		policy_set_u32(&policy, "watch_resource", bad[i].resource);
		policy_set_u32(&policy, "threshold_us", bad[i].threshold_us);
		policy_set_u32(&policy, "window_us", bad[i].window_us);
		policy_load(&policy);
		policy_attach(&policy);
		snprintf(what, sizeof(what), "bpf_psi_create_trigger() refuses %s", bad[i].what);
		check((int32_t)policy_u32(&policy, "watch_results") < 0, what, "an errno", "%d",
		      (int32_t)policy_u32(&policy, "watch_results"));
		policy_unload(&policy);
	}
}

/* A removed cgroup takes its trigger and its thread along while the policy stays. */
static void psi_removed_cgroup(void)
{
	struct policy policy;
	uint64_t id;

	cg_make("t/cg", false);
	id = cg_id("t/cg");
	policy = psi_probe("t/cg", EVENT_RECORDS);
	policy_load(&policy);
	policy_attach(&policy);
	check(wait_for(count_threads("psimon") == 1), "the trigger has a psimon thread", "1", "%d",
	      count_threads("psimon"));
	require(cg_remove("t/cg"), "the cgroup goes", "it does not");
	check(wait_for(policy_u32(&policy, "nr_frees") > 0), "handle_cgroup_free() is called", "once",
	      "never");
	check_int("cgroup id it was called with", id, policy_u64(&policy, "frees"));
	check(wait_for(!count_threads("psimon")), "the thread is gone", "0", "%d",
	      count_threads("psimon"));
	policy_unload(&policy);
	cg_make("t/cg", false);
	policy = psi_probe("t/cg", EVENT_RECORDS);
	policy_load(&policy);
	policy_attach(&policy);
	check_int("a new cgroup of that name can be watched", 0,
		  (int32_t)policy_u32(&policy, "watch_results"));
}

/* Loading and unloading again and again while events fire. */
static void psi_unload_under_pressure(void)
{
	struct policy policy;
	int round, fired = 0;
	struct hog eater;

	make_eater(&eater, "t/cg", 20);
	hog_order(&eater, 500 * MIB);
	for (round = 0; round < 24; round++) {
		policy = psi_probe(round % 4 == 3 ? NULL : "t/cg", EVENT_RECORDS);
		policy_set_u32(&policy, "threshold_us", 1000);
		policy_set_u32(&policy, "window_us", 20000);
		policy_load(&policy);
		policy_attach(&policy);
		/* Every other round leaves at once, while the first event may be on its way. */
		if (round % 2 == 0)
			fired += wait_for(policy_u32(&policy, "nr_events") > 0);
		policy_unload(&policy);
	}
	check_int("rounds of those that waited for an event and got it", 12, fired);
	check(wait_for(!count_threads("psimon")), "no psimon thread is left", "none", "%d",
	      count_threads("psimon"));
	check_alive(&eater);
}

const struct scenario psi_scenarios[] = {
	{ "psi_seed", "common", psi_seed },
	{ "pressure_oom_twice", "common", pressure_oom_twice },
	{ "pressure_oom_system_wide", "common", pressure_oom_system_wide },
	{ "pressure_oom_missing_cgroup", "common", pressure_oom_missing_cgroup },
	{ "psi_bad_orders", "common", psi_bad_orders },
	{ "psi_bad_watches", "common", psi_bad_watches },
	{ "psi_failing_init", "common", psi_failing_init },
	{ "psi_removed_cgroup", "common", psi_removed_cgroup },
	{ "psi_unload_under_pressure", "common", psi_unload_under_pressure },
	{ }
};
