// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Whose memory a cgroup's is, when it is not simply that of its processes: who moved, who
 * forked, who left, and what outlives a death. Nobody hides by it, and nobody pays for it.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "actors.h"
#include "decision.h"

static const char * const one_process[] = { "victim=0", NULL };
static const char * const as_group[] = { "victim=2", NULL };

static void make_three(void)
{
	cg_make("t/a", false);
	cg_make("t/b", false);
	cg_make("t/db", false);
}

/* ---- charges stay where they were made */

static void moves_out(const char *object, const char * const *words, bool leaves_helper, bool to_group)
{
	struct policy policy = start(object, "moved", words, true);
	struct hog hogs[] = {
		{ .name = "hog", .cgroup = "t/a" }, { .name = "db", .cgroup = "t/db" },
		{ .name = "helper", .cgroup = "t/a" },
	};

	make_three();
	actor_start(&hogs[0], "anon", 0, 40);
	if (leaves_helper)
		actor_start(&hogs[2], "anon", 0, 1);
	actor_start(&hogs[1], "anon", 0, 12);
	if (to_group) {
		cg_write("t/b", "memory.oom.group", "1");
		cg_write("t/b", "cgroup.subtree_control", "+memory");
		cg_make("t/b/inner", false);
	}
	cg_join(to_group ? "t/b/inner" : "t/b", hogs[0].pid);
	oom_among(&policy, hogs, leaves_helper ? 3 : 2);
	check_killed(&hogs[0]);
	check_alive(&hogs[1]);
	if (leaves_helper)
		check_alive(&hogs[2]);
	check_killed_somewhere(&policy);
}

static void moved_process_is_found(void) { moves_out("largest_leaf", NULL, false, false); }
static void moved_process_is_found_by_itself(void) { moves_out("largest_leaf", one_process, false, false); }
static void who_moved_into_a_group_is_found(void) { moves_out("largest_leaf", as_group, false, true); }
static void who_stays_does_not_pay_for_who_moved(void) { moves_out("largest_leaf", NULL, true, false); }

/* A child that was forked and moved shows its parent's memory as its own, and gives none of it back. */
static void forked(int adj, bool parent_dies)
{
	struct policy policy = start("largest_leaf", "forked", NULL, true);
	struct hog hogs[] = {
		{ .name = "parent", .cgroup = "t/a", .adj = adj }, { .name = "db", .cgroup = "t/db" },
	};
	char text[32];
	pid_t child;
	FILE *file;

	make_three();
	actor_start(&hogs[0], "forks", 0, 30);
	actor_start(&hogs[1], "anon", 0, 12);
	snprintf(text, sizeof(text), "/proc/%d/task/%d/children", hogs[0].pid, hogs[0].pid);
	file = fopen(text, "re");
	require(file && fscanf(file, "%d", &child) == 1, "the parent has a child", "%s has not", text);
	fclose(file);
	cg_join("t/b", child);
	snprintf(text, sizeof(text), "%d/oom_score_adj", child);
	proc_write(text, "0");
	oom_among(&policy, hogs, 2);
	if (parent_dies) {
		check_killed(&hogs[0]);
		check_alive(&hogs[1]);
	} else {
		check_alive(&hogs[0]);
		check(!kill(child, 0), "the child lives", "it does", "it does not");
		check_killed(&hogs[1]);
	}
	check_killed_somewhere(&policy);
}

static void child_of_a_survivor_gives_nothing_back(void) { forked(-1000, false); }
static void parent_and_moved_child_hold_it_together(void) { forked(0, true); }

/* ---- a first thread that has ended stays where the process was */

static void leader_left_behind(const char * const *words)
{
	struct policy policy = start("largest_leaf", "leader", words, true);
	struct hog hogs[] = { { .name = "hog", .cgroup = "t/a" }, { .name = "db", .cgroup = "t/db" } };

	make_three();
	actor_start(&hogs[0], "zombie_leader_moves", 0, 40);
	actor_start(&hogs[1], "anon", 0, 12);
	oom_among(&policy, hogs, 2);
	/* The kernel tells the pid of the thread that it found alive. */
	check(hog_reap(&hogs[0]), "the process without its leader dies", "it does", "it lives");
	check_alive(&hogs[1]);
	check_killed_somewhere(&policy);
}

static void process_without_its_leader_is_found(void) { leader_left_behind(NULL); }
static void process_without_its_leader_is_found_by_itself(void) { leader_left_behind(one_process); }

static void leader_left_behind_is_no_reason_to_die(void)
{
	struct policy policy = start("largest_leaf", "leader", NULL, true);
	struct hog hogs[] = {
		{ .name = "threads", .cgroup = "t/a" }, { .name = "hog", .cgroup = "t/a" },
		{ .name = "db", .cgroup = "t/db" },
	};

	make_three();
	actor_start(&hogs[0], "zombie_leader_moves", 0, 4);
	actor_start(&hogs[1], "anon", 0, 30);
	actor_start(&hogs[2], "anon", 0, 12);
	oom_among(&policy, hogs, 3);
	check_killed(&hogs[1]);
	check_alive(&hogs[0]);
	check_alive(&hogs[2]);
}

/* ---- nobody is so small that the kernel should choose */

static void all_are_small(const char *object, const char * const *words)
{
	struct policy policy = start(object, "small", words, false);
	struct hog hogs[] = {
		{ .name = "keeper", .cgroup = "t/a" }, { .name = "small", .cgroup = "t/b" },
	};

	make_three();
	actor_start(&hogs[0], "anon", 0, 24);
	actor_start(&hogs[1], "anon", 0, 9);
	oom_among(&policy, hogs, 2);
	check_alive(&hogs[0]);
	check_killed(&hogs[1]);
	check_killed_somewhere(&policy);
}

static void small_process_dies_before_a_protected_one(void)
{
	static const char * const words[] = { "protect+name:keeper", "victim=0", "min_usage=16777216", NULL };

	all_are_small("youngest", words);
}

static void small_leaf_dies_before_a_protected_one(void)
{
	static const char * const words[] = { "protect+name:keeper", "min_usage=16777216", NULL };

	all_are_small("largest_leaf", words);
}

/* ---- what outlived a death is not what is mapped now */

static void shared_memory_filled_anew_counts(void)
{
	struct policy policy = start("largest_leaf", "anew", NULL, true);
	struct hog hogs[] = { { .name = "first", .cgroup = "t/a" }, { .name = "db", .cgroup = "t/db" } };
	struct hog next = { .name = "second", .cgroup = "t/a" };

	make_three();
	actor_start(&hogs[0], "memfd", 0, 30);
	actor_start(&hogs[1], "anon", 0, 14);
	oom_among(&policy, hogs, 2);
	check_killed(&hogs[0]);
	cg_write("t", "memory.max", "max");
	actor_start(&next, "memfd", 0, 30);
	limit();
	hog_order(&grower, 4 * MIB);
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	tell(&policy, &next, 1);
	check_killed(&next);
	check_alive(&hogs[1]);
}

/* ---- what survivors have in common they hold once */

static void survivors_hold_shared_memory_once(void)
{
	static const char * const words[] = { "protect+name:keeper", NULL };
	struct policy policy = start("largest_leaf", "once", words, false);
	struct hog hogs[] = {
		{ .name = "keeper", .cgroup = "t/a" }, { .name = "backend", .cgroup = "t/a" },
		{ .name = "db", .cgroup = "t/db" },
	};

	make_three();
	actor_start(&hogs[0], "family", 0, 10);
	actor_start(&hogs[1], "anon", 0, 25);
	actor_start(&hogs[2], "anon", 0, 14);
	oom_among(&policy, hogs, 3);
	check_alive(&hogs[0]);
	check_killed(&hogs[1]);
	check_alive(&hogs[2]);
}

/* ---- a cgroup that is spared because of one of its processes is not killed by a group either */

static void group_of_a_sheltered_leaf_lives(void)
{
	static const char * const words[] = { "shelter=1", NULL };
	struct policy policy = start("largest_leaf", "group", words, false);
	struct hog hogs[] = {
		{ .name = "excepted", .cgroup = "t/group/b", .adj = -1000 }, { .name = "mate", .cgroup = "t/group/b" },
		{ .name = "big", .cgroup = "t/group/a" }, { .name = "db", .cgroup = "t/db" },
	};

	cg_make("t/group", true);
	cg_write("t/group", "memory.oom.group", "1");
	cg_make("t/group/a", false);
	cg_make("t/group/b", false);
	cg_make("t/db", false);
	actor_start(&hogs[0], "anon", 0, 1);
	actor_start(&hogs[1], "anon", 0, 2);
	actor_start(&hogs[2], "anon", 0, 24);
	actor_start(&hogs[3], "anon", 0, 12);
	oom_among(&policy, hogs, 4);
	check_alive(&hogs[0]);
	check_alive(&hogs[1]);
	check_killed(&hogs[3]);
}

/* ---- processes of the root cgroup, which no limit ever ends */

static void process_of_the_root_cgroup_dies(void)
{
	struct policy policy = start("largest_leaf", "root", NULL, true);
	struct hog hogs[] = { { .name = "in_root", .cgroup = "" }, { .name = "db", .cgroup = "t/db" } };

	cg_make("t/db", false);
	actor_start(&hogs[1], "anon", 0, 20);
	actor_start(&hogs[0], "anon", 0, 60);
	provoke_all();
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	tell(&policy, hogs, 2);
	check_killed(&hogs[0]);
	check_alive(&hogs[1]);
	check_killed_somewhere(&policy);
}

/* The statistics of the root are those of the system: no process of it has all page cache. */
static void page_cache_of_all_is_not_the_roots(void)
{
	static const char * const words[] = { "count_file=1", NULL };
	struct policy policy = start("largest_leaf", "root", words, true);
	struct hog hogs[] = { { .name = "in_root", .cgroup = "" }, { .name = "db", .cgroup = "t/db" } };
	struct hog cached = { .name = "cached", .cgroup = "t/cached", .disk = true };

	cg_make("t/db", false);
	cg_make("t/cached", false);
	hog_start(&cached);
	require(hog_fill(&cached, 30 * MIB), "the cache fills", "it does not");
	actor_start(&hogs[0], "anon", 0, 25);
	actor_start(&hogs[1], "anon", 0, 40);
	provoke_all();
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	tell(&policy, hogs, 2);
	check_alive(&hogs[0]);
	check_killed(&hogs[1]);
	check_killed_somewhere(&policy);
}

const struct scenario hiding_scenarios[] = {
	{ "moved_process_is_found", "victims", moved_process_is_found },
	{ "moved_process_is_found_by_itself", "victims", moved_process_is_found_by_itself },
	{ "who_moved_into_a_group_is_found", "victims", who_moved_into_a_group_is_found },
	{ "who_stays_does_not_pay_for_who_moved", "victims", who_stays_does_not_pay_for_who_moved },
	{ "child_of_a_survivor_gives_nothing_back", "victims", child_of_a_survivor_gives_nothing_back },
	{ "parent_and_moved_child_hold_it_together", "victims", parent_and_moved_child_hold_it_together },
	{ "process_without_its_leader_is_found", "victims", process_without_its_leader_is_found },
	{ "process_without_its_leader_is_found_by_itself", "victims", process_without_its_leader_is_found_by_itself },
	{ "leader_left_behind_is_no_reason_to_die", "victims", leader_left_behind_is_no_reason_to_die },
	{ "small_process_dies_before_a_protected_one", "victims", small_process_dies_before_a_protected_one },
	{ "small_leaf_dies_before_a_protected_one", "victims", small_leaf_dies_before_a_protected_one },
	{ "shared_memory_filled_anew_counts", "victims", shared_memory_filled_anew_counts },
	{ "survivors_hold_shared_memory_once", "victims", survivors_hold_shared_memory_once },
	{ "group_of_a_sheltered_leaf_lives", "victims", group_of_a_sheltered_leaf_lives },
	{ "process_of_the_root_cgroup_dies", "global", process_of_the_root_cgroup_dies },
	{ "page_cache_of_all_is_not_the_roots", "global", page_cache_of_all_is_not_the_roots },
	{ }
};
