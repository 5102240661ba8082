/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For OOM policies that rank cgroups: leaves of the memory controller, and with
 * victim: oom_group each topmost cgroup with memory.oom.group as one.
 */
#ifndef BPF_OOM_RANK_CGROUPS_H
#define BPF_OOM_RANK_CGROUPS_H

#include <bpf_oom/oom.h>

/*
 * What a policy has to write: the rank of a cgroup whose end would give back `usage` bytes,
 * the highest dies first; RANK_SKIP: it is no candidate. It must not sleep, and is asked
 * again with less where not all of the cgroup's processes may die.
 */
static s64 rank(struct mem_cgroup *memcg, u64 usage);

/* What is in a cgroup, or in and below one. */
static struct {
	u64 mortal;		/* bytes of those who may die */
	u64 surviving;		/* bytes of those who may not, shared memory once */
	u64 surviving_shmem;	/* the most of it that one of them has */
	u64 anon;		/* bytes of anonymous memory of all, the dying included */
	u64 mapped_shmem;	/* bytes of tmpfs and shared memory that the mortal ones map */
	u32 nr_mortal;
	u32 nr_surviving;
	u32 spared;		/* why the first of the survivors may not */
	s32 lowest_adj;		/* of those who may die */
	bool failed;		/* not everybody was seen */
	struct candidate largest;	/* process that may die */
} unit;

static __always_inline void count_survivor(u64 bytes, u32 spared)
{
	if (!unit.nr_surviving || SPARED_VERDICT(unit.spared) == VERDICT_UNKILLABLE)
		unit.spared = spared;
	unit.nr_surviving++;
	/* What they share they hold once. */
	unit.surviving += bytes - mm_shmem;
	if (mm_shmem > unit.surviving_shmem) {
		unit.surviving += mm_shmem - unit.surviving_shmem;
		unit.surviving_shmem = mm_shmem;
	}
}

/* A process for the unit that is being looked at. */
__noinline int look_at_process(struct task_struct *task __arg_trusted, u64 mm, u64 cgroup_id)
{
	struct candidate seen = {};
	u32 spared;
	u64 bytes;

	/* It has nothing of its own. */
	if (!mm || borrows_mm(task, mm))
		return 0;
	bytes = mm_bytes_exactly(mm);
	unit.anon += mm_anon;
	/* What it has comes back already. */
	if (oom_victim(task))
		return 0;
	spared = task_spared(task);
	if (!spared && is_sheltered(task, mm))
		spared = SPARED(VERDICT_SHARES, SPARED_BY_NONE);
	if (spared) {
		count_survivor(bytes, spared);
		return 0;
	}
	unit.nr_mortal++;
	unit.mortal += bytes;
	unit.mapped_shmem += mm_shmem;
	seen.adj = task->signal->oom_score_adj;
	if (seen.adj < unit.lowest_adj)
		unit.lowest_adj = seen.adj;
	if (unit.largest.pid && bytes <= unit.largest.usage)
		return 0;
	seen.cgroup_id = cgroup_id;
	seen.usage = bytes;
	seen.pid = task->pid;
	seen.start_time = task->start_time;
	if (!was_refused(PROCESS_KEY(seen.pid)))
		unit.largest = seen;
	return 0;
}

static __noinline int look_at_processes(struct mem_cgroup *memcg)
{
	u64 id = css_cgroup_id(&memcg->css);
	struct task_struct *stray __put(task) = NULL;
	struct task_struct *task;
	bool failed = false;

	for_each_process(task, memcg, failed) {
		/* Whom it does not see it asks again before a kill. */
		if (is_late() & 1) {
			failed = true;
			break;
		}
		look_at_process(task, task_mm(task), id);
	}
	if (failed)
		unit.failed = true;
	stray = stray_of(id);
	if (stray)
		look_at_process(stray, (u64)BPF_CORE_READ(stray, mm), id);
	return 0;
}

/* Fill unit with what is in and below a cgroup. */
static __always_inline void look_at_unit(struct mem_cgroup *top)
{
	struct mem_cgroup *memcg __put(memcg) = NULL;

	__builtin_memset(&unit, 0, sizeof(unit));
	unit.lowest_adj = 1000;
	for_each_memcg(memcg, top)
		look_at_processes(memcg);
}

/* Whether this cgroup is ranked by itself. */
static __always_inline bool is_unit(struct mem_cgroup *memcg)
{
	u64 group;

	if (victim == VICTIM_OOM_GROUP) {
		group = oom_group_id(memcg);
		if (group)
			return group == css_cgroup_id(&memcg->css);
	}
	return !memcg->css.nr_descendants && memcg->css.parent;
}

/* The cgroup that is being looked at; not on the stack, where the verifier would follow it. */
static struct candidate seen;

/* Set the score, with the weight of an oom_score_adj; false: the policy does not want it. */
static __always_inline bool score(struct mem_cgroup *memcg, s32 adj)
{
	seen.score = rank(memcg, seen.usage);
	if (seen.score == RANK_SKIP)
		return false;
	if (adj_weight)
		seen.score = add_saturated(seen.score, adj_score(adj));
	return true;
}

/* How long ago the policy killed there, U64_MAX: it did not, or too long ago to know. */
static __always_inline u64 acted_ago_ns(u64 id, u64 *shmem)
{
	struct act *act = nr_kills ? bpf_map_lookup_elem(&acted, &id) : NULL;

	if (!act)
		return U64_MAX;
	*shmem = act->shmem;
	return bpf_ktime_get_ns() - act->time_ns;
}

/* The tier of a cgroup that would give back so much. */
static __always_inline s32 tier_with(u64 cgroup, u64 usage)
{
	u64 shmem;

	if (usage < min_usage)
		return TIER_SMALL;
	if (!choice.tiers)
		return TIER_NORMAL;
	if (cooldown_ms && acted_ago_ns(seen.cgroup_id, &shmem) < cooldown_ms * 1000000ULL)
		return TIER_PAUSED;
	return tier_of_cgroup(cgroup);
}

static __always_inline u64 less(u64 bytes, u64 taken)
{
	return bytes > taken ? bytes - taken : 0;
}

/*
 * What a death did not give back another one will not either: tmpfs of before that nobody
 * maps who would die.
 */
static __always_inline u64 kept_bytes(struct mem_cgroup *memcg)
{
	u64 before, now;

	if (acted_ago_ns(seen.cgroup_id, &before) >= KEPT_NS)
		return 0;
	now = memcg_shmem(memcg);
	return less(now < before ? now : before, unit.mapped_shmem);
}

/*
 * Pages stay charged where they were first touched. Anonymous memory that no process of
 * its cgroup has belongs to one that moved, or to a child that did and whose parent is gone.
 */
static __always_inline u64 unowned_bytes(struct mem_cgroup *memcg)
{
	u64 bytes;

	if (unit.failed)
		return 0;
	bytes = less(memcg_anon(memcg), unit.anon);
	return bytes > stat_slack_bytes ? bytes : 0;
}

/*
 * Whether it takes a look at its processes: it is ranked by itself, nothing protects all in
 * it, and with all that it has, and `more`, it would be among the best.
 */
__noinline bool is_worth_a_look(struct mem_cgroup *memcg __arg_trusted, u64 more)
{
	u64 charged = memcg_charged(memcg);

	if (!charged && !more)
		return false;
	__builtin_memset(&seen, 0, sizeof(seen));
	seen.cgroup_id = css_cgroup_id(&memcg->css);
	if (RANKS_WITHIN_USAGE && !choice.tiers && !more) {
		/* Nothing in or below it ranks higher than this. */
		seen.tier = charged < min_usage ? TIER_SMALL : TIER_NORMAL;
		seen.score = add_saturated(charged, adj_weight ? adj_score(1000) : 0);
		if (!is_among_best(&seen)) {
			choice.nr_considered++;
			if (memcg->css.nr_descendants)
				pass_over(memcg);
			return false;
		}
	}
	if (!is_unit(memcg)) {
		skip_protected_tree(memcg);
		return false;
	}
	if (!more)
		choice.nr_considered++;
	seen.usage = less(charged, memcg_file(memcg)) + more;
	seen.tier = tier_with(memcg_cgroup(memcg), seen.usage);
	return score(memcg, 1000) && is_among_best(&seen) && !was_refused(seen.cgroup_id) &&
	       !skip_protected_tree(memcg);
}

/* Why nobody in the unit may die, 0: somebody may. */
static __always_inline u32 unit_spared(void)
{
	if (!unit.nr_mortal) {
		if (unit.nr_surviving)
			return unit.spared;
		return SPARED(unit.failed ? VERDICT_GONE : VERDICT_EMPTY, SPARED_BY_NONE);
	}
	if (shelter != SHELTER_CGROUP)
		return 0;
	/* Who was not seen may be one that shelters it. */
	if (unit.failed)
		return SPARED(VERDICT_PROTECTED, SPARED_BY_NONE);
	return unit.nr_surviving ? unit.spared : 0;
}

/*
 * What comes back when those die who may: not what the survivors hold. Shared memory may be
 * in a file that is open and nowhere mapped.
 */
static __always_inline u64 unit_bytes(struct mem_cgroup *memcg, u64 size)
{
	u64 most;

	size = less(size, kept_bytes(memcg));
	if (!unit.nr_surviving)
		return size;
	most = unit.mortal + memcg_shmem(memcg);
	size = less(size, unit.surviving);
	return size < most ? size : most;
}

/* Keep it if it is among the best with what its death would really give back. */
__noinline int settle(struct mem_cgroup *memcg __arg_trusted, u32 group_is_spared, u64 more)
{
	u64 unowned = unowned_bytes(memcg);
	u32 spared = unit_spared();

	if (!more)
		choice.unowned += unowned;
	if (!spared)
		spared = group_is_spared;
	if (spared) {
		skip(&seen, spared);
		return 0;
	}
	seen.usage = unit_bytes(memcg, less(seen.usage, unowned));
	seen.nr_survivors = unit.nr_surviving;
	seen.adj = unit.lowest_adj;
	seen.tier = tier_with(memcg_cgroup(memcg), seen.usage);
	if (seen.tier == TIER_SMALL)
		choice.nr_small++;
	if (!seen.usage || !score(memcg, seen.adj) || !is_among_best(&seen))
		return 0;
	if (victim != VICTIM_CGROUP) {
		/* The kernel refused all of them. */
		if (!unit.largest.pid)
			return 0;
		seen.pid = unit.largest.pid;
		seen.start_time = unit.largest.start_time;
		seen.adj = unit.largest.adj;
	}
	if (more)
		forget(seen.cgroup_id);
	keep_best(&seen);
	return 0;
}

/*
 * A process of the root cgroup, which is no unit: it dies by itself. It counts with what it
 * has; nothing is charged to the root.
 */
__noinline int consider_by_itself(struct mem_cgroup *root __arg_trusted,
				  struct task_struct *task __arg_trusted, u64 mm)
{
	u32 spared;

	if (!mm || oom_victim(task) || borrows_mm(task, mm))
		return 0;
	choice.nr_considered++;
	__builtin_memset(&seen, 0, sizeof(seen));
	seen.cgroup_id = css_cgroup_id(&root->css);
	seen.usage = mm_bytes_exactly(mm);
	seen.pid = task->pid;
	seen.start_time = task->start_time;
	seen.adj = task->signal->oom_score_adj;
	seen.tier = tier_with(task_cgroup(task), seen.usage);
	if (seen.tier == TIER_SMALL)
		choice.nr_small++;
	if (!seen.usage || !score(root, seen.adj) || !is_among_best(&seen) ||
	    was_refused(PROCESS_KEY(seen.pid)))
		return 0;
	spared = task_spared(task);
	if (!spared && is_sheltered(task, mm))
		spared = SPARED(VERDICT_SHARES, SPARED_BY_NONE);
	if (spared)
		skip(&seen, spared);
	else
		keep_best(&seen);
	return 0;
}

static __noinline int consider_roots_own(struct mem_cgroup *root)
{
	struct task_struct *task;
	bool failed = false;

	for_each_process(task, root, failed) {
		if (task->flags & PF_KTHREAD)
			continue;
		if (is_late() & 1)
			break;
		consider_by_itself(root, task, task_mm(task));
	}
	return 0;
}

static __noinline void consider_unit(struct mem_cgroup *memcg, u64 more)
{
	u64 group;

	if (!(is_worth_a_look(memcg, more) & 1))
		return;
	look_at_unit(memcg);
	group = oom_group_id(memcg);
	settle(memcg, group && unit.nr_mortal ? group_spared_once(group) : 0, more);
}

static __noinline void consider_cgroup(struct mem_cgroup *memcg)
{
	if (!memcg->css.parent)
		consider_roots_own(memcg);
	consider_unit(memcg, 0);
}

/* Processes with more anonymous memory than is charged where they are, most first. */
static struct candidate moved[MAX_BEST];

__noinline int look_whether_moved(struct task_struct *task __arg_trusted, int level)
{
	struct mem_cgroup *memcg = (void *)task_memcg(task);
	struct cgroup *cgrp = BPF_CORE_READ(memcg, css.cgroup), *above;
	u64 mm = (u64)BPF_CORE_READ(task, mm), charged;
	struct candidate mover = {};

	above = ancestor_at(cgrp, level);
	if (!BPF_CORE_READ(memcg, css.parent) || BPF_CORE_READ(cgrp, level) < level ||
	    BPF_CORE_READ(above, kn, id) != choice.top_id)
		return 0;
	charged = (u64)BPF_CORE_READ(memcg, memory.usage.counter) * page_size;
	if (mm_bytes_about(mm) + slack_bytes <= charged)
		return 0;
	mm_bytes_exactly(mm);
	mover.usage = less(mm_anon, charged);
	if (mover.usage <= stat_slack_bytes)
		return 0;
	mover.cgroup_id = BPF_CORE_READ(memcg, css.cgroup, kn, id);
	mover.score = mover.usage;
	insert(moved, &mover);
	return 0;
}

static __noinline int look_for_moved(int level)
{
	struct task_struct *task;
	struct bpf_iter_task it;

	bpf_iter_task_new(&it, NULL, BPF_TASK_ITER_ALL_PROCS);
	while ((task = bpf_iter_task_next(&it))) {
		struct task_struct *held __put(task) = NULL;

		if (is_late() & 1)
			break;
		if (!BPF_CORE_READ(task, mm))
			continue;
		held = bpf_task_acquire(task);
		if (held)
			look_whether_moved(held, level);
	}
	bpf_iter_task_destroy(&it);
	return 0;
}

static __always_inline void consider_moved(struct mem_cgroup *memcg, u64 bytes)
{
	u64 more = bytes < choice.unowned ? bytes : choice.unowned;
	u64 group = victim == VICTIM_OOM_GROUP ? oom_group_id(memcg) : 0;
	struct mem_cgroup *top __put(memcg) = group ? memcg_from_cgroup_id(group) : NULL;

	consider_unit(top ? top : memcg, more);
}

/* Whoever has the memory that nobody has where it is charged counts with it. */
static __noinline void consider_rest(struct mem_cgroup *top)
{
	int i;

	if (!choice.unowned)
		return;
	__builtin_memset(moved, 0, sizeof(moved));
	look_for_moved(BPF_CORE_READ(top, css.cgroup, level));
	bpf_for(i, 0, MAX_BEST) {
		struct candidate *mover = &moved[bounded(i, MAX_BEST)];
		struct mem_cgroup *memcg __put(memcg) = memcg_from_cgroup_id(mover->cgroup_id);

		if (!memcg)
			break;
		consider_moved(memcg, mover->usage);
	}
}

#endif /* BPF_OOM_RANK_CGROUPS_H */
