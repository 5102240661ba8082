/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The skeleton of every OOM policy: it walks, spares, kills, counts, records and observes.
 * A policy only ranks; it includes rank_cgroups.h or rank_processes.h, which say what it
 * has to write.
 *
 * The choice is one pass over the cgroups, from the top down. What a candidate can be worth
 * at most is known at once; only who beats the best few with that is looked at closely:
 * who of its processes may die, and how much memory that would give back. Whoever cannot
 * is never among the best, so nobody can hide behind others. Choosing needs no OOM.
 */
#ifndef BPF_OOM_OOM_H
#define BPF_OOM_OOM_H

#include <bpf_oom/decision.h>
#include <bpf_oom/memory.h>
#include <bpf_oom/subject.h>

/*
 * The cgroups whose OOMs the policy answers for, with all below them; "/" is the system.
 * Empty: every OOM.
 */
SELECTORS(scope);
SELECTS_PATHS(scope)

/*
 * Who never dies by this policy: cgroups with all below them, the own processes of cgroups,
 * process names, users. Empty: nobody but those whom the kernel excepts.
 */
SELECTORS(protect);
SELECTS_PATHS(protect)
SELECTS_PROCESSES(protect, false)

/* The same, for what a site adds to the list above. Empty: nobody. */
SELECTORS(protect_extra);
SELECTS_PATHS(protect_extra)
SELECTS_PROCESSES(protect_extra, false)

/* Who dies only when there is nobody else. Empty: nobody. */
SELECTORS(avoid);
SELECTS_PATHS(avoid)

/* Who dies first. Empty: nobody. */
SELECTORS(prefer);
SELECTS_PATHS(prefer)

/* What dies: VICTIM_PROCESS (0), VICTIM_CGROUP (1), VICTIM_OOM_GROUP (2). */
const volatile u32 victim = 1;

enum { VICTIM_PROCESS, VICTIM_CGROUP, VICTIM_OOM_GROUP };

/*
 * What a process that may not die shelters besides itself: SHELTER_PROCESS (0) nothing,
 * SHELTER_CGROUP (1) all of its leaf cgroup.
 */
const volatile u32 shelter;

enum { SHELTER_PROCESS, SHELTER_CGROUP };

/*
 * How much oom_score_adj weighs: 100 as in the kernel's own heuristic, where 1000 stands
 * for all the memory that the OOM is about. A cgroup counts with the lowest of those of its
 * processes that may die. Unit: percent. 0: not at all, but -1000 always excepts.
 */
const volatile u32 adj_weight;

/*
 * For so long after a kill in a cgroup that cgroup comes last. Never is an OOM left to the
 * kernel for it. Unit: milliseconds. 0: no pause; the kernel waits for a victim that is
 * exiting anyway.
 */
const volatile u32 cooldown_ms;

/*
 * Who would give back less than this comes last of all. Never is an OOM left to the kernel
 * for it. Unit: bytes. 0: any size will do.
 */
const volatile u64 min_usage;

u64 nr_kills COUNTER;		/* processes killed */
u64 nr_out_of_scope COUNTER;	/* OOMs that the policy does not answer for */
u64 nr_late COUNTER;		/* decisions for which there was no time to look at all */

/* The prefix of the kill's line in the kernel log; OOM_POLICY() fills it in. */
const char kill_message[64];

/* A rank that says: not this one. */
#define RANK_SKIP	S64_MIN

/* Defined by a policy whose rank of a cgroup is never higher than what is charged to it. */
#ifndef RANKS_WITHIN_USAGE
#define RANKS_WITHIN_USAGE 0
#endif

#define MAX_BEST	8

/* Passes over all cgroups; more than one only where the kernel refused all of the best. */
#define MAX_PASSES	64

/*
 * So long after a kill the tmpfs that the cgroup had then, and that nobody in it maps now,
 * counts as kept.
 */
#define KEPT_NS		60000000000ULL

/* What the policy did in a cgroup. */
struct act {
	u64 time_ns;
	u64 shmem;	/* bytes of tmpfs and shared memory that the cgroup had then */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 256);
	__type(key, u64);
	__type(value, struct act);
} acted SEC(".maps");

/*
 * Address spaces that belong to a process that may not die and to others as well, by
 * address, with the number of the decision that found it out.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, u64);
} sheltered SEC(".maps");

/*
 * Whom the kernel refused, with the number of the decision: a process by its pid, a cgroup
 * as a whole by its id.
 */
#define PROCESS_KEY(pid)	(1ULL << 63 | (u32)(pid))

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, u64);
} refused SEC(".maps");

/*
 * A process whose first thread has ended is shown in the cgroup where that was then, even
 * when its other threads have moved since. By the id of the memcg where they are now: the
 * process with most memory, by a thread that lives.
 */
struct stray {
	u64 number;	/* of the decision that found it */
	u64 usage;
	s32 pid;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, struct stray);
} strays SEC(".maps");

/* Why somebody may not die: a verdict, and the place of the selector plus 1 above it. */
#define SPARED(verdict, place)	((verdict) | ((u32)(place) + 1) << 8)
#define SPARED_VERDICT(spared)	((spared) & 0xff)
#define SPARED_PLACE(spared)	((s32)((spared) >> 8) - 1)

/* OOM handlers run one at a time under oom_lock: globals serve as scratch space. */
static struct choice {
	struct candidate best[MAX_BEST];	/* who may die, best first */
	struct candidate skipped[MAX_BEST];	/* the best of those who may not */
	u64 number;			/* of the decision */
	u64 top_id;
	u64 root_id;
	u64 deadline_ns;		/* 0: there is none */
	u64 everybody_ns;		/* half of the time may go to look_at_everybody() */
	u64 group_id;			/* memory.oom.group that was judged last */
	u32 group_spared;
	u32 hopeless_level;		/* a cgroup below which nobody is looked for, 0: none */
	u64 hopeless_id;
	u64 unowned;			/* anonymous bytes that nobody has where they are charged */
	u32 nr_refused;
	u32 nr_strays;
	u32 nr_considered;
	u32 nr_protected;
	u32 nr_unkillable;
	u32 nr_small;
	u32 nr_killed;
	u32 nr_unseen;
	bool tiers;			/* some are preferred or avoided */
	bool late;
	bool blind;			/* no time to find out who shares memory with whom */
} choice;

static struct subject subject;
static struct path_room path_room;

/* A total order: tier, score, and of two the younger one. */
static __always_inline bool comes_before(const struct candidate *a, const struct candidate *b)
{
	if (a->tier != b->tier)
		return a->tier > b->tier;
	if (a->score != b->score)
		return a->score > b->score;
	if (a->cgroup_id != b->cgroup_id)
		return a->cgroup_id > b->cgroup_id;
	return a->pid > b->pid;
}

static __always_inline void insert(struct candidate list[MAX_BEST], const struct candidate *given)
{
	struct candidate moved = *given;
	int i;

	for (i = 0; i < MAX_BEST; i++) {
		if (!list[i].cgroup_id || comes_before(&moved, &list[i])) {
			struct candidate worse = list[i];

			list[i] = moved;
			moved = worse;
			if (!moved.cgroup_id)
				return;
		}
	}
}

__noinline int keep_best(struct candidate *given)
{
	if (given)
		insert(choice.best, given);
	return 0;
}

/* For a candidate that is looked at again, and counts with more. */
__noinline int forget(u64 cgroup_id)
{
	bool forgotten = false;
	int i;

	for (i = 0; i < MAX_BEST - 1; i++) {
		if (choice.best[i].cgroup_id == cgroup_id)
			forgotten = true;
		if (forgotten)
			choice.best[i] = choice.best[i + 1];
	}
	if (forgotten || choice.best[i].cgroup_id == cgroup_id)
		choice.best[i].cgroup_id = 0;
	return 0;
}

static __always_inline bool was_refused(u64 key)
{
	u64 *number = choice.nr_refused ? bpf_map_lookup_elem(&refused, &key) : NULL;

	return number && *number == choice.number;
}

static __always_inline void note_refused(const struct candidate *candidate)
{
	u64 key = candidate->pid ? PROCESS_KEY(candidate->pid) : candidate->cgroup_id;

	bpf_map_update_elem(&refused, &key, &choice.number, BPF_ANY);
	choice.nr_refused++;
}

__noinline int keep_skipped(struct candidate *given)
{
	if (given)
		insert(choice.skipped, given);
	return 0;
}

/* Remember who would have been among the best, and why it may not die. */
static __always_inline void skip(struct candidate *candidate, u32 spared)
{
	candidate->verdict = SPARED_VERDICT(spared);
	candidate->spared_by = SPARED_PLACE(spared);
	if (candidate->verdict == VERDICT_PROTECTED || candidate->verdict == VERDICT_SHARES)
		choice.nr_protected++;
	else if (candidate->verdict == VERDICT_UNKILLABLE)
		choice.nr_unkillable++;
	keep_skipped(candidate);
}

/*
 * What is worth less than this rank makes no difference: a policy may return it, or less,
 * instead of looking closer.
 */
static __always_inline s64 rank_bound(void)
{
	if (choice.tiers || adj_weight || min_usage || !choice.best[MAX_BEST - 1].cgroup_id)
		return S64_MIN;
	return choice.best[MAX_BEST - 1].score;
}

/* Whether a candidate would be among the best. */
static __always_inline bool is_among_best(const struct candidate *candidate)
{
	return !choice.best[MAX_BEST - 1].cgroup_id ||
	       comes_before(candidate, &choice.best[MAX_BEST - 1]);
}

__noinline bool is_late(void)
{
	if (!choice.late && choice.deadline_ns && bpf_ktime_get_ns() > choice.deadline_ns)
		choice.late = true;
	return choice.late;
}

/* The selector that protects a cgroup and all in and below it, or SPARED_BY_NONE. */
__noinline int protects_below(u64 cgroup)
{
	int place = first_path(protect, protect_path(cgroup) & COVERED);

	if (place >= 0)
		return place;
	place = first_path(protect_extra, protect_extra_path(cgroup) & COVERED);
	return place >= 0 ? place + SPARED_BY_EXTRA : SPARED_BY_NONE;
}

/* The selector that protects the processes of a cgroup, or SPARED_BY_NONE. */
static __always_inline int protects_cgroup(u64 cgroup)
{
	int place = first_path(protect, protect_path(cgroup));

	if (place >= 0)
		return place;
	place = first_path(protect_extra, protect_extra_path(cgroup));
	return place >= 0 ? place + SPARED_BY_EXTRA : SPARED_BY_NONE;
}

/* The selector that names the process in `subject`. */
static __always_inline int protects_subject(void)
{
	int place = protect_process(&subject);

	if (place >= 0)
		return place;
	place = protect_extra_process(&subject);
	return place >= 0 ? place + SPARED_BY_EXTRA : SPARED_BY_NONE;
}

/* Why a process may not die, 0: it may. */
__noinline u32 task_spared(struct task_struct *task __arg_trusted)
{
	int place;

	if (task_protected(task))
		return SPARED(VERDICT_UNKILLABLE, SPARED_BY_NONE);
	if (!protect[0].kind && !protect_extra[0].kind)
		return 0;
	place = protects_cgroup(task_cgroup(task));
	if (place < 0) {
		subject_of(&subject, task);
		place = protects_subject();
	}
	if (place < 0 && carries_login(&subject, task))
		place = protects_subject();
	return place >= 0 ? SPARED(VERDICT_PROTECTED, place) : 0;
}

static __always_inline s32 tier_of_cgroup(u64 cgroup)
{
	if (first_path(prefer, prefer_path(cgroup)) >= 0)
		return TIER_PREFERRED;
	return first_path(avoid, avoid_path(cgroup)) >= 0 ? TIER_AVOIDED : TIER_NORMAL;
}

static __always_inline s64 adj_score(s32 adj)
{
	return (s64)(total_bytes / 1000 * adj_weight / 100) * adj;
}

/*
 * The address space of a process, as an address, 0: none any more. The first thread may
 * have ended before the others; where those are in another cgroup they are strays there.
 * Under RCU.
 */
static __always_inline u64 task_mm(struct task_struct *task)
{
	u64 mm = (u64)BPF_CORE_READ(task, mm);
	struct task_struct *thread;
	struct bpf_iter_task it;

	if (mm || task->flags & PF_KTHREAD)
		return mm;
	bpf_iter_task_new(&it, task, BPF_TASK_ITER_PROC_THREADS);
	while ((thread = bpf_iter_task_next(&it))) {
		mm = (u64)BPF_CORE_READ(thread, mm);
		if (!mm)
			continue;
		if (task_memcg(thread) != task_memcg(task))
			mm = 0;
		break;
	}
	bpf_iter_task_destroy(&it);
	return mm;
}

/*
 * Whether others than the threads of a process use its address space. Its first thread is
 * counted as long as another one lives, and may have let go of it.
 */
static __always_inline bool shares_mm(struct task_struct *leader, u64 mm)
{
	int nr_threads = BPF_CORE_READ(leader, signal, nr_threads);

	if (!BPF_CORE_READ(leader, mm))
		nr_threads--;
	return mm && BPF_CORE_READ((struct mm_struct *)mm, mm_users.counter) > nr_threads;
}

/*
 * Whether it only borrows its parent's memory, until it runs a program of its own. The kernel
 * does not let such a one be chosen: its parent stands for that memory.
 */
static __always_inline bool borrows_mm(struct task_struct *task, u64 mm)
{
	return BPF_CORE_READ(task, vfork_done) && (u64)BPF_CORE_READ(task, real_parent, mm) == mm;
}

/*
 * The kernel kills all who share the address space of a victim. Where there was no time to
 * find out who they are, they may be protected.
 */
static __always_inline bool is_sheltered(struct task_struct *task, u64 mm)
{
	u64 *number = bpf_map_lookup_elem(&sheltered, &mm);

	if (choice.blind)
		return shares_mm(BPF_CORE_READ(task, group_leader), mm);
	return number && *number == choice.number;
}

/* The id of the topmost cgroup with memory.oom.group from here up to `top_id`; 0: none. */
__noinline u64 oom_group_id(struct mem_cgroup *memcg __arg_trusted)
{
	struct cgroup_subsys_state *css = BPF_CORE_READ(memcg, css.parent);
	u64 id = css_cgroup_id(&memcg->css), topmost;
	int level;

	topmost = memcg->oom_group ? id : 0;
	bpf_for(level, 0, 1024) {
		if (id == choice.top_id || !css)
			break;
		id = BPF_CORE_READ(css, cgroup, kn, id);
		/* The css is the first member. */
		if (BPF_CORE_READ((struct mem_cgroup *)css, oom_group))
			topmost = id;
		css = BPF_CORE_READ(css, parent);
	}
	return topmost;
}

/* Why a process must not be killed along with others, 0: it may. */
static __always_inline u32 task_spared_among(struct task_struct *task, u64 mm)
{
	u32 spared = task_spared(task);

	/* The kernel, too, leaves out who has -1000; those around it then die. */
	if (SPARED_VERDICT(spared) == VERDICT_UNKILLABLE && shelter != SHELTER_CGROUP)
		return 0;
	if (!spared && is_sheltered(task, mm))
		return SPARED(VERDICT_SHARES, SPARED_BY_NONE);
	return spared;
}

/* Why one of a cgroup's processes must not be killed along with others, 0: none such. */
static __noinline u32 somebody_spared(struct mem_cgroup *memcg)
{
	struct task_struct *task;
	bool failed = false;
	u32 spared;

	for_each_process(task, memcg, failed) {
		if (task->flags & PF_KTHREAD)
			continue;
		/* Who is not seen may be one. */
		if (is_late() & 1) {
			failed = true;
			break;
		}
		spared = task_spared_among(task, task_mm(task));
		if (spared)
			return spared;
	}
	return failed ? SPARED(VERDICT_PROTECTED, SPARED_BY_NONE) : 0;
}

/*
 * Why a group may not be killed as one, 0: it may. The kernel does just that, and knows
 * nothing of what we protect. Under RCU.
 */
static __noinline u32 group_spared(u64 id)
{
	struct mem_cgroup *top __put(memcg) = memcg_from_cgroup_id(id);
	struct mem_cgroup *memcg __put(memcg) = NULL;
	u32 spared;

	if (!top)
		return SPARED(VERDICT_GONE, SPARED_BY_NONE);
	for_each_memcg(memcg, top) {
		spared = somebody_spared(memcg);
		if (spared)
			return spared;
	}
	return 0;
}

/* The same, once for all who are in it. */
static __always_inline u32 group_spared_once(u64 id)
{
	if (choice.group_id != id) {
		choice.group_spared = group_spared(id);
		choice.group_id = id;
	}
	return choice.group_spared;
}

/* Kill one process; the kernel takes its memory.oom.group along. */
__noinline u32 kill_process(struct oom_control *oc __arg_trusted, struct candidate *who)
{
	struct task_struct *task __put(task) = NULL;

	if (!who)
		return VERDICT_GONE;
	task = bpf_task_from_pid(who->pid);
	if (!task || task->start_time != who->start_time || oom_victim(task) || task_spared(task))
		return VERDICT_GONE;
	if (oom_kill(oc, task, kill_message))
		return VERDICT_GONE;
	count(&nr_kills);
	choice.nr_killed++;
	return VERDICT_CHOSEN;
}

/* The stray of a memcg, or NULL. To be released. */
static __always_inline struct task_struct *stray_of(u64 memcg_id)
{
	struct stray *stray = choice.nr_strays ? bpf_map_lookup_elem(&strays, &memcg_id) : NULL;

	if (!stray || stray->number != choice.number)
		return NULL;
	return bpf_task_from_pid(stray->pid);
}

/* One of those who die together. */
__noinline u32 kill_among(struct oom_control *oc __arg_trusted,
			  struct task_struct *task __arg_trusted, u64 mm)
{
	if (oom_victim(task) || task_spared(task) || is_sheltered(task, mm))
		return VERDICT_GONE;
	/* Refused: it has just exited, or was excepted since we looked. */
	if (oom_kill(oc, task, kill_message))
		return VERDICT_GONE;
	count(&nr_kills);
	choice.nr_killed++;
	return VERDICT_CHOSEN;
}

/*
 * Kill those of a cgroup's processes that may die. The iterator holds a reference to the
 * task and no lock, so that killing may sleep; tasks forked meanwhile come at its end.
 */
__noinline u32 kill_cgroup(struct oom_control *oc __arg_trusted, u64 id)
{
	struct mem_cgroup *memcg __put(memcg) = memcg_from_cgroup_id(id);
	struct task_struct *stray __put(task) = NULL;
	u32 verdict = VERDICT_GONE;
	struct task_struct *task;
	bool failed = false;
	u64 mm;

	if (!memcg)
		return VERDICT_GONE;
	for_each_process(task, memcg, failed) {
		bpf_rcu_read_lock();
		mm = task_mm(task);
		bpf_rcu_read_unlock();
		if (mm && kill_among(oc, task, mm) == VERDICT_CHOSEN)
			verdict = VERDICT_CHOSEN;
	}
	stray = stray_of(id);
	if (stray && kill_among(oc, stray, (u64)BPF_CORE_READ(stray, mm)) == VERDICT_CHOSEN)
		verdict = VERDICT_CHOSEN;
	return verdict;
}

/* Whether somebody protected came into the group since the choice. */
__noinline u32 group_of_spared(u64 cgroup_id)
{
	struct mem_cgroup *memcg __put(memcg) = memcg_from_cgroup_id(cgroup_id);
	u32 spared = 0;
	u64 group;

	if (!memcg)
		return VERDICT_GONE;
	group = oom_group_id(memcg);
	if (!group)
		return 0;
	bpf_rcu_read_lock();
	spared = group_spared(group);
	bpf_rcu_read_unlock();
	return spared;
}

static __always_inline u32 kill_candidate(struct oom_control *oc, struct candidate *who)
{
	struct act act = { .time_ns = bpf_ktime_get_ns() };
	u64 id = who->cgroup_id;
	struct mem_cgroup *memcg;
	u32 verdict;

	if (group_of_spared(id))
		return VERDICT_GONE;
	memcg = memcg_from_cgroup_id(id);
	if (memcg) {
		act.shmem = memcg_shmem(memcg);
		bpf_put_mem_cgroup(memcg);
	}
	/* The root cgroup is no unit of anything: its processes die one by one. */
	if (victim == VICTIM_CGROUP && who->tier != TIER_ORIGIN && id != choice.root_id)
		verdict = kill_cgroup(oc, id);
	else
		verdict = kill_process(oc, who);
	if (verdict == VERDICT_CHOSEN)
		bpf_map_update_elem(&acted, &id, &act, BPF_ANY);
	return verdict;
}

/* rank_cgroups.h or rank_processes.h: what there is to rank in one cgroup. */
static void consider_cgroup(struct mem_cgroup *memcg);

/* The same after the pass: what only shows when all was seen. */
static void consider_rest(struct mem_cgroup *top);

/* Look for nobody below this one. */
static __always_inline void pass_over(struct mem_cgroup *memcg)
{
	choice.hopeless_level = BPF_CORE_READ(memcg, css.cgroup, level);
	choice.hopeless_id = css_cgroup_id(&memcg->css);
}

__noinline bool is_passed_over(u64 cgroup)
{
	struct cgroup *above;

	if (!choice.hopeless_id)
		return false;
	above = ancestor_at((struct cgroup *)cgroup, choice.hopeless_level);
	if (above && BPF_CORE_READ(above, kn, id) == choice.hopeless_id)
		return true;
	/* From the top down: it will not come again. */
	choice.hopeless_id = 0;
	return false;
}

/*
 * Protected with all in and below it: nobody has to be looked for there. The record names
 * the cgroup in the place of all.
 */
static __always_inline bool skip_protected_tree(struct mem_cgroup *memcg)
{
	struct candidate seen = {};
	int place;

	place = protects_below(memcg_cgroup(memcg));
	if (place < 0)
		return false;
	seen.cgroup_id = css_cgroup_id(&memcg->css);
	seen.usage = memcg_charged(memcg);
	seen.score = seen.usage;
	if (seen.usage)
		skip(&seen, SPARED(VERDICT_PROTECTED, place));
	pass_over(memcg);
	return true;
}

/* One that shares its memory, or asked for all that comes back, or both. */
__noinline int look_at_special(struct task_struct *task __arg_trusted, u64 mm, bool shares,
			       bool asked)
{
	u32 spared = task_spared(task);
	struct candidate seen = {};

	if (spared && shares)
		bpf_map_update_elem(&sheltered, &mm, &choice.number, BPF_ANY);
	if (spared || !asked || oom_victim(task))
		return 0;
	seen.cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	seen.usage = mm_bytes_about(mm);
	seen.pid = task->pid;
	seen.start_time = task->start_time;
	seen.adj = task->signal->oom_score_adj;
	seen.tier = TIER_ORIGIN;
	return was_refused(PROCESS_KEY(seen.pid)) ? 0 : keep_best(&seen);
}

/* A process without its first thread, where its others are now. */
__noinline int note_stray(struct task_struct *thread __arg_trusted, u64 mm)
{
	struct mem_cgroup *memcg = (void *)task_memcg(thread);
	u64 id = BPF_CORE_READ(memcg, css.cgroup, kn, id);
	struct stray *known = bpf_map_lookup_elem(&strays, &id);
	struct stray stray = {
		.number = choice.number,
		.usage = mm_bytes_about(mm),
		.pid = thread->pid,
	};

	if (known && known->number == choice.number && known->usage >= stray.usage)
		return 0;
	if (was_refused(PROCESS_KEY(stray.pid)))
		return 0;
	bpf_map_update_elem(&strays, &id, &stray, BPF_ANY);
	choice.nr_strays++;
	return 0;
}

/* One that something is known of, or one whose first thread has ended; `task` lives. */
__noinline int look_at_one(struct task_struct *leader __arg_trusted,
			   struct task_struct *task __arg_trusted, u64 mm, bool system)
{
	bool asked = system && BPF_CORE_READ(leader, signal, oom_flag_origin);
	bool shares = shares_mm(leader, mm);

	if (shares || asked)
		look_at_special(task, mm, shares, asked);
	if (leader != task && task_memcg(task) != task_memcg(leader))
		note_stray(task, mm);
	return 0;
}

/* The first thread has ended: another one stands for the process. Under RCU. */
static __noinline int look_at_leaderless(struct task_struct *leader, bool system)
{
	struct task_struct *thread;
	struct bpf_iter_task it;

	bpf_iter_task_new(&it, leader, BPF_TASK_ITER_PROC_THREADS);
	while ((thread = bpf_iter_task_next(&it))) {
		u64 mm = (u64)BPF_CORE_READ(thread, mm);

		if (!mm)
			continue;

		struct task_struct *held __put(task) = bpf_task_acquire(thread);

		if (held)
			look_at_one(leader, held, mm, system);
		break;
	}
	bpf_iter_task_destroy(&it);
	return 0;
}

/* Whether there may be more to know of it than what a look at its cgroup tells. */
static __always_inline bool is_special(struct task_struct *task, u64 mm, bool system)
{
	if (!mm)
		return !(task->flags & PF_KTHREAD) && BPF_CORE_READ(task, signal, nr_threads) > 1;
	return shares_mm(task, mm) || (system && BPF_CORE_READ(task, signal, oom_flag_origin));
}

/*
 * Of all processes: those that share their memory and may not die; those that are where
 * their first thread is not; and with `system` the one that asked for all the memory that
 * comes back. Before the pass, under RCU.
 */
static __noinline int look_at_everybody(bool system)
{
	struct task_struct *task;
	struct bpf_iter_task it;
	u64 mm;

	bpf_iter_task_new(&it, NULL, BPF_TASK_ITER_ALL_PROCS);
	while ((task = bpf_iter_task_next(&it))) {
		if (choice.everybody_ns && bpf_ktime_get_ns() > choice.everybody_ns) {
			choice.blind = true;
			break;
		}
		mm = (u64)BPF_CORE_READ(task, mm);
		if (!is_special(task, mm, system))
			continue;

		struct task_struct *held __put(task) = bpf_task_acquire(task);

		if (!held)
			continue;
		if (mm)
			look_at_one(held, held, mm, system);
		else
			look_at_leaderless(held, system);
	}
	bpf_iter_task_destroy(&it);
	return 0;
}

/* Fill choice.best with the best candidates, but for those whom the kernel refused. */
static __always_inline void find_candidates(struct mem_cgroup *top)
{
	struct mem_cgroup *memcg __put(memcg) = NULL;

	__builtin_memset(choice.skipped, 0, sizeof(choice.skipped));
	choice.nr_considered = 0;
	choice.nr_protected = 0;
	choice.nr_unkillable = 0;
	choice.nr_small = 0;
	choice.nr_unseen = 0;
	choice.hopeless_id = 0;
	choice.group_id = 0;
	choice.unowned = 0;
	bpf_rcu_read_lock();
	look_at_everybody(!top->css.parent);
	for_each_memcg(memcg, top) {
		if (is_late() & 1) {
			choice.nr_unseen++;
			continue;
		}
		if (!(is_passed_over(memcg_cgroup(memcg)) & 1))
			consider_cgroup(memcg);
	}
	consider_rest(top);
	bpf_rcu_read_unlock();
}

/*
 * Whoever would die now if `top` were out of memory, best first, in choice.best; needs no
 * OOM. The time is half of what a policy may take, as killing takes some, too.
 */
static __always_inline void choose_begin(struct mem_cgroup *top, u64 number)
{
	u32 budget_ms = kernel_s32(BUDGET_MS, 1000);

	/* All but the best: those each pass begins anew. */
	__builtin_memset(choice.skipped, 0,
			 sizeof(choice) - __builtin_offsetof(struct choice, skipped));
	choice.number = number;
	choice.top_id = css_cgroup_id(&top->css);
	choice.root_id = BPF_CORE_READ(ancestor_at((struct cgroup *)memcg_cgroup(top), 0), kn, id);
	choice.tiers = avoid[0].kind || prefer[0].kind || cooldown_ms;
	if (budget_ms) {
		choice.everybody_ns = bpf_ktime_get_ns() + budget_ms * 250000ULL;
		choice.deadline_ns = choice.everybody_ns + budget_ms * 250000ULL;
	}
	survey(top);
	/* It sleeps, so before the walk; once, as it covers the whole tree below. */
	bpf_mem_cgroup_flush_stats(top);
}

static __always_inline u32 trigger_of(struct oom_control *oc)
{
	if (oom_is_declared(oc))
		return TRIGGER_DECLARED;
	if (oc->order == -1)
		return TRIGGER_SYSRQ;
	return oc->memcg ? TRIGGER_MEMCG : TRIGGER_GLOBAL;
}

__noinline int record_candidate(struct recorded *to, struct candidate *who)
{
	if (!to || !who)
		return 0;
	to->who = *who;
	to->comm[0] = 0;
	to->path[0] = 0;
	if (!who->verdict)
		to->who.verdict = VERDICT_RANKED;

	struct cgroup *cgrp __put(cgroup) = bpf_cgroup_from_id(who->cgroup_id);
	struct task_struct *task __put(task) = who->pid ? bpf_task_from_pid(who->pid) : NULL;

	if (cgrp)
		record_path(&to->path, &path_room, cgroup_address(cgrp));
	if (task)
		bpf_probe_read_kernel_str(to->comm, sizeof(to->comm), task->comm);
	return 0;
}

/* The names of processes that are gone already stay empty; mark_victim has kept theirs. */
static __always_inline void record_candidates(struct decision *decision)
{
	int i;

	for (i = 0; i < MAX_RANKED; i++)
		if (choice.best[i].cgroup_id)
			record_candidate(&decision->ranked[i], &choice.best[i]);
	for (i = 0; i < MAX_SKIPPED; i++)
		if (choice.skipped[i].cgroup_id)
			record_candidate(&decision->skipped[i], &choice.skipped[i]);
}

/* Kill the first of the best that the kernel lets us; with mode: observe choose it only. */
static __always_inline bool act(struct oom_control *oc, struct mem_cgroup *top)
{
	bool chosen = false, any;
	int pass, i;

	bpf_for(pass, 0, MAX_PASSES) {
		__builtin_memset(choice.best, 0, sizeof(choice.best));
		find_candidates(top);
		any = choice.best[0].cgroup_id;
		bpf_for(i, 0, MAX_BEST) {
			struct candidate *who = &choice.best[bounded(i, MAX_BEST)];

			if (!who->cgroup_id)
				break;
			if (mode == MODE_OBSERVE)
				who->verdict = VERDICT_CHOSEN;
			else
				who->verdict = kill_candidate(oc, who);
			chosen = who->verdict == VERDICT_CHOSEN;
			if (chosen)
				break;
			note_refused(who);
		}
		if (chosen || !any || choice.late)
			break;
	}
	return chosen;
}

static __always_inline bool in_scope(u64 cgroup)
{
	return !scope[0].kind || first_path(scope, scope_path(cgroup)) >= 0;
}

static __always_inline int oom_policy_handle(struct oom_control *oc)
{
	struct decision *decision;
	struct mem_cgroup *top;
	u64 began = bpf_ktime_get_ns(), seq;
	u32 outcome;

	count(&nr_calls);
	decision_close();	/* of an OOM that ended without our notice */
	top = oom_scope(oc);
	if (!top)
		return 0;
	if (!in_scope(memcg_cgroup(top))) {
		count(&nr_out_of_scope);
		count(&nr_passes);
		bpf_put_mem_cgroup(top);
		return 0;
	}
	decision = decision_begin(&seq);
	if (!decision) {
		bpf_put_mem_cgroup(top);
		return 0;
	}
	choose_begin(top, seq);
	decision->scope_id = choice.top_id;
	decision->trigger = trigger_of(oc);
	record_path(&decision->scope, &path_room, memcg_cgroup(top));
	decision_open(seq);
	if (!act(oc, top))
		outcome = OUTCOME_NO_VICTIM;
	else if (mode == MODE_OBSERVE)
		outcome = OUTCOME_OBSERVED;
	else
		outcome = OUTCOME_KILLED;
	record_candidates(decision);
	bpf_put_mem_cgroup(top);

	if (outcome != OUTCOME_KILLED)
		count(&nr_passes);
	if (outcome == OUTCOME_OBSERVED)
		count(&nr_observed);
	if (choice.late)
		count(&nr_late);
	decision->outcome = outcome;
	decision->nr_considered = choice.nr_considered;
	decision->nr_protected = choice.nr_protected;
	decision->nr_unkillable = choice.nr_unkillable;
	decision->nr_small = choice.nr_small;
	decision->nr_killed = choice.nr_killed;
	decision->nr_unseen = choice.nr_unseen;
	decision->spent_ns = bpf_ktime_get_ns() - began;
	decision->seq = seq;
	return outcome == OUTCOME_KILLED;
}

/* The OOM is over, and whoever dies next died for another reason. */
SEC("fexit/out_of_memory")
int BPF_PROG(decision_end, struct oom_control *oc)
{
	decision_close();
	return 0;
}

/*
 * The last line of a policy: its handler and its entry in the chain. A policy with a handler
 * of its own, static int handle(struct oom_control *), gives it; what it does not decide it
 * hands to oom_policy_handle().
 */
#define OOM_POLICY_HANDLED_BY(policy, handle)				\
const char kill_message[64] SEC(".rodata") = "BPF policy " #policy;	\
									\
OOM_SEC int OOM_HANDLER(policy##_handle)				\
{									\
	return handle(oc);						\
}									\
									\
STRUCT_OPS_SEC								\
struct bpf_oom_ops policy = {						\
	.handle_out_of_memory = (void *)policy##_handle,		\
	.name = #policy,						\
}

#define OOM_POLICY(policy) OOM_POLICY_HANDLED_BY(policy, oom_policy_handle)

#endif /* BPF_OOM_OOM_H */
