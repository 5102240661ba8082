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
	u64 surviving;		/* bytes of those who may not */
	u32 nr_mortal;
	u32 nr_surviving;
	u32 spared;		/* why the first of the survivors may not */
	s32 lowest_adj;		/* of those who may die */
	bool failed;		/* not everybody was seen */
	struct candidate largest;	/* process that may die */
} unit;

/* A process for the unit that is being looked at. */
__noinline int look_at_process(struct task_struct *task __arg_trusted, u64 mm, u64 cgroup_id)
{
	u64 bytes = mm_bytes_exactly(mm);
	struct candidate seen = {};
	u32 spared;

	/* It is dying already, or has nothing of its own. */
	if (!mm || oom_victim(task) || borrows_mm(task, mm))
		return 0;
	spared = task_spared(task);
	if (!spared && is_sheltered(mm))
		spared = SPARED(VERDICT_SHARES, SPARED_BY_NONE);
	if (spared) {
		if (!unit.nr_surviving || SPARED_VERDICT(unit.spared) == VERDICT_UNKILLABLE)
			unit.spared = spared;
		unit.nr_surviving++;
		unit.surviving += bytes;
		return 0;
	}
	unit.nr_mortal++;
	unit.mortal += bytes;
	seen.adj = task->signal->oom_score_adj;
	if (seen.adj < unit.lowest_adj)
		unit.lowest_adj = seen.adj;
	if (unit.largest.pid && bytes <= unit.largest.usage)
		return 0;
	seen.cgroup_id = cgroup_id;
	seen.usage = bytes;
	seen.pid = task->pid;
	seen.start_time = task->start_time;
	unit.largest = seen;
	return 0;
}

static __noinline int look_at_processes(struct mem_cgroup *memcg)
{
	u64 id = css_cgroup_id(&memcg->css);
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
	return !memcg->css.nr_descendants;
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

/* What the policy did there of late: the pause, and what a death did not give back. */
static __always_inline void look_back(struct mem_cgroup *memcg)
{
	u64 id = seen.cgroup_id, shmem, ago;
	struct act *act;

	if (!nr_kills)
		return;
	act = bpf_map_lookup_elem(&acted, &id);
	if (!act)
		return;
	ago = bpf_ktime_get_ns() - act->time_ns;
	if (ago < cooldown_ms * 1000000ULL)
		seen.tier = TIER_PAUSED;
	/* What survived one will survive the next one. */
	if (ago < KEPT_NS) {
		shmem = memcg_shmem(memcg);
		if (shmem > act->shmem)
			shmem = act->shmem;
		seen.usage = seen.usage > shmem ? seen.usage - shmem : 0;
	}
}

/*
 * Whether it takes a look at its processes: it is ranked by itself, nothing protects all in
 * it, and with all that it has it would be among the best.
 */
__noinline bool is_worth_a_look(struct mem_cgroup *memcg __arg_trusted)
{
	u64 charged = memcg_charged(memcg), file;

	if (!charged)
		return false;
	__builtin_memset(&seen, 0, sizeof(seen));
	seen.cgroup_id = css_cgroup_id(&memcg->css);
	if (RANKS_WITHIN_USAGE && !choice.tiers) {
		/* Nothing in or below it ranks higher than this. */
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
	if (charged < min_usage) {
		choice.nr_small++;
		return false;
	}
	choice.nr_considered++;
	if (choice.tiers)
		seen.tier = tier_of_cgroup(memcg_cgroup(memcg));
	file = memcg_file(memcg);
	seen.usage = charged > file ? charged - file : 0;
	look_back(memcg);
	return score(memcg, 1000) && is_among_best(&seen) && !skip_protected_tree(memcg);
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

	if (!unit.nr_surviving)
		return size;
	most = unit.mortal + memcg_shmem(memcg);
	size = size > unit.surviving ? size - unit.surviving : 0;
	return size < most ? size : most;
}

/* Keep it if it is among the best with what its death would really give back. */
__noinline int settle(struct mem_cgroup *memcg __arg_trusted, u32 group_is_spared)
{
	u32 spared = unit_spared();

	if (!spared)
		spared = group_is_spared;
	if (spared) {
		skip(&seen, spared);
		return 0;
	}
	seen.usage = unit_bytes(memcg, seen.usage);
	seen.nr_survivors = unit.nr_surviving;
	seen.adj = unit.lowest_adj;
	if (!seen.usage || seen.usage < min_usage) {
		choice.nr_small++;
		return 0;
	}
	if (!score(memcg, seen.adj) || !is_among_best(&seen))
		return 0;
	if (victim != VICTIM_CGROUP) {
		seen.pid = unit.largest.pid;
		seen.start_time = unit.largest.start_time;
		seen.adj = unit.largest.adj;
	}
	if (comes_before(&choice.last, &seen))
		keep_best(&seen);
	return 0;
}

static __noinline void consider_cgroup(struct mem_cgroup *memcg)
{
	u64 group;

	if (!(is_worth_a_look(memcg) & 1))
		return;
	look_at_unit(memcg);
	group = oom_group_id(memcg);
	settle(memcg, group && unit.nr_mortal ? group_spared_once(group) : 0);
}

#endif /* BPF_OOM_RANK_CGROUPS_H */
