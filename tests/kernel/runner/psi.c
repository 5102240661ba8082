// SPDX-License-Identifier: GPL-2.0-or-later
/* The seed's pressure event, pressure_oom, and the life of triggers. */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "harness.h"

#define RESOURCE_IO	0
#define RESOURCE_MEM	1
#define RESOURCE_FULL	0x80000000U
#define RESOURCE_AVERAGES 0x40000000U

enum { EVENT_RECORDS, EVENT_DECLARES, EVENT_DECLARES_GLOBAL, EVENT_BAD_ORDERS, EVENT_TRIES };

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

/*
 * Microseconds that some task of the cgroup was stalled for memory, ever. Each reading
 * closes a sample, and one of less than a jiffy counts nothing: do not read it all the time.
 */
static long long psi_total(const char *cgroup)
{
	char path[128], text[256] = "";
	const char *total;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/fs/cgroup/%s/memory.pressure", cgroup);
	file = fopen(path, "r");
	require(file && fgets(text, sizeof(text), file), "a pressure file can be read", "%s", path);
	fclose(file);
	total = strstr(text, "total=");
	return total ? atoll(total + strlen("total=")) : -1;
}

static void check_declared_kill(struct hog *eater, const char *cgroup)
{
	check_killed(eater);
	check_int("oom_kill", 1, cg_field(cgroup, "memory.events.local", "oom_kill"));
	check_int("oom, which only the charge path raises", 0,
		  cg_field(cgroup, "memory.events", "oom"));
	check_constraint("CONSTRAINT_BPF_PSI_MEM");
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
	check(wait_for(policy_u32(&policy, "declare_result") == 1), "bpf_out_of_memory() tells of progress",
	      "1", "%d", (int32_t)policy_u32(&policy, "declare_result"));
}

static struct policy pressure_oom(const char *scope, uint32_t level)
{
	struct policy policy = policy_open("pressure_oom", NULL);

	if (scope)
		policy_select(&policy, "scope", scope);
	policy_set_u32(&policy, "level", level);
	policy_set_u32(&policy, "threshold_us", 100000);
	policy_set_u32(&policy, "cooldown_ms", 0);
	policy_set_u32(&policy, "free_memory_below_percent", 100);	/* a cgroup has the pressure */
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
	policy = pressure_oom("/t/cg", 1);
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
	policy = pressure_oom(NULL, 0);
	hog_order(&hogs[1], 60 * MIB);
	wait_for(hog_reap(&hogs[0]) || hog_reap(&hogs[1]));
	bpf_link__destroy(policy.link);
	policy.link = NULL;
	check_killed(&hogs[0]);
	check(vmstat("oom_kill") > kills, "oom_kill of /proc/vmstat rises", "it does", "by %lld",
	      vmstat("oom_kill") - kills);
	check_int("oom_kill of the big one", 1, cg_field("t/big", "memory.events.local", "oom_kill"));
	check_log("oom_policy=system_wide");
	check_constraint("CONSTRAINT_BPF_PSI_MEM");
	check_log(",global_oom,task_memcg=/t/big,");
	check(policy_u64(&oom, "nr_kills") > 0, "the OOM policy kills", "it does", "it does not");
}

/* A path that does not exist makes no trigger, and no error. */
static void pressure_oom_missing_cgroup(void)
{
	struct policy policy = pressure_oom("/t/nowhere", 1);

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

/* A cgroup with two triggers goes once. */
static void psi_free_is_told_once(void)
{
	uint32_t resources[2] = { RESOURCE_MEM | RESOURCE_FULL, RESOURCE_MEM };
	struct policy policy = policy_open("psi_probe", NULL);
	uint64_t ids[2];

	cg_make("t/cg", false);
	cg_make("t/other", false);
	ids[0] = ids[1] = cg_id("t/cg");
	policy_set(&policy, "watch_id", ids, sizeof(ids));
	policy_set(&policy, "watch_resource", resources, sizeof(resources));
	policy_set_u32(&policy, "nr_watches", 2);
	policy_load(&policy);
	policy_attach(&policy);
	check_int("the first trigger is made", 0, ((int32_t *)policy_data(&policy, "watch_results"))[0]);
	check_int("the second trigger is made", 0, ((int32_t *)policy_data(&policy, "watch_results"))[1]);
	require(cg_remove("t/cg"), "the cgroup goes", "it does not");
	check(wait_for(policy_u32(&policy, "nr_frees") && !count_threads("psimon")),
	      "the cgroup and its thread go", "they do", "%u told, %d threads",
	      policy_u32(&policy, "nr_frees"), count_threads("psimon"));
	/* Who is unloaded has been told all. */
	bpf_link__destroy(policy.link);
	policy.link = NULL;
	check_int("calls of handle_cgroup_free()", 1, policy_u32(&policy, "nr_frees"));
}

/* With a text of the program's own, too, oom_score_adj weighs: the smaller one dies. */
static void declared_oom_weighs_score_adj(void)
{
	struct hog adjusted = { .name = "adjusted", .cgroup = "t/cg", .adj = 600 };
	struct policy policy;
	struct hog eater;

	make_eater(&eater, "t/cg", 40);
	hog_start(&adjusted);
	require(hog_fill(&adjusted, 10 * MIB), "a hog fills", "it does not");
	policy = psi_probe("t/cg", EVENT_DECLARES);
	policy_load(&policy);
	policy_attach(&policy);
	hog_order(&eater, 500 * MIB);
	check_killed(&adjusted);
	check_constraint("CONSTRAINT_BPF_PSI_MEM");
	check(strstr(klog(), "(adjusted)") && (!strstr(klog(), "(eater)") ||
					       strstr(klog(), "(adjusted)") < strstr(klog(), "(eater)")),
	      "it is the first", "before the eater", "%s", strstr(klog(), "(eater)") ? "after" : "not at all");
}

/* A loader in a cgroup namespace, as in a container, watches cgroups outside of it. */
static void psi_from_a_cgroup_namespace(void)
{
	struct policy policy;
	int status;
	pid_t pid;

	cg_make("t/inside", false);
	cg_make("t/outside", false);
	policy = psi_probe("t/outside", EVENT_RECORDS);
	policy_load(&policy);
	pid = fork();
	if (!pid) {
		cg_join("t/inside", getpid());
		_exit(unshare(CLONE_NEWCGROUP) ? 1 : policy_try_attach(&policy) ? 2 : 0);
	}
	require(pid > 0 && waitpid(pid, &status, 0) == pid, "a loader runs", "%s", strerror(errno));
	check_int("status of the loader", 0, status);
	check_int("the trigger outside is made", 0, (int32_t)policy_u32(&policy, "watch_results"));
}

/* The text of a program may be constant, writable, on its stack, or nowhere at all. */
static void psi_constraint_texts(void)
{
	static const char * const printed[] = {
		"CONSTANT", "WRITABLE", "ON_STACK", "CONSTRAINT_BPF", "CONSTRAINT_BPF",
		"TWO?WORDS?AND?LINES,?AND?MORE?THAN?THE?KERNEL?HAS?A?PLACE?FOR?I",
	};
	struct policy policy;
	struct hog eater;

	make_eater(&eater, "t/cg", 40);
	for (unsigned int i = 0; i < ARRAY_SIZE(printed); i++) {
		if (i) {
			eater.pid = 0;
			hog_start(&eater);
		}
		policy = policy_open("psi_texts", NULL);
		policy_set_u64(&policy, "watch_id", cg_id("t/cg"));
		policy_set_u32(&policy, "kind_of_text", i);
		policy_load(&policy);
		policy_attach(&policy);
		hog_order(&eater, 500 * MIB);
		check_killed(&eater);
		check_constraint(printed[i]);
		policy_unload(&policy);
	}
}

/*
 * Who does not wait is told that another OOM is being handled. The two handlers wait for
 * each other: nobody else might get a CPU while both are running.
 */
static void declaring_without_waiting(void)
{
	struct policy busy = policy_open("probe", "busy"), policy;
	struct hog grower = { .name = "grower", .cgroup = "t/scope" };
	struct hog eater;

	policy_set_u32(&busy, "busy_ms", 10000);
	policy_load(&busy);
	policy_attach(&busy);
	cg_make("t/scope", false);
	cg_set("t/scope", "memory.max", 10 * MIB);
	cg_set("t/scope", "memory.swap.max", 0);
	make_eater(&eater, "t/cg", 20);
	hog_start(&grower);
	policy = psi_probe("t/cg", EVENT_TRIES);
	map_share(&policy, &busy, "meet");
	policy_load(&policy);
	*(int32_t *)policy_data(&policy, "declare_result") = 12345;
	policy_attach(&policy);
	hog_order(&eater, 500 * MIB);
	require(wait_for(policy_u32(&policy, "nr_events")), "pressure is told of", "it is not");
	hog_order(&grower, 20 * MIB);
	check(wait_for(policy_u32(&policy, "declare_result") != 12345), "bpf_out_of_memory() ends", "it does",
	      "it does not");
	check_int("its result without waiting (-EBUSY)", -EBUSY, (int32_t)policy_u32(&policy, "declare_result"));
	check_killed(&grower);
}

static struct policy psi_online(const char *parent)
{
	struct policy policy = policy_open("psi_online", NULL);

	policy_set_u64(&policy, "parent_id", cg_id(parent));
	return policy;
}

#define GONE	(1ULL << 63)

static int times_told(struct policy *policy, uint64_t what)
{
	uint64_t *told = policy_data(policy, "told");
	int i, found = 0, count = policy_u32(policy, "nr_told");

	for (i = 0; i < count && i < 4096; i++)
		found += told[i] == what;
	return found;
}

/* Each id first comes, then goes, each once. */
static void check_told(struct policy *policy, const uint64_t *ids, int count)
{
	uint64_t *told = policy_data(policy, "told");
	int i, at, online, gone, wrong = 0, total = policy_u32(policy, "nr_told");

	for (i = 0; i < count; i++) {
		online = gone = -1;
		for (at = 0; at < total && at < 4096; at++) {
			if (told[at] == ids[i])
				online = at;
			if (told[at] == (ids[i] | GONE))
				gone = at;
		}
		/* One that went before its turn is not told at all. */
		wrong += gone >= 0 && (online < 0 || online > gone);
		wrong += times_told(policy, ids[i]) > 1 || times_told(policy, ids[i] | GONE) > 1;
	}
	check_int("cgroups that were told of in another order than come, go, or twice", 0, wrong);
}

/*
 * A service that restarts 200 times gets 200 cgroups. The last one is as watched as the
 * first, and of the others no thread and no memcg is left.
 */
static void psi_restarted_service(void)
{
	struct policy policy;
	long long dying = cg_field("", "cgroup.stat", "nr_dying_descendants");
	bool declares = true;
	uint64_t ids[200];
	struct hog eater;
	int i;

	cg_make("t/services", true);
	policy = psi_online("t/services");
	policy_set(&policy, "declares", &declares, 1);
	policy_load(&policy);
	policy_attach(&policy);
	for (i = 0; i < 200; i++) {
		cg_make("t/services/db", false);
		ids[i] = cg_id("t/services/db");
		if (i % 4 == 0)		/* some live long enough to be watched */
			require(wait_for((int)policy_u32(&policy, "nr_watched") > i / 4),
				"a new cgroup is watched", "%u are after %d", policy_u32(&policy, "nr_watched"), i);
		if (i < 199)
			require(cg_remove("t/services/db"), "the cgroup goes", "it does not");
	}
	cg_set("t/services/db", "memory.high", 20 * MIB);
	cg_set("t/services/db", "memory.swap.max", 0);
	eater = (struct hog){ .name = "eater", .cgroup = "t/services/db" };
	hog_start(&eater);
	hog_order(&eater, 500 * MIB);
	check_killed(&eater);
	check_constraint("CONSTRAINT_BPF_PSI_MEM");
	check_int("oom_kill of the last cgroup", 1, cg_field("t/services/db", "memory.events.local", "oom_kill"));
	check_told(&policy, ids, 200);
	check(wait_for(count_threads("psimon") == 1), "psimon threads", "1", "%d", count_threads("psimon"));
	check_int("errors of the last triggers", 0, (int32_t)policy_u32(&policy, "last_error"));
	check_int("creating a trigger in an event handler (-EINVAL)", -EINVAL,
		  (int32_t)policy_u32(&policy, "event_error"));
	require(cg_remove("t/services/db"), "the cgroup goes", "it does not");
	check(wait_for(!count_threads("psimon")), "no thread is left", "0", "%d", count_threads("psimon"));
	check(wait_for(cg_field("", "cgroup.stat", "nr_dying_descendants") <= dying),
	      "dying cgroups are back to their number", "as before", "%lld, were %lld",
	      cg_field("", "cgroup.stat", "nr_dying_descendants"), dying);
	note("%u told, %u watched of 200 cgroups", policy_u32(&policy, "nr_told"),
	     policy_u32(&policy, "nr_watched"));
}

/* What is made while init() runs is told about after it. */
static void psi_online_during_init(void)
{
	struct policy policy = psi_online("t");
	uint64_t ids[20];
	char name[32];
	int i, status;
	pid_t maker;

	policy_set_u32(&policy, "init_ms", 1500);
	policy_load(&policy);
	maker = fork();
	if (!maker) {
		pause_ms(200);
		for (i = 0; i < 20; i++) {
			snprintf(name, sizeof(name), "t/during%d", i);
			cg_make(name, false);
		}
		_exit(0);
	}
	policy_attach(&policy);
	require(waitpid(maker, &status, 0) == maker && !status, "cgroups are made", "they are not");
	for (i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "t/during%d", i);
		ids[i] = cg_id(name);
	}
	check(wait_for(policy_u32(&policy, "nr_watched") == 20), "cgroups made while init() ran are watched",
	      "20", "%u", policy_u32(&policy, "nr_watched"));
	check_told(&policy, ids, 20);
	check_int("errors", 0, (int32_t)policy_u32(&policy, "last_error"));
}

/*
 * More than the kernel remembers, and all at once: it looks at all cgroups then, tells of each
 * once, and of none that was there before.
 */
#define MANY	1500

static void psi_many_during_init(void)
{
	struct policy policy;
	char name[32];
	pid_t maker;
	int i, status;

	cg_make("t/before", false);
	cg_make("t/elsewhere", false);
	policy = psi_online("t/elsewhere");	/* told of all, watches none */
	policy_set_u32(&policy, "init_ms", 6000);
	policy_load(&policy);
	maker = fork();
	if (!maker) {
		pause_ms(200);
		for (i = 0; i < MANY; i++) {
			snprintf(name, sizeof(name), "t/many%d", i);
			cg_make(name, false);
		}
		_exit(0);
	}
	policy_attach(&policy);
	require(waitpid(maker, &status, 0) == maker && !status, "cgroups are made", "they are not");
	check(wait_for(policy_u32(&policy, "nr_told") == MANY), "each is told of", "1500", "%u",
	      policy_u32(&policy, "nr_told"));
	pause_ms(200);
	check_int("and none twice, nor one from before", MANY, policy_u32(&policy, "nr_told"));
	cg_make("t/after", false);
	check(wait_for(policy_u32(&policy, "nr_told") == MANY + 1), "who comes after is told of", "one more",
	      "%u", policy_u32(&policy, "nr_told"));
}

/* Small objects of the kernel, of whatever kind. */
static long long small_objects(void)
{
	FILE *file = fopen("/proc/slabinfo", "r");
	char line[512], name[64];
	long long sum = 0, active;

	require(file, "/proc/slabinfo can be read", "%s", strerror(errno));
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "%63s %lld", name, &active) == 2 && !strncmp(name, "kmalloc", 7) &&
		    strlen(name) > 3 && !strcmp(name + strlen(name) - 3, "-32"))
			sum += active;
	fclose(file);
	return sum;
}

/*
 * Who is late by more than is remembered is told of each once, of none twice; and what is
 * remembered takes no memory, however many cgroups come and go.
 */
static void psi_late_for_many(void)
{
	struct policy policy;
	uint32_t end = 2, yes = 1;	/* MEET_DONE */
	long long before, grown;
	char name[32];
	int i;

	cg_make("t/elsewhere", false);
	policy = psi_online("t/elsewhere");	/* told of all, watches none */
	policy_set_u32(&policy, "online_ms", 120000);
	policy_load(&policy);
	policy_attach(&policy);
	cg_make("t/first", false);
	require(wait_for(policy_u32(&policy, "nr_told") == 1), "the first is told of", "it is not");
	for (i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "t/late%d", i);
		cg_make(name, false);
	}
	keep_going();
	before = small_objects();
	for (i = 0; i < MANY; i++) {
		cg_make("t/churn", false);
		require(cg_remove("t/churn"), "a cgroup goes", "it does not");
	}
	wait_for_ms((grown = small_objects() - before) < MANY / 2, 5000);
	check(grown < MANY / 2, "small objects that 1500 cgroups leave which came and went", "hardly any", "%lld", grown);
	check_int("told of meanwhile", 1, policy_u32(&policy, "nr_told"));
	require(!bpf_map__update_elem(bpf_object__find_map_by_name(policy.object, "meet"), &end, sizeof(end), &yes,
				      sizeof(yes), BPF_ANY), "the handler is let go", "it is not");
	check(wait_for(policy_u32(&policy, "nr_told") == MANY + 1), "each is told of", "1501", "%u",
	      policy_u32(&policy, "nr_told"));
	pause_ms(200);
	check_int("and none twice", MANY + 1, policy_u32(&policy, "nr_told"));
	cg_make("t/after", false);
	check(wait_for(policy_u32(&policy, "nr_told") == MANY + 2), "who comes after is told of", "one more", "%u",
	      policy_u32(&policy, "nr_told"));
}

/* A trigger that is there already is not made twice. */
static void psi_same_trigger_twice(void)
{
	struct policy policy = psi_online("t");
	bool twice = true;

	policy_set(&policy, "twice", &twice, 1);
	policy_load(&policy);
	policy_attach(&policy);
	cg_make("t/cg", false);
	check(wait_for(policy_u32(&policy, "twice_error")), "the second one is refused", "an error", "none");
	check_int("with -EEXIST", -EEXIST, (int32_t)policy_u32(&policy, "twice_error"));
	check_int("triggers made", 1, policy_u32(&policy, "nr_watched"));
}

/* A wide pattern cannot make triggers without limit, and who goes makes room. */
static void psi_trigger_cap(void)
{
	struct policy policy = psi_online("t");
	char name[32];
	int i;

	sysctl_write("kernel/bpf_psi_max_triggers", "3");
	policy_load(&policy);
	policy_attach(&policy);
	for (i = 0; i < 5; i++) {
		snprintf(name, sizeof(name), "t/cg%d", i);
		cg_make(name, false);
	}
	check(wait_for(policy_u32(&policy, "nr_told") == 5), "cgroups told about", "5", "%u",
	      policy_u32(&policy, "nr_told"));
	check(wait_for(policy_u32(&policy, "last_error")), "one too many is refused", "an error", "none");
	check_int("triggers made", 3, policy_u32(&policy, "nr_watched"));
	check_int("psimon threads", 3, count_threads("psimon"));
	check_int("the error (-ENOSPC)", -ENOSPC, (int32_t)policy_u32(&policy, "last_error"));
	require(cg_remove("t/cg0"), "a cgroup goes", "it does not");
	cg_make("t/cg9", false);
	check(wait_for(policy_u32(&policy, "nr_watched") == 4), "a cgroup that goes makes room", "4", "%u",
	      policy_u32(&policy, "nr_watched"));
	sysctl_write("kernel/bpf_psi_max_triggers", "256");
}

/* The averaging aggregator: an event within its two seconds, and no thread. */
static void psi_averages(void)
{
	struct policy policy;
	struct hog eater;

	make_eater(&eater, "t/cg", 20);
	policy = psi_probe("t/cg", EVENT_DECLARES);
	policy_set_u32(&policy, "watch_resource", RESOURCE_MEM | RESOURCE_FULL | RESOURCE_AVERAGES);
	policy_set_u32(&policy, "window_us", 2000000);
	policy_load(&policy);
	policy_attach(&policy);
	check_int("the trigger is made", 0, (int32_t)policy_u32(&policy, "watch_results"));
	hog_order(&eater, 500 * MIB);
	check_declared_kill(&eater, "t/cg");
	check_int("psimon threads", 0, count_threads("psimon"));
	policy_unload(&policy);

	policy = psi_probe("t/cg", EVENT_RECORDS);
	policy_set_u32(&policy, "watch_resource", RESOURCE_MEM | RESOURCE_AVERAGES);
	policy_set_u32(&policy, "window_us", 1000000);
	policy_load(&policy);
	policy_attach(&policy);
	check_int("a window that is no multiple of two seconds (-EINVAL)", -EINVAL,
		  (int32_t)policy_u32(&policy, "watch_results"));
}

/* What a cgroup went through before does not count: a trigger on the averages begins anew. */
static void psi_averages_forget_the_past(void)
{
	struct policy policy;
	struct hog eater;
	long long stalled;
	int tries;

	make_eater(&eater, "t/cg", 20);
	hog_order(&eater, 500 * MIB);
	/* Far more stall than the threshold below, all of it before. */
	require(wait_for((pause_ms(500), psi_total("t/cg")) > 3000000), "the cgroup stalls", "it does for %lld us",
		psi_total("t/cg"));
	cg_write("t/cg", "memory.high", "max");
	cg_freeze("t/cg", true);
	policy = psi_probe("t/cg", EVENT_RECORDS);
	policy_set_u32(&policy, "watch_resource", RESOURCE_MEM | RESOURCE_AVERAGES);
	policy_set_u32(&policy, "threshold_us", 1900000);
	policy_set_u32(&policy, "window_us", 2000000);
	policy_load(&policy);
	policy_attach(&policy);
	check_int("the trigger is made", 0, (int32_t)policy_u32(&policy, "watch_results"));
	/* A little stall, so that somebody looks; then as long as two looks take. */
	pause_ms(500);
	stalled = psi_total("t/cg");
	for (tries = 0; tries < 20 && psi_total("t/cg") == stalled; tries++) {
		cg_set("t/cg", "memory.high", cg_value("t/cg", "memory.current") - MIB);
		cg_freeze("t/cg", false);
		pause_ms(50);
		cg_freeze("t/cg", true);
		cg_write("t/cg", "memory.high", "max");
		pause_ms(100);
	}
	check(psi_total("t/cg") > stalled, "there is a little stall", "some", "none");
	check(psi_total("t/cg") - stalled < 1500000, "it is less than the threshold", "less", "%lld us",
	      psi_total("t/cg") - stalled);
	pause_ms(4500);
	check_int("events", 0, policy_u32(&policy, "nr_events"));
}

/* The library's policy follows a service through its restarts, by a glob of its path. */
static void pressure_oom_follows_restart(void)
{
	static const char * const service = "t/a.slice/we\\x2dird@1.service";
	struct policy policy = pressure_oom("/t/*.slice/we\\x2dird@*.service", 1);
	struct hog eater;
	int round;

	/* Not there yet, and neighbours that the glob does not stand for. */
	cg_make("t/a.slice", true);
	cg_make("t/a.slice/we\\x2dird@1.servic", false);
	cg_make("t/a.slice/e\\x2dird@1.service", false);
	for (round = 1; round <= 3; round++) {
		make_eater(&eater, service, 20);
		check(wait_for(policy_u64(&policy, "nr_watched") == (uint64_t)round),
		      "the service is watched as often as it started", "once each", "%llu after %d",
		      (unsigned long long)policy_u64(&policy, "nr_watched"), round);
		hog_order(&eater, 500 * MIB);
		check_killed(&eater);
		require(cg_remove(service), "the cgroup goes", "it does not");
	}
	check_int("errors", 0, policy_u64(&policy, "nr_errors"));
	check(wait_for(!count_threads("psimon")), "no thread is left", "0", "%d", count_threads("psimon"));
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
	{ "psi_free_is_told_once", "common", psi_free_is_told_once },
	{ "declared_oom_weighs_score_adj", "common", declared_oom_weighs_score_adj },
	{ "psi_from_a_cgroup_namespace", "common", psi_from_a_cgroup_namespace },
	{ "psi_constraint_texts", "common", psi_constraint_texts },
	{ "declaring_without_waiting", "common", declaring_without_waiting },
	{ "psi_restarted_service", "common", psi_restarted_service },
	{ "psi_online_during_init", "common", psi_online_during_init },
	{ "psi_many_during_init", "common", psi_many_during_init },
	{ "psi_late_for_many", "common", psi_late_for_many },
	{ "psi_same_trigger_twice", "common", psi_same_trigger_twice },
	{ "psi_trigger_cap", "common", psi_trigger_cap },
	{ "psi_averages", "common", psi_averages },
	{ "psi_averages_forget_the_past", "common", psi_averages_forget_the_past },
	{ "pressure_oom_follows_restart", "common", pressure_oom_follows_restart },
	{ "psi_unload_under_pressure", "common", psi_unload_under_pressure },
	{ }
};
