// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the interface costs. No scenario of the tests: each line of its notes is a result
 * that tests/bench/kernel.py prints; nothing is judged here but that it was measured.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "harness.h"

#define REPEATS	9

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t median(uint64_t *values, int count)
{
	qsort(values, count, sizeof(*values), by_value);
	return count ? values[count / 2] : 0;
}

/* Processes that do nothing, `count` of them in a cgroup. */
static void sleepers(const char *cgroup, int count)
{
	int done[2];
	char byte;
	pid_t pid;

	if (!count)
		return;
	require(!pipe(done), "a pipe can be made", "%s", strerror(errno));
	pid = fork();
	if (!pid) {
		cg_join(cgroup, getpid());
		proc_write("self/oom_score_adj", "0");
		/* Not our BPF links, which would live as long as a sleeper does. */
		dup2(done[1], 3);
		done[1] = 3;
		close_range(4, ~0U, 0);
		for (int i = 0; i < count; i++) {
			pid_t child = i == count - 1 ? 0 : fork();

			if (child < 0)
				_exit(1);	/* and the reader of the pipe notices */
			if (!child) {
				prctl(PR_SET_NAME, "sleeper");
				if (i == count - 1 && write(done[1], "r", 1) != 1)
					_exit(1);
				close(done[1]);
				for (;;)
					pause();
			}
		}
	}
	close(done[1]);
	require(read(done[0], &byte, 1) == 1, "sleepers start", "they do not");
	close(done[0]);
}

static void forget_dead(void)
{
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

static const char *cgroup_of(int number)
{
	static char name[32];

	snprintf(name, sizeof(name), "t/bench/%d", number);
	return name;
}

/* One OOM in "t/bench": a grower in cgroup 0, with its sleepers the largest in every way. */
static uint64_t decide(struct policy *witness, int per_cgroup, bool whole_cgroup)
{
	struct hog grower = { .name = "grower", .cgroup = "t/bench/0" };
	uint32_t at;

	cg_write("t/bench", "memory.max", "max");
	hog_start(&grower);
	require(hog_fill(&grower, 24 * MIB), "the grower fills", "it does not");
	cg_set("t/bench", "memory.max", cg_value("t/bench", "memory.current") + 4 * MIB);
	at = policy_u32(witness, "nr_times");
	hog_order(&grower, 64 * MIB);
	require(wait_for(hog_reap(&grower)), "the grower dies", "it does not");
	require(policy_u32(witness, "nr_times") > at, "the decision is timed", "it is not");
	if (whole_cgroup) {
		require(wait_for((forget_dead(), !cg_field("t/bench/0", "cgroup.events", "populated"))),
			"the cgroup is killed as a whole", "it is not");
		sleepers("t/bench/0", per_cgroup);
	}
	keep_going();
	return ((uint64_t *)policy_data(witness, "times"))[at];
}

static void decisions(int tasks, int cgroups)
{
	int per_cgroup = tasks / cgroups, rest = tasks % cgroups, i;
	struct policy witness = tracer_open("witness"), policy;
	uint64_t own[REPEATS], ours[REPEATS], a, b;

	/* The report comes after the decision, and 5,000 lines of it take the console half a minute. */
	sysctl_write("vm/oom_dump_tasks", "0");
	tracer_attach(&witness);
	cg_make("t/bench", true);
	cg_set("t/bench", "memory.swap.max", 0);
	for (i = 0; i < cgroups; i++) {
		cg_make(cgroup_of(i), false);
		sleepers(cgroup_of(i), per_cgroup + (i < rest));
		keep_going();
	}
	/*
	 * By turns, so that both meet the same machine. The program is loaded once: under
	 * emulation the first run of new code costs more than the code itself.
	 */
	policy = policy_open("largest_leaf", "largest_leaf");
	policy_load(&policy);
	for (i = 0; i < REPEATS; i++) {
		own[i] = decide(&witness, per_cgroup + (rest > 0), false);
		policy_attach(&policy);
		ours[i] = decide(&witness, per_cgroup + (rest > 0), true);
		policy_detach(&policy);
	}
	a = median(own, REPEATS);
	b = median(ours, REPEATS);
	check(a && b, "both were measured", "two times", "%llu, %llu", (unsigned long long)a,
	      (unsigned long long)b);
	note("decision tasks=%d cgroups=%d kernel_ns=%llu policy_ns=%llu ratio=%.2f", tasks, cgroups,
	     (unsigned long long)a, (unsigned long long)b, (double)b / a);
}

#define DECISIONS(tasks, cgroups)					\
	static void decisions_##tasks##_##cgroups(void)			\
	{								\
		decisions(tasks, cgroups);				\
	}
DECISIONS(10, 10)
DECISIONS(10, 100)
DECISIONS(10, 1000)
DECISIONS(100, 10)
DECISIONS(100, 100)
DECISIONS(100, 1000)
DECISIONS(1000, 10)
DECISIONS(1000, 100)
DECISIONS(1000, 1000)
DECISIONS(5000, 10)
DECISIONS(5000, 100)
DECISIONS(5000, 1000)

/*
 * The same pressure in the same cgroup told to a process in poll() and to a BPF handler:
 * from the moment at which the kernel raises the event to that at which the process could
 * send a signal, and to that at which the handler is entered.
 */
static void delivery(void)
{
	struct policy times = tracer_open("psi_times"), policy;
	uint64_t to_poll[REPEATS], to_handler[REPEATS], to_kill[REPEATS], raised, before;
	struct hog eater = { .name = "eater", .cgroup = "t/cg" };
	struct pollfd fd = { .events = POLLPRI };
	uint32_t resource = 0x80000001U;
	static const char wish[] = "full 50000 500000";
	uint64_t id;
	int i;

	tracer_attach(&times);
	cg_make("t/cg", false);
	cg_set("t/cg", "memory.high", 20 * MIB);
	cg_set("t/cg", "memory.swap.max", 0);
	id = cg_id("t/cg");
	policy = policy_open("psi_probe", NULL);
	policy_set(&policy, "watch_id", &id, sizeof(id));
	policy_set(&policy, "watch_resource", &resource, sizeof(resource));
	policy_set_u32(&policy, "nr_watches", 1);
	policy_set_u32(&policy, "threshold_us", 50000);
	policy_set_u32(&policy, "window_us", 500000);
	policy_set_u32(&policy, "on_event", 1);		/* declares an OOM */
	policy_load(&policy);
	for (i = 0; i < REPEATS; i++) {
		fd.fd = open("/sys/fs/cgroup/t/cg/memory.pressure", O_RDWR | O_NONBLOCK | O_CLOEXEC);
		require(fd.fd >= 0 && write(fd.fd, wish, sizeof(wish)) == sizeof(wish), "a trigger can be written",
			"%s", strerror(errno));
		eater.pid = 0;
		hog_start(&eater);
		before = policy_u64(&times, "notified");
		hog_order(&eater, 500 * MIB);
		require(poll(&fd, 1, LIMIT_MS) == 1 && (fd.revents & POLLPRI), "poll() returns", "0x%x", fd.revents);
		raised = policy_u64(&times, "notified");
		require(raised != before, "the event was seen", "it was not");
		to_poll[i] = now_ns() - raised;
		kill(eater.pid, SIGKILL);
		wait_for(hog_reap(&eater));
		close(fd.fd);
		keep_going();
	}
	for (i = 0; i < REPEATS; i++) {
		before = policy_u64(&times, "killed");
		eater.pid = 0;
		policy_attach(&policy);
		hog_start(&eater);
		hog_order(&eater, 500 * MIB);
		require(wait_for(hog_reap(&eater)), "the eater is killed", "it is not");
		require(policy_u64(&times, "killed") != before, "the kill was seen", "it was not");
		raised = policy_u64(&times, "raised_then");
		to_handler[i] = policy_u64(&times, "handled") - raised;
		to_kill[i] = policy_u64(&times, "killed") - raised;
		policy_detach(&policy);
		keep_going();
	}
	check(true, "all were measured", "yes", "yes");
	note("delivery poll_ns=%llu handler_ns=%llu kill_ns=%llu ratio=%.2f",
	     (unsigned long long)median(to_poll, REPEATS), (unsigned long long)median(to_handler, REPEATS),
	     (unsigned long long)median(to_kill, REPEATS),
	     (double)median(to_handler, REPEATS) / median(to_poll, REPEATS));
}

static long long kernel_memory(void)
{
	return meminfo_kib("Slab") + meminfo_kib("KernelStack") + meminfo_kib("PageTables") +
	       meminfo_kib("Percpu") + meminfo_kib("VmallocUsed");
}

/* Memory of the kernel for policies and for triggers that poll or use the averages. */
static void memory(void)
{
	static const char *objects[] = { "largest_leaf", "pressure_oom" };
	enum { POLICIES = 16, TRIGGERS = 200 };
	struct policy policies[POLICIES], watcher;
	long long before, after;
	char name[32];
	unsigned int kind;
	int i;

	for (kind = 0; kind < 2; kind++) {
		struct policy warm = policy_start(objects[kind], NULL);

		policy_unload(&warm);
		pause_ms(500);
		before = kernel_memory();
		for (i = 0; i < POLICIES; i++)
			policies[i] = policy_start(objects[kind], NULL);
		after = kernel_memory();
		for (i = 0; i < POLICIES; i++)
			policy_unload(&policies[i]);
		note("memory what=policy_%s bytes=%lld", objects[kind], (after - before) * 1024 / POLICIES);
		keep_going();
	}
	cg_make("t/many", true);
	for (kind = 0; kind < 3; kind++) {
		static const char *what[] = {
			"a_cgroup", "a_cgroup_with_a_polling_trigger", "a_cgroup_with_a_trigger_on_averages",
		};

		watcher = policy_open("psi_online", NULL);
		policy_set_u64(&watcher, "parent_id", kind ? cg_id("t/many") : ~0ULL);
		if (kind == 2) {
			policy_set_u32(&watcher, "resource", 0xc0000001);
			policy_set_u32(&watcher, "window_us", 2000000);
		}
		policy_load(&watcher);
		policy_attach(&watcher);
		before = kernel_memory();
		for (i = 0; i < TRIGGERS; i++) {
			snprintf(name, sizeof(name), "t/many/%d", i);
			cg_make(name, false);
		}
		require(wait_for((int)policy_u32(&watcher, "nr_told") == TRIGGERS), "cgroups are told of",
			"%u are", policy_u32(&watcher, "nr_told"));
		after = kernel_memory();
		check_int("cgroups watched", kind ? TRIGGERS : 0, policy_u32(&watcher, "nr_watched"));
		note("memory what=%s bytes=%lld", what[kind], (after - before) * 1024 / TRIGGERS);
		for (i = 0; i < TRIGGERS; i++) {
			snprintf(name, sizeof(name), "t/many/%d", i);
			cg_remove(name);
		}
		policy_unload(&watcher);
		wait_for(!count_threads("psimon"));
		keep_going();
	}
	check(true, "all were measured", "yes", "yes");
}

#define DECISION(tasks, cgroups)					\
	{ "decision_" #tasks "_" #cgroups, "bench", decisions_##tasks##_##cgroups }

const struct scenario bench_scenarios[] = {
	DECISION(10, 10), DECISION(10, 100), DECISION(10, 1000),
	DECISION(100, 10), DECISION(100, 100), DECISION(100, 1000),
	DECISION(1000, 10), DECISION(1000, 100), DECISION(1000, 1000),
	DECISION(5000, 10), DECISION(5000, 100), DECISION(5000, 1000),
	{ "delivery", "bench", delivery },
	{ "memory", "bench", memory },
	{ }
};
