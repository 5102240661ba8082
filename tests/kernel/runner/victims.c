// SPDX-License-Identifier: GPL-2.0-or-later
/* Suspected faults of the policies: each scenario expects what the documentation says. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#include "actors.h"
#include "decision.h"

/* ---- A */

static void protected_sibling(const char *object, const char * const *words, int keeper_adj)
{
	struct policy policy = start(object, "a", words, false);
	struct hog hogs[] = {
		{ .name = "keeper", .cgroup = "t/group/b", .adj = keeper_adj }, { .name = "big", .cgroup = "t/group/a" },
		{ .name = "single", .cgroup = "t/single" },
	};

	cg_make("t/group", true);
	cg_write("t/group", "memory.oom.group", "1");
	cg_make("t/group/a", false);
	cg_make("t/group/b", false);
	cg_make("t/single", false);
	actor_start(&hogs[0], "anon", 0, 3);
	actor_start(&hogs[1], "anon", 0, 24);
	actor_start(&hogs[2], "anon", 0, 12);
	oom_among(&policy, hogs, 3);
	check_alive(&hogs[0]);
}

static void a_leaf_name(void)
{
	static const char * const words[] = { "protect+name:keeper", NULL };

	protected_sibling("largest_leaf", words, 0);
}

static void a_leaf_path(void)
{
	static const char * const words[] = { "protect+/t/group/b", NULL };

	protected_sibling("largest_leaf", words, 0);
}

static void a_process_ranked(void)
{
	static const char * const words[] = { "protect+name:keeper", "victim=1", NULL };

	protected_sibling("largest_process", words, 0);
}

static void a_leaf_victim_process(void)
{
	static const char * const words[] = { "protect+name:keeper", "victim=0", NULL };

	protected_sibling("largest_leaf", words, 0);
}

static void a_leaf_minus_1000(void)
{
	protected_sibling("largest_leaf", NULL, -1000);
}

/* ---- B */

static void b_session(void)
{
	struct policy policy = start("largest_leaf", "b", NULL, true);
	struct hog hogs[] = {
		{ .name = "sshd", .cgroup = "t/session" }, { .name = "hog", .cgroup = "t/session" },
		{ .name = "db", .cgroup = "t/db" },
	};

	cg_make("t/session", false);
	cg_make("t/db", false);
	actor_start(&hogs[0], "anon", 0, 1);
	actor_start(&hogs[1], "anon", 0, 30);
	actor_start(&hogs[2], "anon", 0, 12);
	oom_among(&policy, hogs, 3);
	check_alive(&hogs[2]);
}

static void b_renamed(void)
{
	struct policy policy = start("largest_leaf", "b", NULL, true);
	struct hog hogs[] = {
		{ .name = "sshd", .cgroup = "t/user" }, { .name = "db", .cgroup = "t/db" },
	};

	cg_make("t/user", false);
	cg_make("t/db", false);
	actor_start(&hogs[0], "anon", 1000, 30);
	actor_start(&hogs[1], "anon", 0, 12);
	oom_among(&policy, hogs, 2);
	check_alive(&hogs[1]);
}

/* An unprivileged user's own cgroup (delegated), made deep or long. */
static void deep(int levels, int length, const char * const *words, bool with_defaults)
{
	struct policy policy = start("largest_leaf", "b", words, with_defaults);
	static char path[4000] = "t/u";
	struct hog hogs[] = {
		{ .name = "hog", .cgroup = path }, { .name = "db", .cgroup = "t/db" },
	};
	char full[4200];

	cg_make("t/u", true);
	cg_make("t/db", false);
	for (int i = 0; i < levels; i++) {
		size_t at = strlen(path);

		path[at++] = '/';
		memset(path + at, 'd', length);
		path[at + length] = 0;
		snprintf(full, sizeof(full), CGROUPS "%s", path);
		require(!mkdir(full, 0755), "a cgroup can be made", "%s: %s", full, strerror(errno));
		if (i < levels - 1) {
			strcat(full, "/cgroup.subtree_control");
			put_file(full, "+memory");
		}
	}
	actor_start(&hogs[0], "anon", 1000, 30);
	actor_start(&hogs[1], "anon", 0, 12);
	oom_among(&policy, hogs, 2);
	check_alive(&hogs[1]);
	snprintf(full, sizeof(full), CGROUPS "t/cgroup.kill");
	put_file(full, "1");
	wait_for(hog_reap(&hogs[0]));
	while (strlen(path) > 3) {
		snprintf(full, sizeof(full), CGROUPS "%s", path);
		wait_for(!rmdir(full));
		*strrchr(path, '/') = 0;
	}
}

static void b_deep_31(void) { deep(29, 1, NULL, true); }
static void b_deep_34(void) { deep(32, 1, NULL, true); }
static void b_deep_34_empty_protect(void) { deep(32, 1, NULL, false); }
static void b_long(void) { deep(2, 255, NULL, true); }
static void b_long_empty_protect(void) { deep(2, 255, NULL, false); }

/* ---- C */

static void shared(const char *kind, const char *object, const char * const *words)
{
	struct policy policy = start(object, "c", words, true);
	struct hog hogs[] = {
		{ .name = "shm", .cgroup = "t/a" }, { .name = "anon", .cgroup = "t/b" },
	};

	cg_make("t/a", false);
	cg_make("t/b", false);
	actor_start(&hogs[0], kind, 0, 40);
	actor_start(&hogs[1], "anon", 0, 20);
	oom_among(&policy, hogs, 2);
	check_alive(&hogs[1]);
}

static void c_memfd_mapped(void) { shared("memfd", "largest_leaf", NULL); }
static void c_memfd_written(void) { shared("memfd_write", "largest_leaf", NULL); }
static void c_shared_anonymous(void) { shared("shmanon", "largest_leaf", NULL); }
static void c_process(void)
{
	static const char * const words[] = { "victim=0", NULL };

	shared("shmanon", "largest_process", words);
}

/* Tmpfs that stays when the process is gone: a kill frees nothing of it. */
static void x_tmpfs_stays(void)
{
	static const char * const words[] = { "count_file=1", NULL };
	struct policy policy = start("largest_leaf", "x", words, true);
	struct hog hogs[] = {
		{ .name = "shm", .cgroup = "t/a" }, { .name = "anon", .cgroup = "t/b" },
		{ .name = "other", .cgroup = "t/c" },
	};

	cg_make("t/a", false);
	cg_make("t/b", false);
	cg_make("t/c", false);
	actor_start(&hogs[0], "tmpfs_stays", 0, 40);
	actor_start(&hogs[1], "anon", 0, 20);
	actor_start(&hogs[2], "anon", 0, 10);
	oom_among(&policy, hogs, 3);
	unlink("/tmp/stays");
	check_alive(&hogs[2]);
}

/* ---- D */

static void declared(const char *object, const char * const *words, int adj, bool small_dies)
{
	static const char * const pressure_words[] = {
		"scope+/t/p", "threshold_us=20000", "window_us=200000", "level=0", "cooldown_ms=600000", NULL,
	};
	struct policy policy, psi;
	struct hog eater = { .name = "eater", .cgroup = "t/p/eater", .adj = -1000 };
	struct hog hogs[] = {
		{ .name = "small", .cgroup = "t/p/small", .adj = adj }, { .name = "big", .cgroup = "t/p/big" },
	};
	struct hog *first = NULL;

	cg_make("t/p", true);
	cg_set("t/p", "memory.swap.max", 0);
	cg_make("t/p/small", false);
	cg_make("t/p/big", false);
	cg_make("t/p/eater", false);
	if (object)
		policy = start(object, "d", words, true);
	actor_start(&hogs[0], "anon", 0, 10);
	actor_start(&hogs[1], "anon", 0, 300);
	cg_set("t/p", "memory.high", cg_value("t/p", "memory.current") + 2 * MIB);
	psi = start("pressure_oom", NULL, pressure_words, false);
	hog_start(&eater);
	hog_order(&eater, 60 * MIB);
	check(wait_for((first = first_dead(hogs, 2))), "somebody dies", "yes", "nobody");
	note("adj of small %d: first to die is %s", adj, first ? first->name : "nobody");
	if (object)
		tell(&policy, hogs, 2);
	note("psi declared %llu", (unsigned long long)policy_u64(&psi, "nr_declared"));
	check(first == &hogs[small_dies ? 0 : 1], "the first to die is", small_dies ? "small" : "big", "%s",
	      first ? first->name : "nobody");
}

static const char * const as_process[] = { "victim=0", "adj_weight=100", NULL };
static void d_process_adj_1(void) { declared("largest_process", as_process, 1, false); }
static void d_process_adj_1000(void) { declared("largest_process", as_process, 1000, true); }
static const char * const as_leaf[] = { "adj_weight=100", NULL };
static void d_leaf_adj_1000(void) { declared("largest_leaf", as_leaf, 1000, true); }
static void d_leaf_adj_0(void) { declared("largest_leaf", NULL, 1000, false); }
static void d_process_adj_999(void) { declared("largest_process", as_process, 999, true); }

/* ---- E */

static void zombie_leader(const char *object, const char * const *words)
{
	struct policy policy = start(object, "e", words, true);
	struct hog hogs[] = {
		{ .name = "leaderless", .cgroup = "t/a" }, { .name = "normal", .cgroup = "t/b" },
	};

	cg_make("t/a", false);
	cg_make("t/b", false);
	actor_start(&hogs[0], "zombie_leader", 0, 40);
	actor_start(&hogs[1], "anon", 0, 15);
	oom_among(&policy, hogs, 2);
	check_alive(&hogs[1]);
}

static const char * const one_process[] = { "victim=0", NULL };
static void e_process(void) { zombie_leader("largest_process", one_process); }
static void e_leaf_cgroup(void) { zombie_leader("largest_leaf", NULL); }
static void e_leaf_process(void) { zombie_leader("largest_leaf", one_process); }

/* ---- who may call itself what */

static void of_two(const char *kind, const char *name, const char *owner, bool lives)
{
	struct policy policy = start("largest_leaf", "b", NULL, true);
	struct hog hogs[] = {
		{ .name = name, .cgroup = "t/first" }, { .name = "db", .cgroup = "t/db" },
	};

	cg_make("t/first", false);
	cg_make("t/db", false);
	if (owner)
		require(!chown(CGROUPS "t/first", atoi(owner), atoi(owner)), "a cgroup can be given away", "%s",
			strerror(errno));
	actor_start(&hogs[0], kind, 0, 30);
	actor_start(&hogs[1], "anon", 0, 12);
	oom_among(&policy, hogs, 2);
	check_alive(&hogs[lives ? 0 : 1]);
	check_killed_somewhere(&policy);
}

static void login_of_a_user_lives(void) { of_two("login", "sshd", NULL, true); }
static void root_of_a_container_is_not_root(void) { of_two("container", "sshd", NULL, false); }
static void delegated_cgroup_is_not_roots(void) { of_two("anon", "sshd", "1000", false); }

/* ---- what a kill would free */

static void request_of_everything(void)
{
	static const char * const words[] = { "adj_weight=100", NULL };
	struct policy policy = start("over_request", "r", words, true);
	struct hog hogs[] = {
		{ .name = "db", .cgroup = "t/db", .adj = -900 }, { .name = "web", .cgroup = "t/web" },
	};

	cg_make("t/db", false);
	cg_make("t/web", false);
	cg_write("t/db", "memory.low", "max");
	actor_start(&hogs[0], "anon", 0, 10);
	actor_start(&hogs[1], "anon", 0, 30);
	oom_among(&policy, hogs, 2);
	check_alive(&hogs[0]);
	check_killed_somewhere(&policy);
}

/* What is left in tmpfs no death gives back: the record says so, and somebody else dies, once. */
static void nobody_is_there_to_die(void)
{
	struct policy policy = start("largest_leaf", "n", NULL, true);
	struct hog hogs[] = {
		{ .name = "gone", .cgroup = "t/a" }, { .name = "b", .cgroup = "t/b" }, { .name = "c", .cgroup = "t/c" },
	};
	struct decision decision;

	cg_make("t/a", false);
	cg_make("t/b", false);
	cg_make("t/c", false);
	actor_start(&hogs[0], "leaves_tmpfs", 0, 45);
	wait_for(hog_reap(&hogs[0]));
	actor_start(&hogs[1], "anon", 0, 25);
	actor_start(&hogs[2], "anon", 0, 10);
	oom_among(&policy, hogs, 3);
	unlink("/tmp/left");
	check_alive(&hogs[2]);
	check_int("kills", 1, policy_u64(&policy, "nr_kills"));
	require(policy_decision(&policy, policy_u64(&policy, "nr_decisions"), &decision), "there is a decision", "none");
	check(decision.skipped[0].who.verdict == VERDICT_EMPTY && !strcmp(decision.skipped[0].path, "/t/a"),
	      "the record names what no death gives back", "/t/a, verdict 6", "%s, verdict %u",
	      decision.skipped[0].path, decision.skipped[0].who.verdict);
}

static void b_session_process(void)
{
	struct policy policy = start("largest_leaf", "b", one_process, true);
	struct hog hogs[] = {
		{ .name = "sshd", .cgroup = "t/session" }, { .name = "hog", .cgroup = "t/session" },
		{ .name = "db", .cgroup = "t/db" },
	};

	cg_make("t/session", false);
	cg_make("t/db", false);
	actor_start(&hogs[0], "anon", 0, 1);
	actor_start(&hogs[1], "anon", 0, 30);
	actor_start(&hogs[2], "anon", 0, 12);
	oom_among(&policy, hogs, 3);
	check_alive(&hogs[0]);
	check_alive(&hogs[2]);
}

/* ---- F */

static void swapoff_origin(const char *object)
{
	int status, i;
	struct policy policy;
	static char names[8][16];
	struct hog hogs[8];
	long long free_kib;
	pid_t pid;

	disk_swap_on(62);
	if (object)
		policy = start(object, "f", NULL, true);
	free_kib = meminfo_kib("MemAvailable");
	for (i = 0; i < 8; i++) {
		snprintf(names[i], sizeof(names[i]), "service%d", i);
		hogs[i] = (struct hog){ .name = names[i], .cgroup = i % 2 ? "t/odd" : "t/even" };
		if (i < 2)
			cg_make(hogs[i].cgroup, false);
		/* altogether what there is and 25 MiB more */
		actor_start(&hogs[i], "anon", 0, (free_kib / 1024 + 25) / 8);
	}
	note("available %lld MiB at first, swap used %lld KiB", free_kib / 1024,
	     meminfo_kib("SwapTotal") - meminfo_kib("SwapFree"));
	pid = fork();
	if (!pid) {
		close_range(3, ~0U, 0);
		put_file("/proc/self/oom_score_adj", "0");
		prctl(PR_SET_NAME, "swapoff");
		_exit(swapoff("/dev/vda") ? errno : 0);
	}
	status = -1;
	check(wait_for_ms((keep_going(), waitpid(pid, &status, WNOHANG) == pid), 60000), "swapoff ends", "it does", "it does not");
	note("swapoff's wait status 0x%x, %d OOM reports, swap total now %lld KiB", status, klog_count("invoked oom-killer"),
	     meminfo_kib("SwapTotal"));
	if (object)
		tell(&policy, hogs, 8);
	else
		tell(NULL, hogs, 8);
	for (i = 0; i < 8; i++)
		check_alive(&hogs[i]);
	put_file("/sys/fs/cgroup/t/cgroup.kill", "1");
	swapoff("/dev/vda");
}

static void f_leaf(void) { swapoff_origin("largest_leaf"); }
static void f_process(void) { swapoff_origin("largest_process"); }

/* ---- I */

static void i_zombies(void)
{
	struct policy policy = start("largest_leaf", "i", NULL, true);
	struct hog hogs[] = {
		{ .name = "next1", .cgroup = "t/b" }, { .name = "next2", .cgroup = "t/c" }, { .name = "next3", .cgroup = "t/d" },
	};
	int i, done[2];
	pid_t pid;
	char byte;

	/* A hundred lines each time are more than the log's buffer has room for. */
	sysctl_write("vm/oom_dump_tasks", "0");
	cg_make("t/z", false);
	cg_make("t/b", false);
	cg_make("t/c", false);
	cg_make("t/d", false);
	require(!pipe(done), "a pipe", "none");
	pid = fork();
	if (!pid) {
		/* a parent outside that never waits */
		dup2(done[1], 3);
		close_range(4, ~0U, 0);
		for (i = 0; i < 150; i++) {
			if (!fork()) {
				put_file("/proc/self/oom_score_adj", "0");
				put_file("/sys/fs/cgroup/t/z/cgroup.procs", "0");
				prctl(PR_SET_NAME, "zombie");
				anonymous(MIB / 3);
				if (write(3, "r", 1) != 1)
					_exit(1);
				for (;;)
					pause();
			}
		}
		for (;;)
			pause();
	}
	close(done[1]);
	for (i = 0; i < 150; i++)
		require(read(done[0], &byte, 1) == 1, "zombies start", "%d do", i);
	actor_start(&hogs[0], "anon", 0, 15);
	actor_start(&hogs[1], "anon", 0, 13);
	actor_start(&hogs[2], "anon", 0, 11);
	limit();
	provoke();
	check(wait_for_ms((keep_going(), hog_filled(&grower)), 60000), "the grower gets its memory", "it does", "it does not");
	tell(&policy, hogs, 3);
	note("zombies in t/z: cgroup.events populated %lld, memory.current %lld", cg_field("t/z", "cgroup.events", "populated"),
	     cg_value("t/z", "memory.current"));
	for (i = 0; i < 3; i++) {
		limit();
		grower.filled = false;
		hog_order(&grower, 4 * MIB);
		check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	}
	tell(&policy, hogs, 3);
	kill(pid, SIGKILL);
}

/* ---- who is protected hides the rest: more than 64 walks of 8 */

/* 600 protected leaves, each larger than the one that may die. */
static void hidden(int keepers)
{
	static const char * const words[] = { "protect+name:keeper", NULL };
	struct policy policy = start("largest_leaf", "h", words, false);
	struct hog hogs[] = { { .name = "mortal", .cgroup = "t/mortal" } };
	int before;

	sysctl_write("vm/oom_dump_tasks", "0");
	sysctl_write("vm/bpf_oom_budget_ms", "0");
	cg_make("t/mortal", false);
	crowd("keeper", "t", keepers, 1024, 1, 0);
	actor_start(&hogs[0], "anon", 0, 3);
	limit();
	before = count_threads("keeper");
	cg_make("t/grower", false);
	hog_start(&grower);
	hog_order(&grower, 3 * MIB);
	check(wait_for_ms((keep_going(), klog_has("Killed process")), 60000), "somebody dies", "yes", "no");
	pause_ms(500);
	tell(&policy, hogs, 1);
	note("keepers %d before, %d now", before, count_threads("keeper"));
	check_killed(&hogs[0]);
	check(!strstr(klog(), "(keeper)"), "no keeper dies", "none", "one");
	sysctl_write("vm/bpf_oom_budget_ms", "1000");
	put_file("/sys/fs/cgroup/t/cgroup.kill", "1");
	keep_going();
}

static void h_hidden_400(void) { hidden(400); }
static void h_hidden_600(void) { hidden(600); }

/* ---- 1 */

static void group_with_minus_1000(const char *object, const char * const *words, int oom_group)
{
	struct policy policy = start(object, "x", words, true);
	struct hog hogs[] = {
		{ .name = "sidecar", .cgroup = "t/a", .adj = -1000 }, { .name = "hog", .cgroup = "t/a" },
		{ .name = "db", .cgroup = "t/db" },
	};

	cg_make("t/a", false);
	cg_make("t/db", false);
	cg_set("t/a", "memory.oom.group", oom_group);
	actor_start(&hogs[0], "anon", 0, 1);
	actor_start(&hogs[1], "anon", 0, 30);
	actor_start(&hogs[2], "anon", 0, 12);
	oom_among(&policy, hogs, 3);
	check_alive(&hogs[0]);
	check_alive(&hogs[2]);
}

static const char * const as_group[] = { "victim=2", NULL };
static void x1_leaf(void) { group_with_minus_1000("largest_leaf", NULL, 0); }
static void x1_leaf_group(void) { group_with_minus_1000("largest_leaf", NULL, 1); }
static void x1_oom_group(void) { group_with_minus_1000("largest_leaf", as_group, 1); }

/* ---- 2 */

static void x2_bomb(void)
{
	struct policy policy = start("largest_leaf", "x", NULL, true);
	struct hog hogs[] = {
		{ .name = "bomb0", .cgroup = "t/a" }, { .name = "bomb1", .cgroup = "t/a" }, { .name = "bomb2", .cgroup = "t/a" },
		{ .name = "bomb3", .cgroup = "t/a" }, { .name = "db", .cgroup = "t/db" },
	};
	long long forks;
	int i;

	cg_make("t/a", false);
	cg_make("t/db", false);
	actor_start(&hogs[4], "anon", 0, 12);
	for (i = 0; i < 4; i++)
		actor_start(&hogs[i], "bomb", 0, 8);
	pause_ms(1500);
	cg_set("t", "memory.swap.max", 0);
	forks = vmstat("oom_kill");
	cg_set("t", "memory.max", cg_value("t", "memory.current") + 2 * MIB);
	provoke();
	check(wait_for_ms((keep_going(), hog_filled(&grower)), 60000), "the grower gets its memory", "it does", "it does not");
	wait_for_ms(!cg_field("t/a", "cgroup.events", "populated"), 10000);
	tell(&policy, hogs, 5);
	note("oom kills %lld, of t/a %lld, populated %lld", vmstat("oom_kill") - forks,
	     cg_field("t/a", "memory.events", "oom_kill"), cg_field("t/a", "cgroup.events", "populated"));
	check_alive(&hogs[4]);
	check_int("t/a is empty", 0, cg_field("t/a", "cgroup.events", "populated"));
}

/* ---- 4, 6, 7, 8, 9 */

static void special(const char *kind, const char *object, const char * const *words, bool frozen, int adj)
{
	struct policy policy = start(object, "x", words, true);
	struct hog hogs[] = {
		{ .name = "special", .cgroup = "t/a", .adj = adj }, { .name = "anon", .cgroup = "t/b" },
		{ .name = "other", .cgroup = "t/c" },
	};

	cg_make("t/a", false);
	cg_make("t/b", false);
	cg_make("t/c", false);
	actor_start(&hogs[0], kind, 0, 40);
	actor_start(&hogs[1], "anon", 0, 20);
	actor_start(&hogs[2], "anon", 0, 10);
	if (frozen)
		cg_freeze("t/a", true);
	oom_among(&policy, hogs, 3);
	if (adj == -1000) {
		check_alive(&hogs[0]);
		check_killed(&hogs[1]);
	} else {
		check_alive(&hogs[1]);
	}
	check_alive(&hogs[2]);
}

static void x4_mlock(void) { special("mlock", "largest_leaf", NULL, false, 0); }
static void x6_frozen(void) { special("anon", "largest_leaf", NULL, true, 0); }
static void x6_frozen_process(void) { special("anon", "largest_process", one_process, true, 0); }
static void x7_vfork_leaf(void) { special("vfork", "largest_leaf", NULL, false, 0); }
static void x7_vfork_process(void) { special("vfork", "largest_process", one_process, false, 0); }
static void x7_vfork_leaf_process(void) { special("vfork", "largest_leaf", one_process, false, 0); }
static void x8_unkillable(void) { special("anon", "largest_leaf", NULL, false, -1000); }
static void x2_threads(void) { special("threads", "largest_process", one_process, false, 0); }

static void x7_dstate(void)
{
	struct policy policy = start("largest_leaf", "x", NULL, true);
	struct hog hogs[] = { { .name = "dstate", .cgroup = "t/a" }, { .name = "anon", .cgroup = "t/b" } };
	int fd;

	mkdir("/mnt", 0755);
	require(!mount("/dev/vda", "/mnt", "ext4", 0, NULL), "the disk can be mounted", "%s", strerror(errno));
	close(open("/mnt/file", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	fd = open("/mnt", O_RDONLY | O_CLOEXEC);
	require(!ioctl(fd, FIFREEZE, 0), "the file system freezes", "%s", strerror(errno));
	cg_make("t/a", false);
	cg_make("t/b", false);
	actor_start(&hogs[0], "dstate", 0, 40);
	actor_start(&hogs[1], "anon", 0, 20);
	oom_among(&policy, hogs, 2);
	check_int("kills", 1, policy_u64(&policy, "nr_kills"));
	check_alive(&hogs[1]);
	/* more while it still hangs */
	hog_order(&grower, 42 * MIB);
	check(wait_for(hog_filled(&grower)), "the grower gets more", "it does", "it does not");
	tell(&policy, hogs, 2);
	ioctl(fd, FITHAW, 0);
	close(fd);
	check_killed(&hogs[0]);
	umount("/mnt");
}

/* Who has the memory of somebody protected in common dies, and so does the protected one. */
static void x7_clone_vm(void)
{
	static const char * const words[] = { "victim=0", "protect+name:keeper", NULL };
	struct policy policy = start("largest_process", "x", words, false);
	struct hog hogs[] = { { .name = "keeper", .cgroup = "t/a" }, { .name = "anon", .cgroup = "t/c" } };

	cg_make("t/a", false);
	cg_make("t/b", false);
	cg_make("t/c", false);
	actor_start(&hogs[0], "clone_vm", 0, 40);
	actor_start(&hogs[1], "anon", 0, 20);
	oom_among(&policy, hogs, 2);
	check_alive(&hogs[0]);
}

static void threaded(const char *object, const char * const *words, int survivor)
{
	struct policy policy = start(object, "x", words, true);
	struct hog hogs[] = {
		{ .name = "worker", .cgroup = "t/d/w" }, { .name = "anon", .cgroup = "t/b" },
	};

	cg_make("t/b", false);
	cg_make("t/d", false);
	cg_make("t/d/w", false);
	cg_write("t/d/w", "cgroup.type", "threaded");
	/* in t/d first; a threaded cgroup takes processes of its own domain */
	hogs[0].cgroup = "t/d";
	actor_start(&hogs[0], "threads", 0, 40);
	cg_join("t/d/w", hogs[0].pid);
	actor_start(&hogs[1], "anon", 0, 20);
	oom_among(&policy, hogs, 2);
	check_alive(&hogs[survivor]);
}

static const char * const guarded_worker[] = { "protect+/t/d/w", NULL };
static void x9_threaded_leaf(void) { threaded("largest_leaf", NULL, 1); }
static void x9_threaded_process(void) { threaded("largest_process", one_process, 1); }
static void x9_threaded_protected(void)
{
	/* by the path of its threaded cgroup */
	threaded("largest_leaf", guarded_worker, 0);
}

/* ---- 10 */

static void x10_observe_first(void)
{
	static const char * const seen[] = { "mode=1", "scope+/t", NULL };
	static const char * const act[] = { "scope+/", NULL };
	struct policy first = start("largest_process", "first", seen, true), second = start("largest_leaf", "second", act, true);
	struct hog hogs[] = {
		{ .name = "pair1", .cgroup = "t/a" }, { .name = "pair2", .cgroup = "t/a" }, { .name = "single", .cgroup = "t/b" },
	};

	cg_make("t/a", false);
	cg_make("t/b", false);
	actor_start(&hogs[0], "anon", 0, 14);
	actor_start(&hogs[1], "anon", 0, 14);
	actor_start(&hogs[2], "anon", 0, 20);
	limit();
	provoke();
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	tell(&first, hogs, 3);
	tell(&second, hogs, 3);
	check_alive(&hogs[2]);
	check(policy_u64(&first, "nr_passes") > 0, "who observes counts that it passed", "1 or more", "none");
}

/* ---- 3: tmpfs that stays when the process is gone */
static void stays(const char *object, const char * const *words)
{
	struct policy policy;
	struct hog hogs[] = {
		{ .name = "shm", .cgroup = "t/a" }, { .name = "anon", .cgroup = "t/b" }, { .name = "other", .cgroup = "t/c" },
	};

	if (object)
		policy = start(object, "x", words, true);
	cg_make("t/a", false);
	cg_make("t/b", false);
	cg_make("t/c", false);
	actor_start(&hogs[0], "tmpfs_stays", 0, 40);
	actor_start(&hogs[1], "anon", 0, 20);
	actor_start(&hogs[2], "anon", 0, 10);
	limit();
	provoke();
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	tell(object ? &policy : NULL, hogs, 3);
	unlink("/tmp/stays");
	check_alive(&hogs[2]);
}

static void x3_leaf(void) { stays("largest_leaf", NULL); }
static void x3_process(void) { stays("largest_process", one_process); }

/* ---- 5 */

static void named(const char *name, const char *glob, bool spared)
{
	const char *words[] = { glob, NULL };
	struct policy policy = start("largest_leaf", "x", words, false);
	char path[400];
	struct hog hogs[] = { { .name = "odd", .cgroup = path }, { .name = "anon", .cgroup = "t/b" } };

	snprintf(path, sizeof(path), "t/%s", name);
	cg_make("t/b", false);
	cg_make(path, false);
	actor_start(&hogs[0], "anon", 0, 40);
	actor_start(&hogs[1], "anon", 0, 20);
	oom_among(&policy, hogs, 2);
	if (spared)
		check_alive(&hogs[0]);
	else
		check_killed(&hogs[0]);
}

static void x5_space(void) { named("my db", "protect+/t/my db", true); }
static void x5_backslash(void) { named("dev-\\x2d", "protect+/t/dev-\\x2d", true); }
static void x5_not_utf8(void) { named("caf\xe9\xff", "protect+/t/caf??", true); }
static void x5_star_in_name(void) { named("a*b", "protect+/t/a*b", true); }
static void x5_255(void)
{
	static char name[256], glob[400];

	memset(name, 'n', 255);
	snprintf(glob, sizeof(glob), "protect+/t/%.200s*", name);
	named(name, glob, true);
}
static void x5_stars(void)
{
	static char name[256];

	memset(name, 'n', 255);
	/* does the comparison run out of its 4096 steps? */
	named(name, "protect+/t/*n*n*n*n*n*nx", false);
}
static void x5_stars_match(void)
{
	static char name[256];

	memset(name, 'n', 250);
	strcat(name, "x");
	named(name, "protect+/t/*nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnx", true);
}
static void x5_newline(void)
{
	check(mkdir("/sys/fs/cgroup/t/new\nline", 0755) && errno == EINVAL, "the kernel refuses a newline", "EINVAL", "%s",
	      strerror(errno));
}

const struct scenario victim_scenarios[] = {
	{ "a_leaf_name", "victims", a_leaf_name },
	{ "a_leaf_path", "victims", a_leaf_path },
	{ "a_process_ranked", "victims", a_process_ranked },
	{ "a_leaf_victim_process", "victims", a_leaf_victim_process },
	{ "a_leaf_minus_1000", "victims", a_leaf_minus_1000 },
	{ "b_session", "victims", b_session },
	{ "b_renamed", "victims", b_renamed },
	{ "b_deep_31", "victims", b_deep_31 },
	{ "b_deep_34", "victims", b_deep_34 },
	{ "b_deep_34_empty_protect", "victims", b_deep_34_empty_protect },
	{ "b_long", "victims", b_long },
	{ "b_long_empty_protect", "victims", b_long_empty_protect },
	{ "c_memfd_mapped", "victims", c_memfd_mapped },
	{ "c_memfd_written", "victims", c_memfd_written },
	{ "c_shared_anonymous", "victims", c_shared_anonymous },
	{ "c_process", "victims", c_process },
	{ "x_tmpfs_stays", "victims", x_tmpfs_stays },
	{ "d_process_adj_1", "victims", d_process_adj_1 },
	{ "d_process_adj_1000", "victims", d_process_adj_1000 },
	{ "d_process_adj_999", "victims", d_process_adj_999 },
	{ "d_leaf_adj_1000", "victims", d_leaf_adj_1000 },
	{ "d_leaf_adj_0", "victims", d_leaf_adj_0 },
	{ "e_process", "victims", e_process },
	{ "e_leaf_cgroup", "victims", e_leaf_cgroup },
	{ "e_leaf_process", "victims", e_leaf_process },
	{ "login_of_a_user_lives", "victims", login_of_a_user_lives },
	{ "root_of_a_container_is_not_root", "victims", root_of_a_container_is_not_root },
	{ "delegated_cgroup_is_not_roots", "victims", delegated_cgroup_is_not_roots },
	{ "request_of_everything", "victims", request_of_everything },
	{ "nobody_is_there_to_die", "victims", nobody_is_there_to_die },
	{ "b_session_process", "victims", b_session_process },
	{ "i_zombies", "victims", i_zombies },
	{ "x1_leaf", "victims", x1_leaf },
	{ "x1_leaf_group", "victims", x1_leaf_group },
	{ "x1_oom_group", "victims", x1_oom_group },
	{ "x2_bomb", "victims", x2_bomb },
	{ "x2_threads", "victims", x2_threads },
	{ "x3_leaf", "victims", x3_leaf },
	{ "x3_process", "victims", x3_process },
	{ "x4_mlock", "victims", x4_mlock },
	{ "x5_space", "victims", x5_space },
	{ "x5_backslash", "victims", x5_backslash },
	{ "x5_not_utf8", "victims", x5_not_utf8 },
	{ "x5_star_in_name", "victims", x5_star_in_name },
	{ "x5_255", "victims", x5_255 },
	{ "x5_stars", "victims", x5_stars },
	{ "x5_stars_match", "victims", x5_stars_match },
	{ "x5_newline", "victims", x5_newline },
	{ "x6_frozen", "victims", x6_frozen },
	{ "x6_frozen_process", "victims", x6_frozen_process },
	{ "x7_vfork_leaf", "victims", x7_vfork_leaf },
	{ "x7_vfork_process", "victims", x7_vfork_process },
	{ "x7_vfork_leaf_process", "victims", x7_vfork_leaf_process },
	{ "x7_dstate", "victims", x7_dstate },
	{ "x7_clone_vm", "victims", x7_clone_vm },
	{ "x8_unkillable", "victims", x8_unkillable },
	{ "x9_threaded_leaf", "victims", x9_threaded_leaf },
	{ "x9_threaded_process", "victims", x9_threaded_process },
	{ "x9_threaded_protected", "victims", x9_threaded_protected },
	{ "x10_observe_first", "victims", x10_observe_first },
	{ "h_hidden_400", "hidden", h_hidden_400 },
	{ "h_hidden_600", "hidden", h_hidden_600 },
	{ "f_leaf", "swapoff", f_leaf },
	{ "f_process", "swapoff", f_process },
	{ }
};
