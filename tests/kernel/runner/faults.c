// SPDX-License-Identifier: GPL-2.0-or-later
/* What the kernel must refuse. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

/* A child that has its parent's memory, in the cgroup; the parent stays outside. */
static pid_t vfork_child(const char *cgroup, pid_t *parent)
{
	volatile pid_t *child = mmap(NULL, sizeof(*child), PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	*parent = fork();
	if (!*parent) {
		proc_write("self/oom_score_adj", "0");
		if (!vfork()) {
			*child = getpid();
			for (;;)
				pause();
		}
		_exit(0);
	}
	require(wait_for(*child), "a process calls vfork()", "it does not");
	cg_join(cgroup, *child);
	return *child;
}

/* bpf_oom_kill_process() refuses, and each refusal has an errno of its own. */
static void kill_refusals(void)
{
	struct policy policy = policy_open("probe", "refused");
	struct hog protected = { .name = "protected", .cgroup = "t/scope", .adj = -1000 };
	struct hog zombie = { .name = "zombie", .cgroup = "t/scope" };
	struct hog outside = { .name = "outside", .cgroup = "t/outside" };
	struct hog victim = { .name = "victim", .cgroup = "t/scope" };
	struct hog grower = { .name = "grower", .cgroup = "t/scope" };
	pid_t parent, child;
	siginfo_t info = { 0 };
	int32_t *targets, *results;

	policy_set_u32(&policy, "verdict", 1);
	policy_load(&policy);
	policy_attach(&policy);
	targets = policy_data(&policy, "targets");
	results = policy_data(&policy, "results");
	cg_make("t/scope", false);
	cg_make("t/outside", false);
	cg_set("t/scope", "memory.max", 30 * MIB);
	cg_set("t/scope", "memory.swap.max", 0);
	hog_start(&protected);
	hog_start(&zombie);
	hog_start(&outside);
	hog_start(&victim);
	hog_start(&grower);
	close(zombie.order);
	require(!waitid(P_PID, zombie.pid, &info, WEXITED | WNOWAIT), "a hog exits", "it does not");
	require(hog_fill(&victim, 15 * MIB), "the victim fills", "it does not");
	targets[0] = protected.pid;
	targets[1] = outside.pid;
	targets[2] = zombie.pid;
	child = vfork_child("t/scope", &parent);
	targets[3] = child;
	targets[4] = victim.pid;
	targets[5] = victim.pid;
	hog_order(&grower, 20 * MIB);
	/* First: who is waited for is gone, and the policy still has to try it again. */
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	check_killed(&victim);
	check_alive(&protected);
	check_alive(&outside);
	check_int("killing a -1000 task (-EPERM)", -EPERM, results[0]);
	check_int("killing a task outside the scope (-ESRCH)", -ESRCH, results[1]);
	check_int("killing a zombie (-ESRCH)", -ESRCH, results[2]);
	check_int("killing a vfork() child (-EPERM)", -EPERM, results[3]);
	check(!waitpid(parent, NULL, WNOHANG), "its parent lives, whose memory it has", "alive", "dead");
	check_int("killing a task in the scope", 0, results[4]);
	check_int("killing it again (-EBUSY)", -EBUSY, results[5]);
	check_int("tasks not found", 0, policy_u64(&policy, "nr_errors"));
	check_int("oom_kill", 1, cg_field("t", "memory.events", "oom_kill"));
	check_log("oom_policy=refused");
}

/* Refusals alone are no progress: the kernel's killer runs, whatever the policy claims. */
static void refusal_frees_nothing(void)
{
	struct policy policy = policy_open("probe", "refused");
	struct hog protected = { .name = "protected", .cgroup = "t/scope", .adj = -1000 };
	struct hog zombie = { .name = "zombie", .cgroup = "t/scope" };
	struct hog victim = { .name = "victim", .cgroup = "t/scope", .adj = 1000 };
	struct hog grower = { .name = "grower", .cgroup = "t/scope" };
	siginfo_t info = { 0 };
	int32_t *targets;

	policy_set_u32(&policy, "verdict", 1);
	policy_load(&policy);
	policy_attach(&policy);
	targets = policy_data(&policy, "targets");
	cg_make("t/scope", false);
	cg_set("t/scope", "memory.max", 30 * MIB);
	cg_set("t/scope", "memory.swap.max", 0);
	hog_start(&protected);
	hog_start(&zombie);
	hog_start(&victim);
	hog_start(&grower);
	close(zombie.order);
	require(!waitid(P_PID, zombie.pid, &info, WEXITED | WNOWAIT), "a hog exits", "it does not");
	require(hog_fill(&victim, 15 * MIB), "the victim fills", "it does not");
	targets[0] = protected.pid;
	targets[1] = zombie.pid;
	hog_order(&grower, 20 * MIB);
	check_killed(&victim);
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	check(policy_u64(&policy, "nr_calls") > 0, "the policy was asked", "1 or more", "%llu",
	      (unsigned long long)policy_u64(&policy, "nr_calls"));
	check_alive(&protected);
	check_log("oom_policy=default");
}

/*
 * While a victim is exiting nobody else dies. The victim is held at its exit by a
 * tracer, until the reaper, 2 s later, takes its memory.
 */
static void no_second_victim(void)
{
	struct policy policy = policy_start("largest_leaf", "largest_leaf");
	struct hog victim = { .name = "victim", .cgroup = "t/victim" };
	struct hog other = { .name = "other", .cgroup = "t/other" };
	struct hog grower = { .name = "grower", .cgroup = "t/grower" };
	int status = 0;

	cg_make("t/victim", false);
	cg_make("t/other", false);
	cg_make("t/grower", false);
	cg_set("t", "memory.max", 50 * MIB);
	cg_set("t", "memory.swap.max", 0);
	hog_start(&victim);
	hog_start(&other);
	hog_start(&grower);
	require(!ptrace(PTRACE_SEIZE, victim.pid, NULL, PTRACE_O_TRACEEXIT), "the victim is traced",
		"%s", strerror(errno));
	require(hog_fill(&victim, 25 * MIB) && hog_fill(&other, 15 * MIB), "hogs fill",
		"they do not");
	hog_order(&grower, 25 * MIB);
	require(wait_for(waitpid(victim.pid, &status, WNOHANG) == victim.pid) &&
		status >> 8 == (SIGTRAP | (PTRACE_EVENT_EXIT << 8)),
		"the victim stops at its exit", "wait status 0x%x", status);
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	check(cg_field("t", "memory.events", "oom") > 1,
	      "there were more OOMs while the victim was exiting", "2 or more", "%lld",
	      cg_field("t", "memory.events", "oom"));
	check_int("oom_kill", 1, cg_field("t", "memory.events", "oom_kill"));
	check_int("kills of the policy", 1, policy_u64(&policy, "nr_kills"));
	check_alive(&other);
	ptrace(PTRACE_CONT, victim.pid, NULL, NULL);
	check_killed(&victim);
}

/* Most files of /proc would hold the mm, and then what is mapped there: this one does not. */
static const char *sleeps_in(pid_t pid)
{
	static char line[64];
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/wchan", pid);
	file = fopen(path, "re");
	if (!file || !fgets(line, sizeof(line), file))
		line[0] = 0;
	if (file)
		fclose(file);
	return line;
}

/* For the pipe's lock, which a real-time kernel sleeps for in a function of its own. */
static bool waits_for_pipe(pid_t pid)
{
	const char *function = sleeps_in(pid);

	return !strcmp(function, "pipe_release") || strstr(function, "rt_mutex");
}

/*
 * A victim whose memory is a file in tmpfs, and which hangs on the way to close it: the last
 * of its pages go long after its mm.
 */
static void start_late_close(struct hog *victim, struct hog *other, struct hog *grower)
{
	cg_make("t/pool", true);
	cg_make("t/pool/victim", false);
	cg_make("t/pool/other", false);
	cg_make("t/pool/grower", false);
	cg_set("t/pool", "memory.max", 50 * MIB);
	cg_set("t/pool", "memory.swap.max", 0);
	hog_start(victim);
	pipe_hold(victim->pipe);
	hog_start(other);
	hog_start(grower);
	require(hog_fill(victim, 25 * MIB) && hog_fill(other, 15 * MIB), "hogs fill",
		"they do not");
	hog_order(grower, 20 * MIB);
	require(wait_for(waits_for_pipe(victim->pid)), "the victim hangs on the way to close it",
		"it does not");
	check_int("file pages that the victim still has, in MiB", 25,
		  cg_field("t/pool/victim", "memory.stat", "shmem") / MIB);
}

#define LATE_CLOSE							\
	struct hog victim = { .name = "victim", .cgroup = "t/pool/victim", .file = true, .pipe = "/tmp/held" }; \
	struct hog other = { .name = "other", .cgroup = "t/pool/other" };	\
	struct hog grower = { .name = "grower", .cgroup = "t/pool/grower" }

static struct policy count_file_policy(void)
{
	struct policy policy = policy_open("largest_leaf", "largest_leaf");
	bool yes = true;

	policy_set(&policy, "count_file", &yes, sizeof(yes));
	policy_load(&policy);
	policy_attach(&policy);
	return policy;
}

/* A victim is not finished before its files are closed. */
static void late_close_is_waited_for(void)
{
	struct policy policy = count_file_policy();
	long long ooms;
	LATE_CLOSE;

	start_late_close(&victim, &other, &grower);
	ooms = cg_field("t/pool", "memory.events", "oom");
	check(wait_for(hog_reap(&other) || cg_field("t/pool", "memory.events", "oom") > ooms + 3),
	      "there are more OOMs while the victim hangs", "4 or more", "%lld",
	      cg_field("t/pool", "memory.events", "oom") - ooms);
	check_alive(&other);
	pipe_let_go();
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	check_killed(&victim);
	check_alive(&other);
	check_int("kills of the policy", 1, policy_u64(&policy, "nr_kills"));
}

/* But if it never closes them others must die, even while there are victims elsewhere. */
static void hanging_close_is_not_waited_for_for_ever(void)
{
	struct spawner elsewhere = { .cgroup = "t/elsewhere", .children = 1, .mib = 16 };
	struct policy policy = count_file_policy();
	uint64_t deaths;
	LATE_CLOSE;

	cg_make("t/elsewhere", false);
	cg_set("t/elsewhere", "memory.max", 8 * MIB);
	cg_set("t/elsewhere", "memory.swap.max", 0);
	start_late_close(&victim, &other, &grower);
	spawner_start(&elsewhere);
	require(wait_for(spawner_deaths(&elsewhere) > 0), "there are victims elsewhere", "none");
	check_alive(&other);
	wait_for(hog_reap(&other));
	deaths = spawner_deaths(&elsewhere);
	check(hog_filled(&grower) || wait_for(hog_filled(&grower)), "the grower gets its memory",
	      "it does", "it does not");
	check_killed(&other);
	check(wait_for(spawner_deaths(&elsewhere) > deaths), "there still are victims elsewhere",
	      "there are", "there are not");
	check_alive(&victim);
	spawner_stop(&elsewhere);
	pipe_let_go();
	check_killed(&victim);
	check(policy_u64(&policy, "nr_kills") > 2, "the policy killed them", "3 or more", "%llu",
	      (unsigned long long)policy_u64(&policy, "nr_kills"));
}

/* Load one map of reject.bpf.c; what libbpf and the verifier say is in libbpf_log. */
static int try_load(const char *name)
{
	struct bpf_object *object = bpf_object__open_file("/bpf/reject.o", NULL);
	struct bpf_map *map;
	int err;

	require(object, "a BPF object opens", "%s", libbpf_log);
	require(bpf_object__find_map_by_name(object, name), "a map is there", "%s is not", name);
	bpf_object__for_each_map(map, object) {
		if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS)
			bpf_map__set_autocreate(map, !strcmp(bpf_map__name(map), name));
	}
	libbpf_log_start();
	err = bpf_object__load(object);
	bpf_object__close(object);
	return err;
}

static void check_verifier(const char *name, const char *reason)
{
	size_t length;
	char what[128];
	int err;

	err = try_load(name);
	if (!reason) {
		snprintf(what, sizeof(what), "the verifier accepts %s", name);
		check_int(what, 0, err);
		return;
	}
	length = strlen(libbpf_log);
	snprintf(what, sizeof(what), "the verifier refuses %s", name);
	check(err && strstr(libbpf_log, reason), what, reason, "error %d: ...%s", err,
	      length > 330 ? libbpf_log + length - 330 : libbpf_log);
}

static void verifier_refuses_kfuncs(void)
{
	check_verifier("oom_allowed", NULL);
	check_verifier("psi_allowed", NULL);
	check_verifier("oom_declares", "calling kernel function bpf_out_of_memory is not allowed");
	check_verifier("oom_watches",
		       "calling kernel function bpf_psi_create_trigger is not allowed");
	check_verifier("psi_kills", "calling kernel function bpf_oom_kill_process is not allowed");
}

static void verifier_refuses_sleeping(void)
{
	check_verifier("psi_allowed", NULL);
	check_verifier("psi_no_sleep", "program must be sleepable to call sleepable kfunc");
}

static void verifier_guards_oom_control(void)
{
	check_verifier("oom_allowed", NULL);
	check_verifier("oom_writes", "only read is supported");
	if (has_module()) {
		/* nobody has told the verifier that it may be trusted, checked or not */
		check_verifier("oom_unchecked_memcg", "must be referenced or trusted");
		check_verifier("oom_checked_memcg", "must be referenced or trusted");
		return;
	}
	check_verifier("oom_checked_memcg", NULL);
	check_verifier("oom_unchecked_memcg", "Possibly NULL pointer passed to trusted ");
	check_verifier("oom_claims", "only read is supported");
}

static void verifier_refuses_user_memory(void)
{
	check_verifier("oom_allowed", NULL);
	check_verifier("oom_copies", "cannot use helper bpf_copy_from_user#");
	check_verifier("oom_copies_task", "cannot use helper bpf_copy_from_user_task#");
	if (has_module()) {
		/* it is asked about the program, not about the call, and cannot speak for the verifier */
		check_verifier("oom_copies_str", "attach to unsupported member handle_out_of_memory");
		check_log("bpf_oom: the kfunc bpf_copy_from_user_str is not for OOM policies");
	} else {
		check_verifier("oom_copies_str",
			       "calling kernel function bpf_copy_from_user_str is not allowed");
	}
}

/*
 * Should a handler get at user memory all the same, it must not fault, as the fault would
 * be charged; and memory that it allocates must not lead to another OOM in the same task.
 * Both would wait for the lock that it runs under.
 */
static void run_looking(struct policy *policy)
{
	struct hog bait = { .name = "bait", .cgroup = "t/bait", .adj = 1000 };
	struct hog grower = { .name = "grower", .cgroup = "t/grower" };

	*policy = policy_start("probe", "looks");
	cg_make("t/bait", false);
	cg_make("t/grower", false);
	cg_set("t", "memory.max", 30 * MIB);
	cg_set("t", "memory.swap.max", 0);
	hog_start(&bait);
	require(hog_fill(&bait, 15 * MIB), "the bait fills", "it does not");
	hog_start(&grower);
	hog_order(&grower, 20 * MIB);
	check_killed(&bait);
}

static void handler_cannot_fault(void)
{
	struct policy policy;

	run_looking(&policy);
	check_int("page faults are disabled in the handler", 1, policy_u32(&policy, "faults_disabled"));
}

static void handler_cannot_recurse(void)
{
	const uint32_t pf_memalloc = 0x800;	/* linux/sched.h */
	struct policy policy;

	run_looking(&policy);
	check(policy_u32(&policy, "task_flags") & pf_memalloc, "the handler runs with PF_MEMALLOC",
	      "0x800 among the flags", "0x%x", policy_u32(&policy, "task_flags"));
}

const struct scenario fault_scenarios[] = {
	{ "handler_cannot_recurse", "common", handler_cannot_recurse },
	{ "kill_refusals", "common", kill_refusals },
	{ "refusal_frees_nothing", "common", refusal_frees_nothing },
	{ "no_second_victim", "common", no_second_victim },
	{ "late_close_is_waited_for", "common", late_close_is_waited_for },
	{ "hanging_close_is_not_waited_for_for_ever", "common", hanging_close_is_not_waited_for_for_ever },
	{ "verifier_refuses_kfuncs", "common", verifier_refuses_kfuncs },
	{ "verifier_refuses_sleeping", "common", verifier_refuses_sleeping },
	{ "verifier_guards_oom_control", "common", verifier_guards_oom_control },
	{ "verifier_refuses_user_memory", "common", verifier_refuses_user_memory },
	{ "handler_cannot_fault", "common", handler_cannot_fault },
	{ }
};
