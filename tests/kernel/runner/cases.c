// SPDX-License-Identifier: GPL-2.0-or-later
/* What people reported of other OOM daemons, as small inputs with the right value. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#include "actors.h"
#include "decision.h"

static const char * const as_kernel[] = { "adj_weight=100", NULL };
static const char * const process_as_kernel[] = { "victim=0", "adj_weight=100", NULL };

/* The last decision of a policy. */
static void last_decision(struct policy *policy, struct decision *decision)
{
	check(wait_for(policy_u64(policy, "nr_decisions")), "there is a decision", "1 or more", "none");
	require(policy_decision(policy, policy_u64(policy, "nr_decisions"), decision), "it can be read", "it cannot");
}

/* Of two pods on a node of 128 MiB the one far above its request, though the other one's adj is higher. */
static void pod_above_its_request(const char *object, const char * const *words)
{
	struct policy policy = start(object, "pods", words, true);
	struct hog hogs[] = {
		{ .name = "p1", .cgroup = "t/p1", .adj = 515 }, { .name = "p2", .cgroup = "t/p2", .adj = 484 },
	};

	cg_make("t/p1", false);
	cg_make("t/p2", false);
	cg_set("t/p1", "memory.low", 62 * MIB);
	cg_set("t/p2", "memory.low", 66 * MIB);
	actor_start(&hogs[0], "anon", 0, 28);
	actor_start(&hogs[1], "anon", 0, 100);
	oom_among(&policy, hogs, 2);
	check_alive(&hogs[0]);
	check_killed(&hogs[1]);
	check_killed_somewhere(&policy);
}

static void pod_above_its_request_by_leaf(void) { pod_above_its_request("largest_leaf", as_kernel); }
static void pod_above_its_request_by_process(void) { pod_above_its_request("largest_process", process_as_kernel); }
static void pod_above_its_request_by_request(void) { pod_above_its_request("over_request", as_kernel); }
static void pod_above_its_request_by_priority(void) { pod_above_its_request("by_priority", NULL); }

static void small_sidecar_is_not_the_culprit(void)
{
	struct policy policy = start("over_request", "pods", NULL, true);
	struct hog hogs[] = {
		{ .name = "main", .cgroup = "t/main", .adj = 700 }, { .name = "sidecar", .cgroup = "t/sidecar", .adj = 998 },
	};

	cg_make("t/main", false);
	cg_make("t/sidecar", false);
	cg_set("t/main", "memory.low", 40 * MIB);
	cg_set("t/sidecar", "memory.low", 1 * MIB);
	actor_start(&hogs[0], "anon", 0, 60);
	actor_start(&hogs[1], "anon", 0, 2);
	oom_among(&policy, hogs, 2);
	check_killed(&hogs[0]);
	check_alive(&hogs[1]);
	check_killed_somewhere(&policy);
}

/* A MiB less in memory, where the kernel finds one. */
static void swap_out(const char *cgroup)
{
	char path[100];
	int fd;

	snprintf(path, sizeof(path), CGROUPS "%s/memory.reclaim", cgroup);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	require(fd >= 0, "memory can be reclaimed", "%s", strerror(errno));
	/* EAGAIN: not as much as that. */
	require(write(fd, "1M", 2) == 2 || errno == EAGAIN, "memory can be reclaimed", "%s", strerror(errno));
	close(fd);
}

/* What is swapped a kill gives back, too, when swap is full. */
static void full_swap_counts(const char *object, const char * const *words)
{
	struct policy policy;
	struct hog hogs[] = { { .name = "swapped", .cgroup = "t/a" }, { .name = "resident", .cgroup = "t/b" } };

	disk_swap_on(60);
	policy = start(object, "swap", words, true);
	cg_make("t/a", false);
	cg_make("t/b", false);
	actor_start(&hogs[0], "anon", 0, 66);
	check(wait_for((swap_out("t/a"), cg_value("t/a", "memory.swap.current") > (long long)(55 * MIB))), "it is swapped",
	      "more than 55 MiB", "%lld bytes", cg_value("t/a", "memory.swap.current"));
	actor_start(&hogs[1], "anon", 0, 25);
	note("t/a has %lld MiB and %lld in swap", cg_value("t/a", "memory.current") >> 20,
	     cg_value("t/a", "memory.swap.current") >> 20);
	cg_set("t", "memory.max", cg_value("t", "memory.current") + MIB);
	cg_make("t/grower", false);
	hog_start(&grower);
	hog_order(&grower, 12 * MIB);
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	tell(&policy, hogs, 2);
	check_killed(&hogs[0]);
	check_alive(&hogs[1]);
	check_killed_somewhere(&policy);
	put_file(CGROUPS "t/cgroup.kill", "1");
	swapoff("/dev/vda");
}

static const char * const one_process[] = { "victim=0", NULL };
static void full_swap_counts_for_leaves(void) { full_swap_counts("largest_leaf", NULL); }
static void full_swap_counts_for_processes(void) { full_swap_counts("largest_process", one_process); }

/* The limit of a pod is not that of its container: which one a scope has to name. */
static void of_a_pod(const char * const *words, bool in_scope)
{
	struct policy policy = start("largest_leaf", "pod", words, true);
	struct hog hogs[] = { { .name = "main", .cgroup = "t/pod/main" }, { .name = "side", .cgroup = "t/pod/side" } };

	cg_make("t/pod", true);
	cg_make("t/pod/main", false);
	cg_make("t/pod/side", false);
	actor_start(&hogs[0], "anon", 0, 20);
	actor_start(&hogs[1], "anon", 0, 8);
	cg_set("t/pod", "memory.swap.max", 0);
	cg_set("t/pod", "memory.max", cg_value("t/pod", "memory.current") + MIB);
	grower.cgroup = "t/pod/grower";
	cg_make("t/pod/grower", false);
	hog_start(&grower);
	hog_order(&grower, 4 * MIB);
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	tell(&policy, hogs, 2);
	check_int("OOMs that are not its", in_scope ? 0 : 1, policy_u64(&policy, "nr_out_of_scope"));
	check_int("kills", in_scope ? 1 : 0, policy_u64(&policy, "nr_kills"));
	check_killed(&hogs[0]);
	check_alive(&hogs[1]);
}

static void oom_of_a_pod_is_not_its_containers(void)
{
	static const char * const words[] = { "scope+/t/pod/*", NULL };

	of_a_pod(words, false);
}

static void oom_of_a_pod_is_the_pods(void)
{
	static const char * const words[] = { "scope+/t/po*", NULL };

	of_a_pod(words, true);
}

/* A container with memory.oom.group dies as one, without it the worker alone. */
static void worker_and_main(int oom_group)
{
	struct policy policy = start("largest_leaf", "container", one_process, true);
	struct hog hogs[] = { { .name = "main", .cgroup = "t/c" }, { .name = "worker", .cgroup = "t/c" } };
	struct decision decision;

	cg_make("t/c", false);
	cg_set("t/c", "memory.oom.group", oom_group);
	actor_start(&hogs[0], "anon", 0, 2);
	actor_start(&hogs[1], "anon", 0, 30);
	oom_among(&policy, hogs, 2);
	check_killed(&hogs[1]);
	if (oom_group)
		check_killed(&hogs[0]);
	else
		check_alive(&hogs[0]);
	check_int("oom_kill of the container", 1 + oom_group, cg_field("t/c", "memory.events.local", "oom_kill"));
	check_int("kills of the policy", 1, policy_u64(&policy, "nr_kills"));
	last_decision(&policy, &decision);
	check_int("deaths in the record", 1 + oom_group, decision.nr_died);
}

static void container_dies_as_one(void) { worker_and_main(1); }
static void worker_dies_alone(void) { worker_and_main(0); }

/* The limit is lowered below what is there: the one who writes it waits for the kill, and comes back. */
static void limit_from_outside(int adj, const char * const *words, bool dies_by_policy)
{
	struct policy policy = start("largest_leaf", "outside", words, false);
	struct hog hogs[] = { { .name = "one", .cgroup = "t/c", .adj = adj }, { .name = "two", .cgroup = "t/d" } };
	pid_t writer;

	cg_make("t/c", false);
	cg_make("t/d", false);
	actor_start(&hogs[0], "anon", 0, 30);
	actor_start(&hogs[1], "anon", 0, 40);
	cg_set("t/c", "memory.swap.max", 0);
	writer = fork();
	if (!writer) {
		put_file(CGROUPS "t/c/memory.max", "10M");
		_exit(0);
	}
	check(wait_for(waitpid(writer, NULL, WNOHANG) == writer), "the write returns", "it does", "it does not");
	tell(&policy, hogs, 2);
	check_alive(&hogs[1]);
	if (adj == -1000)
		check_alive(&hogs[0]);
	else
		check_killed(&hogs[0]);
	check_int("kills of the policy", dies_by_policy, policy_u64(&policy, "nr_kills"));
}

static void lowered_limit_kills_inside(void) { limit_from_outside(0, NULL, true); }
static void lowered_limit_among_unkillable_returns(void) { limit_from_outside(-1000, NULL, false); }
static void lowered_limit_among_protected_returns(void)
{
	static const char * const words[] = { "protect+name:one", NULL };

	/* There is nobody else in it: the kernel chooses. */
	limit_from_outside(0, words, false);
}

/* The record keeps the path of a cgroup that is gone as soon as all in it have died. */
static void path_of_a_cgroup_that_went_at_once(void)
{
	static const char * const words[] = { "victim=2", NULL };
	struct policy policy = start("largest_leaf", "gone", words, true);
	struct hog hogs[] = {
		{ .name = "m1", .cgroup = "t/gone" }, { .name = "m2", .cgroup = "t/gone" }, { .name = "m3", .cgroup = "t/gone" },
		{ .name = "m4", .cgroup = "t/gone" }, { .name = "m5", .cgroup = "t/gone" },
	};
	long long kills = vmstat("oom_kill");
	struct decision decision;
	unsigned int i;

	cg_make("t/gone", false);
	cg_set("t/gone", "memory.oom.group", 1);
	for (i = 0; i < ARRAY_SIZE(hogs); i++)
		actor_start(&hogs[i], "anon", 0, 6);
	limit();
	provoke();
	for (i = 0; i < ARRAY_SIZE(hogs); i++)
		wait_for(hog_reap(&hogs[i]));
	check(cg_remove("t/gone"), "the cgroup goes", "it does", "it stays");
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	last_decision(&policy, &decision);
	check_int("deaths in the record", 5, decision.nr_died);
	check_int("oom_kill of /proc/vmstat", kills + 5, vmstat("oom_kill"));
	for (i = 0; i < ARRAY_SIZE(hogs); i++)
		check(!strcmp(decision.died[i].path, "/t/gone"), "the path of who died", "/t/gone", "%s", decision.died[i].path);
	check(!strcmp(decision.ranked[0].path, "/t/gone"), "the path of whom the policy chose", "/t/gone", "%s",
	      decision.ranked[0].path);
}

const struct scenario case_scenarios[] = {
	{ "pod_above_its_request_by_leaf", "policies", pod_above_its_request_by_leaf },
	{ "pod_above_its_request_by_process", "policies", pod_above_its_request_by_process },
	{ "pod_above_its_request_by_request", "policies", pod_above_its_request_by_request },
	{ "pod_above_its_request_by_priority", "policies", pod_above_its_request_by_priority },
	{ "small_sidecar_is_not_the_culprit", "policies", small_sidecar_is_not_the_culprit },
	{ "full_swap_counts_for_leaves", "swapoff", full_swap_counts_for_leaves },
	{ "full_swap_counts_for_processes", "swapoff", full_swap_counts_for_processes },
	{ "oom_of_a_pod_is_not_its_containers", "policies", oom_of_a_pod_is_not_its_containers },
	{ "oom_of_a_pod_is_the_pods", "policies", oom_of_a_pod_is_the_pods },
	{ "container_dies_as_one", "policies", container_dies_as_one },
	{ "worker_dies_alone", "policies", worker_dies_alone },
	{ "lowered_limit_kills_inside", "policies", lowered_limit_kills_inside },
	{ "lowered_limit_among_unkillable_returns", "policies", lowered_limit_among_unkillable_returns },
	{ "lowered_limit_among_protected_returns", "policies", lowered_limit_among_protected_returns },
	{ "path_of_a_cgroup_that_went_at_once", "policies", path_of_a_cgroup_that_went_at_once },
	{ }
};
