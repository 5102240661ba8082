/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For OOM policies that rank processes. With victim: cgroup the cgroup of the best one dies. */
#ifndef BPF_OOM_RANK_PROCESSES_H
#define BPF_OOM_RANK_PROCESSES_H

#include <bpf_oom/oom.h>

SELECTS_PROCESSES(avoid, false)
SELECTS_PROCESSES(prefer, true)

/*
 * What a policy has to write: the rank of a process whose end would give back `usage` bytes,
 * the highest dies first; RANK_SKIP: it is no candidate. It must not sleep.
 */
static s64 rank(struct task_struct *task, u64 usage);

/* Of the cgroup whose processes are being ranked: its id, memory.oom.group and pause. */
static u64 place_id;
static u64 place_group;
static bool place_paused;

/* The address space of the process that is being ranked. */
static u64 ranked_mm;

/* For a rank(): pages that the process has in swap. */
static __always_inline s64 process_swapped(void)
{
	return BPF_CORE_READ((struct mm_struct *)ranked_mm, rss_stat[MM_SWAPENTS].count);
}

static __always_inline s32 tier_of(struct task_struct *task)
{
	s32 tier;

	if (place_paused)
		return TIER_PAUSED;
	tier = tier_of_cgroup(task_cgroup(task));
	if (tier == TIER_PREFERRED)
		return tier;
	subject_of(&subject, task);
	if (prefer_process(&subject) >= 0)
		return TIER_PREFERRED;
	return avoid_process(&subject) >= 0 ? TIER_AVOIDED : tier;
}

/* Whether it is worth to look at its group: it may die itself, and would be among the best. */
__noinline bool consider(struct task_struct *task __arg_trusted, u64 mm, struct candidate *seen)
{
	u32 spared;

	if (!seen || !mm || task->flags & PF_KTHREAD || oom_victim(task) || borrows_mm(task, mm))
		return false;
	seen->usage = mm_bytes_about(mm);
	ranked_mm = mm;
	seen->cgroup_id = place_id;
	seen->pid = task->pid;
	seen->start_time = task->start_time;
	seen->adj = task->signal->oom_score_adj;
	if (choice.tiers)
		seen->tier = tier_of(task);
	if (seen->usage + slack_bytes < min_usage)
		seen->tier = TIER_SMALL;
	choice.nr_considered++;
	/* First with what it may have at most, then exactly. */
	seen->score = rank(task, seen->usage + slack_bytes);
	if (seen->score == RANK_SKIP)
		return false;
	if (adj_weight)
		seen->score = add_saturated(seen->score, adj_score(seen->adj));
	if (!is_among_best(seen))
		return false;
	seen->usage = mm_bytes_exactly(mm);
	if (!seen->usage)
		return false;
	if (seen->usage < min_usage) {
		seen->tier = TIER_SMALL;
		choice.nr_small++;
	}
	seen->score = rank(task, seen->usage);
	if (seen->score == RANK_SKIP)
		return false;
	if (adj_weight)
		seen->score = add_saturated(seen->score, adj_score(seen->adj));
	if (!is_among_best(seen) || was_refused(PROCESS_KEY(seen->pid)))
		return false;
	spared = task_spared(task);
	if (!spared && is_sheltered(task, mm))
		spared = SPARED(VERDICT_SHARES, SPARED_BY_NONE);
	if (spared)
		skip(seen, spared);
	return !spared;
}

static __always_inline void consider_process(struct task_struct *task, u64 mm, u32 sheltered_by)
{
	struct candidate seen = {};
	u32 spared = sheltered_by;

	if (!(consider(task, mm, &seen) & 1))
		return;
	if (!spared && place_group)
		spared = group_spared_once(place_group);
	if (spared)
		skip(&seen, spared);
	else
		keep_best(&seen);
}

static __noinline void consider_cgroup(struct mem_cgroup *memcg)
{
	struct task_struct *stray __put(task) = NULL;
	struct task_struct *task;
	struct act *acted_there;
	bool failed = false;
	u32 sheltered_by = 0;

	if (skip_protected_tree(memcg))
		return;
	place_id = css_cgroup_id(&memcg->css);
	place_group = oom_group_id(memcg);
	acted_there = cooldown_ms && nr_kills ? bpf_map_lookup_elem(&acted, &place_id) : NULL;
	place_paused = acted_there &&
		       bpf_ktime_get_ns() - acted_there->time_ns < cooldown_ms * 1000000ULL;
	if (victim == VICTIM_CGROUP && shelter == SHELTER_CGROUP)
		sheltered_by = somebody_spared(memcg);
	for_each_process(task, memcg, failed) {
		if (is_late() & 1)
			continue;
		consider_process(task, task_mm(task), sheltered_by);
	}
	stray = stray_of(place_id);
	if (stray)
		consider_process(stray, (u64)BPF_CORE_READ(stray, mm), sheltered_by);
}

/* A process has what it has, wherever that is charged. */
static void consider_rest(struct mem_cgroup *top)
{
}

#endif /* BPF_OOM_RANK_PROCESSES_H */
