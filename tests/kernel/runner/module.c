// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What only the module for stock kernels can get wrong: being loaded and unloaded at any
 * moment, and what else hooks into the same functions. After each a policy must kill.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"

#define MODULE		"/modules/bpf_oom.ko"
#define TRACING		"/sys/kernel/tracing/"

/* 0, or the errno. */
static int module_load(void)
{
	int fd = open(MODULE, O_RDONLY | O_CLOEXEC);
	int err = 0;

	require(fd >= 0, "the module is there", "%s", strerror(errno));
	if (syscall(SYS_finit_module, fd, "", 0))
		err = errno;
	close(fd);
	return err;
}

static int module_unload(void)
{
	return syscall(SYS_delete_module, "bpf_oom", O_NONBLOCK) ? errno : 0;
}

static int control(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int err = 0;

	if (fd < 0)
		return errno;
	if (write(fd, value, strlen(value)) < 0)
		err = errno;
	close(fd);
	return err;
}

static void must(int err, const char *what)
{
	require(!err, what, "%s", strerror(err));
}

/* Programs of a policy that was unloaded hold it for a moment. */
static void must_unload(void)
{
	int err = EAGAIN;

	wait_for(!(err = module_unload()));
	must(err, "the module is unloaded");
}

/* A policy chooses the largest, the kernel would choose who grows. */
static void check_policy_kills(const char *name)
{
	struct hog large = { .name = "large", .cgroup = "t/large" };
	struct hog grower = { .name = "grower", .cgroup = "t/grower", .adj = 1000 };
	struct policy policy = policy_start("largest_leaf", name);
	char line[96];

	cg_make("t/large", false);
	cg_make("t/grower", false);
	cg_set("t", "memory.max", 60 * MIB);
	cg_set("t", "memory.swap.max", 0);
	hog_start(&large);
	hog_start(&grower);
	require(hog_fill(&large, 35 * MIB), "a hog fills", "it does not");
	hog_order(&grower, 30 * MIB);
	check_killed(&large);
	check(wait_for(hog_filled(&grower)), "the other gets its memory", "30 MiB", "it does not");
	snprintf(line, sizeof(line), "oom_policy=%s", name);
	check_log(line);
	policy_unload(&policy);
}

static void module_stays_under_a_policy(void)
{
	struct policy policy = policy_start("largest_leaf", "holder");
	struct policy watcher = policy_start("psi_probe", NULL);

	check_int("unloading it under policies ends with EAGAIN", EAGAIN, module_unload());
	policy_unload(&policy);
	check_int("and under one", EAGAIN, module_unload());
	policy_unload(&watcher);
	must_unload();
	check(!has_module(), "and gone", "", "it is still there");
	check_log("bpf_oom: unloaded");
	must(module_load(), "it is loaded again");
	check_policy_kills("after_reload");
}

static void module_is_loaded_once(void)
{
	check_int("loading it a second time ends with EEXIST", EEXIST, module_load());
	check_policy_kills("still_there");
}

/* In the middle of OOMs: the kernel kills while it is away, policies while they are loaded. */
static void module_reload_storm(void)
{
	struct spawner spawners[] = {
		{ .cgroup = "t/one", .children = 2, .mib = 40 },
		{ .cgroup = "t/two", .children = 2, .mib = 40 },
	};
	unsigned int cycles = 24, cycle, by_policy = 0;
	const char *deaths = getenv("storm");
	uint64_t before, all = 0, calls;
	struct policy policy;
	unsigned int i;

	if (deaths && atoi(deaths) > 1000)
		cycles = 400;
	/* The reports of so many OOMs are more than a slow machine reads in time. */
	sysctl_write("vm/oom_dump_tasks", "0");
	for (i = 0; i < ARRAY_SIZE(spawners); i++) {
		cg_make(spawners[i].cgroup, false);
		cg_set(spawners[i].cgroup, "memory.max", 30 * MIB);
		cg_set(spawners[i].cgroup, "memory.swap.max", 0);
		spawner_start(&spawners[i]);
	}
	for (cycle = 0; cycle < cycles; cycle++) {
		/* Every fourth time nobody loads a policy: it comes and goes as quickly as it can. */
		if (cycle % 4) {
			policy = policy_start("largest_process", "stormy");
			before = spawner_deaths(&spawners[0]) + spawner_deaths(&spawners[1]);
			require(wait_for((klog(), spawner_deaths(&spawners[0]) + spawner_deaths(&spawners[1])) > before),
				"somebody dies", "nobody does in cycle %u", cycle);
			calls = policy_u64(&policy, "nr_calls");
			by_policy += calls > 0;
			policy_unload(&policy);
		}
		must_unload();
		if (cycle % 8 == 7)
			pause_ms(20);	/* and the kernel kills alone for a while */
		must(module_load(), "it is loaded");
		klog();	/* or the next to look finds records lost */
		keep_going();
	}
	for (i = 0; i < ARRAY_SIZE(spawners); i++) {
		all += spawner_deaths(&spawners[i]);
		check_int("odd ends", 0, spawner_odd(&spawners[i]));
		spawner_stop(&spawners[i]);
	}
	check(by_policy > cycles / 4, "policies were asked in many of the cycles", "more", "%u", by_policy);
	note("%llu deaths while it was loaded and unloaded %u times, policies asked in %u of them",
	     (unsigned long long)all, cycles, by_policy);
}

static void module_kills_after_the_storm(void)
{
	check_policy_kills("after_the_storm");
}

/* Tracers of the same functions come and go around it. */
static void module_beside_tracers(void)
{
	static const char * const tracers[] = { "function", "function_graph" };
	unsigned int i;

	must(control(TRACING "set_ftrace_filter", "mem_cgroup_scan_tasks oom_evaluate_task out_of_memory"),
	     "functions are chosen for tracing");
	for (i = 0; i < ARRAY_SIZE(tracers); i++) {
		must(control(TRACING "current_tracer", tracers[i]), "a tracer is set");
		check_policy_kills(tracers[i]);
		cg_remove_tree("t/large");
		cg_remove_tree("t/grower");
		/* Loaded anew while it traces. */
		must_unload();
		must(module_load(), "it is loaded under a tracer");
	}
	control(TRACING "current_tracer", "nop");
	control(TRACING "set_ftrace_filter", "");
	check_policy_kills("without_tracer");
}

static void module_beside_probes(void)
{
	struct policy around = tracer_open("around");

	tracer_attach(&around);
	must(control(TRACING "kprobe_events",
		      "p:bpf_oom_test/scan mem_cgroup_scan_tasks\n"
		      "p:bpf_oom_test/evaluate oom_evaluate_task\n"
		      "r:bpf_oom_test/done out_of_memory\n"), "probes are made");
	must(control(TRACING "events/bpf_oom_test/enable", "1"), "probes are armed");
	check_policy_kills("probed");
	check(policy_u64(&around, "nr_ends") > 0, "a program at the end of out_of_memory() sees it", "some", "none");
	control(TRACING "events/bpf_oom_test/enable", "0");
	control(TRACING "kprobe_events", "");
}

/* Who came first has the entry of a function; the other is told. */
static void module_and_another_hook(void)
{
	struct bpf_program *program;
	struct policy hooked = tracer_open("hooked");

	program = bpf_object__next_program(hooked.object, NULL);
	check(!bpf_program__attach(program), "a program at a hooked entry is refused", "EBUSY", "it is not");
	/* Linux 7.3 says EINVAL. */
	check(errno == EBUSY || errno == EINVAL, "as busy", "EBUSY or EINVAL", "%s", strerror(errno));
	must_unload();
	hooked.link = bpf_program__attach(program);
	require(hooked.link, "then the program attaches", "%s", strerror(errno));
	check_int("and the module is refused with EBUSY", EBUSY, module_load());
	check_log("bpf_oom: not loaded: mem_cgroup_scan_tasks() cannot be hooked (-16): somebody else has");
	check(!has_module(), "and nothing of it stays", "", "it is there");
	policy_detach(&hooked);
	check(wait_for(!module_load()), "when the program is gone it loads", "0", "an error");
	check_policy_kills("alone_again");
}

static void module_needs_ftrace(void)
{
	int err = control("/proc/sys/kernel/ftrace_enabled", "0");

	/* Linux 7.3 does not let anybody turn it off any more: then there is nothing to refuse. */
	if (err == EOPNOTSUPP) {
		check_policy_kills("with_ftrace");
		return;
	}
	check_int("ftrace cannot be turned off under it", EBUSY, err);
	must_unload();
	must(control("/proc/sys/kernel/ftrace_enabled", "0"), "ftrace is turned off");
	check_int("then the module is refused with EBUSY", EBUSY, module_load());
	check_log("bpf_oom: not loaded: ftrace is off: sysctl kernel.ftrace_enabled=1 turns it on");
	must(control("/proc/sys/kernel/ftrace_enabled", "1"), "ftrace is turned on");
	must(module_load(), "and the module loads");
	check_policy_kills("with_ftrace");
}

static void module_and_cpu_hotplug(void)
{
	static const char *online = "/sys/devices/system/cpu/cpu1/online";
	int round;

	for (round = 0; round < 3; round++) {
		must(control(online, "0"), "a CPU goes");
		check_policy_kills("one_cpu");
		cg_remove_tree("t/large");
		cg_remove_tree("t/grower");
		must_unload();
		must(module_load(), "and loaded");
		must(control(online, "1"), "the CPU comes back");
	}
	check_policy_kills("two_cpus");
}

const struct scenario module_scenarios[] = {
	{ "module_is_loaded_once", "module", module_is_loaded_once },
	{ "module_stays_under_a_policy", "module", module_stays_under_a_policy },
	{ "module_beside_tracers", "module", module_beside_tracers },
	{ "module_beside_probes", "module", module_beside_probes },
	{ "module_and_another_hook", "module", module_and_another_hook },
	{ "module_needs_ftrace", "module", module_needs_ftrace },
	{ "module_and_cpu_hotplug", "module", module_and_cpu_hotplug },
	{ "module_reload_storm", "module", module_reload_storm },
	{ "module_kills_after_the_storm", "module", module_kills_after_the_storm },
	{ }
};
