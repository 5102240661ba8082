/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For OOM policies that rank cgroups: leaves of the memory controller, and with
 * victim: oom_group each topmost cgroup with memory.oom.group as one.
 */
#ifndef BPF_OOM_RANK_CGROUPS_H
#define BPF_OOM_RANK_CGROUPS_H

#include <bpf_oom/oom.h>

/*
 * What a policy has to write: the rank of a cgroup that uses `usage` bytes, the highest
 * dies first; RANK_SKIP: it is no candidate. It must not sleep.
 */
static s64 rank(struct mem_cgroup *memcg, u64 usage);

/* Bytes of page cache, with tmpfs and shared memory. */
static __always_inline u64 memcg_file(struct mem_cgroup *memcg)
{
	return bpf_mem_cgroup_page_state(memcg,
					 bpf_core_enum_value(enum node_stat_item, NR_FILE_PAGES));
}

static __noinline s32 lowest_adj_in(struct mem_cgroup *memcg)
{
	struct bpf_iter_css_task it;
	struct task_struct *task;
	s32 lowest = 1000;

	if (bpf_iter_css_task_new(&it, &memcg->css, CSS_TASK_ITER_PROCS))
		count(&nr_errors);
	while ((task = bpf_iter_css_task_next(&it))) {
		s32 adj = task->signal->oom_score_adj;

		if (adj < lowest)
			lowest = adj;
	}
	bpf_iter_css_task_destroy(&it);
	return lowest;
}

/*
 * The lowest oom_score_adj of the processes in and below a cgroup: who is careful with one
 * is with all.
 */
static __noinline s32 lowest_adj(struct mem_cgroup *top)
{
	struct cgroup_subsys_state *css;
	struct mem_cgroup *memcg;
	struct bpf_iter_css it;
	s32 lowest = 1000, adj;

	bpf_iter_css_new(&it, &top->css, BPF_CGROUP_ITER_DESCENDANTS_POST);
	while ((css = bpf_iter_css_next(&it))) {
		memcg = bpf_get_mem_cgroup(css);
		if (!memcg)
			continue;
		adj = lowest_adj_in(memcg);
		if (adj < lowest)
			lowest = adj;
		bpf_put_mem_cgroup(memcg);
	}
	bpf_iter_css_destroy(&it);
	return lowest;
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

static __noinline void consider_cgroup(struct mem_cgroup *memcg)
{
	struct candidate seen = {};
	u32 class;

	if (!is_unit(memcg))
		return;
	seen.usage = bpf_mem_cgroup_usage(memcg);
	if (!seen.usage)
		return;
	if (seen.usage < min_usage) {
		run.nr_small++;
		return;
	}
	seen.score = rank(memcg, seen.usage);
	if (seen.score == RANK_SKIP)
		return;
	seen.cgroup_id = css_cgroup_id(&memcg->css);
	if (adj_weight) {
		seen.adj = lowest_adj(memcg);
		seen.score += adj_score(seen.adj);
	}
	run.nr_considered++;
	/* Most cgroups are not among the best, whatever the lists say of them. */
	if (!run.tiers && run.best[MAX_BEST - 1].cgroup_id &&
	    !comes_before(&seen, &run.best[MAX_BEST - 1]))
		return;
	class = class_of(node_of(memcg->css.cgroup));
	seen.tier = tier_of(class);
	if (!comes_before(&run.last, &seen))
		return;
	if (class & CLASS_PROTECTED)
		skip(&seen, VERDICT_PROTECTED);
	else
		keep_best(&seen);
}

#endif /* BPF_OOM_RANK_CGROUPS_H */
