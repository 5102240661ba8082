// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What must hold beside pressure before a policy calls it an OOM. Of each condition one policy
 * that has it and one that has not are told of the same pressure.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#include "decision.h"
#include "harness.h"

/* Any pressure at all is an event, and each is looked at. */
#define ANY_PRESSURE	"threshold_us=5000", "window_us=500000", "level=0", "cooldown_ms=0"

static struct policy loaded(const char *object, const char *scope, uint32_t mode, const char * const *words)
{
	static const char * const always[] = { ANY_PRESSURE, NULL };
	struct policy policy = policy_open(object, NULL);

	if (scope)
		policy_select(&policy, "scope", scope);
	policy_set_u32(&policy, "mode", mode);
	policy_settings(&policy, always);
	policy_settings(&policy, words);
	policy_load(&policy);
	return policy;
}

static struct policy start(const char *object, const char *scope, uint32_t mode, const char * const *words)
{
	struct policy policy = loaded(object, scope, mode, words);

	policy_attach(&policy);
	return policy;
}

static bool last_decision(struct policy *policy, struct decision *decision)
{
	uint64_t seq = policy_u64(policy, "nr_decisions");

	return seq && policy_decision(policy, seq, decision);
}

/* The next decision of a policy whose look began after this. */
static struct decision next_decision(struct policy *policy)
{
	uint64_t seen = policy_u64(policy, "nr_decisions");
	struct decision decision;

	require(wait_for(policy_u64(policy, "nr_decisions") >= seen + 2 && last_decision(policy, &decision)),
		"there is pressure", "%llu decisions, after %llu", (unsigned long long)policy_u64(policy, "nr_decisions"),
		(unsigned long long)seen);
	return decision;
}

/* A process of a cgroup that reads a file round and round, which is larger than its limit. */
#define READ_MIB	40

static pid_t thrash(const char *cgroup)
{
	static char page[64 * 1024];
	pid_t pid;
	int file;

	disk_mount();
	file = open(DISK "/thrashed", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	require(file >= 0, "a file can be made", "%s", strerror(errno));
	for (unsigned long long at = 0; at < READ_MIB * MIB; at += sizeof(page))
		require(pwrite(file, page, sizeof(page), at) == sizeof(page), "a file fills", "%s", strerror(errno));
	require(!fsync(file) && !posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED), "it leaves the page cache", "%s",
		strerror(errno));
	pid = fork();
	if (!pid) {
		int adj = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

		if (adj < 0 || write(adj, "0", 1) != 1)
			_exit(1);
		cg_join(cgroup, getpid());
		for (unsigned long long at = 0;; at = (at + sizeof(page)) % (READ_MIB * MIB))
			if (pread(file, page, sizeof(page), at) < 0)
				_exit(1);
	}
	close(file);
	return pid;
}

static void check_thrashes(pid_t pid)
{
	int status = 0;
	pid_t ended = waitpid(pid, &status, WNOHANG);

	check(!ended, "who reads round and round lives", "it does", "status %d", status);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	unlink(DISK "/thrashed");
}

/* A cgroup at its memory.high that cannot swap and wants more: pressure without end. */
static void eat(struct hog *eater, const char *cgroup)
{
	*eater = (struct hog){ .name = "eater", .cgroup = cgroup };
	hog_start(eater);
	hog_order(eater, 300 * MIB);
}

/* What a policy takes for MemAvailable is what the kernel tells. */
static void free_memory_is_that_of_meminfo(void)
{
	struct policy watch = start("watch", NULL, MODE_ENFORCE, NULL);
	long long off, least = -1;
	struct decision decision;
	struct hog eater;

	cg_make("t/p", false);
	cg_set("t/p", "memory.high", 20 * MIB);
	cg_set("t/p", "memory.swap.max", 0);
	eat(&eater, "t/p");
	/* Others allocate meanwhile: the best of a few looks. */
	for (int i = 0; i < 5 && (least < 0 || least > 256); i++) {
		decision = next_decision(&watch);
		off = llabs((long long)(decision.free_memory / 1024) - meminfo_kib("MemAvailable"));
		if (least < 0 || off < least)
			least = off;
	}
	check_int("outcome", OUTCOME_RECORDED, decision.outcome);
	check(least <= 256, "it differs from /proc/meminfo", "256 KiB at most", "by %lld of %lld KiB", least,
	      meminfo_kib("MemAvailable"));
	note("MemAvailable %lld KiB, off by %lld KiB", meminfo_kib("MemAvailable"), least);
}

/*
 * The most supported wish of all: a capped cgroup reads a file round and round while most of
 * the system is free. Nobody dies for it, and would without the condition.
 */
static void free_memory_spares_the_system(void)
{
	static const char * const however[] = { "free_memory_below_percent=100", NULL };
	struct policy without, with;
	struct decision decision;
	pid_t reader;

	cg_make("t/capped", false);
	cg_set("t/capped", "memory.max", 16 * MIB);
	without = start("pressure_oom", NULL, MODE_OBSERVE, however);
	with = start("pressure_oom", NULL, MODE_ENFORCE, NULL);
	reader = thrash("t/capped");
	decision = next_decision(&without);
	check_int("outcome without the condition", OUTCOME_OBSERVED, decision.outcome);
	decision = next_decision(&with);
	check_int("outcome by default", OUTCOME_SPARED, decision.outcome);
	check_int("the condition that does not hold", CONDITION_FREE_MEMORY, decision.unmet);
	check(policy_u64(&with, "nr_unmet") >= 2, "events that were let pass", "2 or more", "%llu",
	      (unsigned long long)policy_u64(&with, "nr_unmet"));
	check_int("OOMs declared", 0, policy_u64(&with, "nr_declared"));
	check_int("errors", 0, policy_u64(&with, "nr_errors"));
	check_not_log("oom-kill:");
	check_thrashes(reader);
}

/* And when memory is short it acts. */
static void free_memory_short_in_the_system(void)
{
	struct policy oom = policy_open("largest_leaf", "by_size");
	struct hog filler = { .name = "filler", .cgroup = "t/filler" }, eater;
	struct policy policy;
	struct decision decision;
	long long kib;

	policy_select(&oom, "protect", "/t/p");
	policy_load(&oom);
	policy_attach(&oom);
	cg_make("t/filler", false);
	cg_make("t/p", false);
	cg_set("t/p", "memory.high", 20 * MIB);
	policy = start("pressure_oom", NULL, MODE_ENFORCE, NULL);
	hog_start(&filler);
	eat(&eater, "t/p");
	decision = next_decision(&policy);
	check_int("outcome while memory is free", OUTCOME_SPARED, decision.outcome);
	check_alive(&filler);
	kib = meminfo_kib("MemAvailable") - meminfo_kib("MemTotal") * 7 / 100;
	hog_order(&filler, kib * 1024ULL);
	check_killed(&filler);
	check(wait_for(policy_u64(&policy, "nr_declared")), "OOMs declared", "1 or more", "0");
	check_constraint("CONSTRAINT_BPF_PSI_MEM");
	check_log(",global_oom,");
}

/* What is free in a cgroup is what all limits above it leave, with page cache. */
static void free_memory_of_a_cgroup(void)
{
	static const char * const percent[] = { "free_memory_below_percent=25", NULL };
	static const char * const bytes[] = { "free_memory_below_bytes=16777216", NULL };
	struct policy by_default, of_reader, of_eater, of_eater_too;
	struct decision decision;
	struct hog sitter = { .name = "sitter", .cgroup = "t/pod/sitter" }, eater;
	pid_t reader;

	/* A limit of its own, full of page cache: nothing is short. */
	cg_make("t/reader", false);
	cg_set("t/reader", "memory.max", 16 * MIB);
	by_default = start("pressure_oom", "/t/reader", MODE_OBSERVE, NULL);
	of_reader = start("pressure_oom", "/t/reader", MODE_ENFORCE, percent);
	reader = thrash("t/reader");
	decision = next_decision(&by_default);
	check_int("by default it does not matter in a cgroup", OUTCOME_OBSERVED, decision.outcome);
	decision = next_decision(&of_reader);
	check_int("full of page cache", CONDITION_FREE_MEMORY, decision.unmet);
	check(decision.free_memory > 10 * MIB && decision.free_memory <= 16 * MIB, "free memory there", "10 to 16 MiB",
	      "%llu", (unsigned long long)decision.free_memory);
	check_thrashes(reader);
	check_not_log("oom-kill:");

	/* No limit of its own, and a parent whose limit others have used up. */
	cg_make("t/pod", true);
	cg_make("t/pod/sitter", false);
	cg_make("t/pod/eater", false);
	cg_set("t/pod", "memory.high", 40 * MIB);
	cg_set("t", "memory.swap.max", 0);
	hog_start(&sitter);
	require(hog_fill(&sitter, 30 * MIB), "the sitter fills", "it does not");
	of_eater = start("pressure_oom", "/t/pod/eater", MODE_OBSERVE, percent);
	eat(&eater, "t/pod/eater");
	decision = next_decision(&of_eater);
	check_int("full of memory of processes", OUTCOME_OBSERVED, decision.outcome);
	check(decision.free_memory <= 10 * MIB, "free memory there", "10 MiB at most", "%llu",
	      (unsigned long long)decision.free_memory);
	check_alive(&eater);
	of_eater_too = start("pressure_oom", "/t/pod/eater", MODE_ENFORCE, bytes);
	check_killed(&eater);
	check_alive(&sitter);
	check(wait_for(policy_u64(&of_eater_too, "nr_declared")), "OOMs declared", "1 or more", "0");
}

/* Swap that the parent does not let it use is not free, though the cgroup has no limit of its own. */
static void free_swap_of_a_cgroup(void)
{
	static const char * const percent[] = { "free_swap_below_percent=20", NULL };
	static const char * const bytes[] = { "free_swap_below_bytes=1048576", NULL };
	struct policy without, of_percent, of_bytes;
	struct decision decision;
	struct hog eater = { .name = "eater", .cgroup = "t/pod/eater" };

	disk_swap_on(SWAP_MIB);
	cg_make("t/pod", true);
	cg_make("t/pod/eater", false);
	cg_set("t/pod", "memory.high", 20 * MIB);
	without = start("pressure_oom", "/t/pod/eater", MODE_OBSERVE, NULL);
	of_percent = start("pressure_oom", "/t/pod/eater", MODE_OBSERVE, percent);
	of_bytes = start("pressure_oom", "/t/pod/eater", MODE_OBSERVE, bytes);
	hog_start(&eater);
	hog_order(&eater, 30 * MIB);	/* ten of them go to the swap */
	check(wait_for(last_decision(&without, &decision)), "there is pressure", "some", "none");
	check_int("outcome without the condition", OUTCOME_OBSERVED, decision.outcome);
	check(wait_for(last_decision(&of_percent, &decision)), "there is pressure", "some", "none");
	check_int("more than a fifth is free", CONDITION_FREE_SWAP, decision.unmet);
	check(decision.free_swap > 4 * MIB && decision.free_swap <= SWAP_MIB * MIB, "free swap", "4 to 16 MiB", "%llu",
	      (unsigned long long)decision.free_swap);
	check(wait_for(last_decision(&of_bytes, &decision)), "there is pressure", "some", "none");
	check_int("more than a MiB is free", CONDITION_FREE_SWAP, decision.unmet);

	/* No more than has been used: nothing is left there, and a third in the system. */
	require(wait_for(hog_filled(&eater)), "the eater fills", "it does not");
	cg_set("t/pod", "memory.swap.max", cg_value("t/pod", "memory.swap.current"));
	hog_order(&eater, 60 * MIB);
	decision = next_decision(&of_percent);
	check_int("nothing is left", OUTCOME_OBSERVED, decision.outcome);
	check(decision.free_swap <= MIB / 4, "free swap", "next to nothing", "%llu",
	      (unsigned long long)decision.free_swap);
	decision = next_decision(&of_bytes);
	check_int("and less than a MiB", OUTCOME_OBSERVED, decision.outcome);
	check(meminfo_kib("SwapFree") > 4 * 1024, "free swap in the system", "4 MiB or more", "%lld KiB",
	      meminfo_kib("SwapFree"));
	check_alive(&eater);
	kill(eater.pid, SIGKILL);
	wait_for(hog_reap(&eater));
	require(!swapoff("/dev/vda"), "the swap can be left", "%s", strerror(errno));
}

/* Whoever owns one cgroup cannot keep the others from being watched. */
static void pressure_off_in_one(void)
{
	struct policy policy;
	struct hog eater;

	cg_make("t/off", false);
	cg_make("t/on", false);
	cg_write("t/off", "cgroup.pressure", "0");
	cg_set("t/on", "memory.high", 20 * MIB);
	cg_set("t/on", "memory.swap.max", 0);
	policy = start("pressure_oom", "/t/*", MODE_ENFORCE, NULL);
	check(policy_watches(&policy, "t/on"), "the policy says that it watches the one", "yes", "no");
	check(!policy_watches(&policy, "t/off"), "and nothing of the other", "no", "yes");
	check_int("cgroups left out", 1, policy_u64(&policy, "nr_left_out"));
	check_int("errors", 0, policy_u64(&policy, "nr_errors"));
	eat(&eater, "t/on");
	check_killed(&eater);
}

/* Nor can whoever makes very many. */
#define TOO_MANY	270

static void more_cgroups_than_can_be_watched(void)
{
	struct policy policy;
	char path[32];

	for (int i = 0; i < TOO_MANY; i++) {
		snprintf(path, sizeof(path), "t/n%d", i);
		cg_make(path, false);
	}
	policy = start("watch", "/t/n*", MODE_ENFORCE, NULL);
	check_int("watched", 256, policy_u64(&policy, "nr_watched"));
	check_int("left out", TOO_MANY - 256, policy_u64(&policy, "nr_left_out"));
	check_int("errors", 0, policy_u64(&policy, "nr_errors"));
	policy_unload(&policy);
	sysctl_write("kernel/bpf_psi_max_triggers", "10");
	policy = start("watch", "/t/n*", MODE_ENFORCE, NULL);
	sysctl_write("kernel/bpf_psi_max_triggers", "256");
	check_int("watched with room for ten", 10, policy_u64(&policy, "nr_watched"));
	check_int("left out", TOO_MANY - 10, policy_u64(&policy, "nr_left_out"));
	check_int("errors", 0, policy_u64(&policy, "nr_errors"));
}

/* An OOM that could not be declared is no error, and no action after which there is a pause. */
static void busy_is_no_action(void)
{
	static const char * const words[] = { "free_memory_below_percent=100", "cooldown_ms=600000", NULL };
	struct policy policy = loaded("pressure_oom", NULL, MODE_ENFORCE, words);
	struct policy busy = policy_open("probe", "busy");
	struct hog grower = { .name = "grower", .cgroup = "t/scope" }, eater;
	struct decision decision;

	policy_set_u32(&busy, "busy_ms", 8000);
	policy_load(&busy);
	policy_attach(&busy);
	cg_make("t/scope", false);
	cg_set("t/scope", "memory.max", 10 * MIB);
	cg_set("t/scope", "memory.swap.max", 0);
	cg_make("t/p", false);
	cg_set("t/p", "memory.high", 20 * MIB);
	cg_set("t/p", "memory.swap.max", 0);
	eat(&eater, "t/p");
	hog_start(&grower);
	hog_order(&grower, 20 * MIB);
	require(wait_for(policy_u64(&busy, "nr_calls")), "an OOM is handled", "none is");
	policy_attach(&policy);
	check(wait_for(policy_u64(&policy, "nr_busy")), "events meanwhile", "1 or more", "0");
	require(last_decision(&policy, &decision), "there is a decision", "none");
	check_int("its outcome", OUTCOME_BUSY, decision.outcome);
	check_int("its error (-EBUSY)", -EBUSY, decision.error);
	check_int("errors", 0, policy_u64(&policy, "nr_errors"));
	check_killed(&grower);
	policy_unload(&busy);
	/* Whatever comes of it: the grower may still be on its way out. */
	check(wait_for(policy_u64(&policy, "nr_declared") ||
		       policy_u64(&policy, "nr_passes") > policy_u64(&policy, "nr_busy")),
	      "the next event acts", "it does",
	      "%llu events, %llu busy, %llu in the pause, %llu passed on", (unsigned long long)policy_u64(&policy, "nr_calls"),
	      (unsigned long long)policy_u64(&policy, "nr_busy"), (unsigned long long)policy_u64(&policy, "nr_cooldowns"),
	      (unsigned long long)policy_u64(&policy, "nr_passes"));
}

const struct scenario condition_scenarios[] = {
	{ "pressure_off_in_one", "conditions", pressure_off_in_one },
	{ "more_cgroups_than_can_be_watched", "conditions", more_cgroups_than_can_be_watched },
	{ "busy_is_no_action", "conditions", busy_is_no_action },
	{ "free_memory_is_that_of_meminfo", "conditions", free_memory_is_that_of_meminfo },
	{ "free_memory_spares_the_system", "conditions", free_memory_spares_the_system },
	{ "free_memory_short_in_the_system", "conditions", free_memory_short_in_the_system },
	{ "free_memory_of_a_cgroup", "conditions", free_memory_of_a_cgroup },
	/* The last: of the disk's file system nothing is left. */
	{ "free_swap_of_a_cgroup", "conditions", free_swap_of_a_cgroup },
	{ }
};
