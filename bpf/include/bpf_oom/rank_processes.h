/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For OOM policies that rank processes. With victim: cgroup the cgroup of the best one dies. */
#ifndef BPF_OOM_RANK_PROCESSES_H
#define BPF_OOM_RANK_PROCESSES_H

#include <bpf_oom/oom.h>

SELECTS_PROCESSES(avoid)
SELECTS_PROCESSES(prefer)

/*
 * What a policy has to write: the rank of a process that uses `usage` bytes, the highest
 * dies first; RANK_SKIP: it is no candidate. It must not sleep.
 */
static s64 rank(struct task_struct *task, u64 usage);

__noinline int consider(struct task_struct *task __arg_trusted, u64 cgroup_id)
{
	struct candidate seen = {};
	u32 class, spared;

	seen.usage = task_usage(task);
	if (!seen.usage || task->flags & PF_KTHREAD)
		return 0;
	if (seen.usage < min_usage) {
		run.nr_small++;
		return 0;
	}
	seen.score = rank(task, seen.usage);
	if (seen.score == RANK_SKIP || oom_victim(task))
		return 0;
	seen.cgroup_id = cgroup_id;
	seen.pid = task->pid;
	seen.start_time = task->start_time;
	seen.adj = task->signal->oom_score_adj;
	if (adj_weight)
		seen.score += adj_score(seen.adj);
	run.nr_considered++;
	if (!run.tiers && run.best[MAX_BEST - 1].cgroup_id &&
	    !comes_before(&seen, &run.best[MAX_BEST - 1]))
		return 0;
	if (run.tiers) {
		class = class_of(task_node(task));
		subject_name(&subject, task);
		if (avoid_process(&subject, task_uid(task)) & 1)
			class |= CLASS_AVOIDED;
		if (prefer_process(&subject, task_uid(task)) & 1)
			class |= CLASS_PREFERRED;
		seen.tier = tier_of(class);
	}
	if (!comes_before(&run.last, &seen))
		return 0;
	spared = task_spared(task);
	if (spared)
		skip(&seen, spared);
	else
		keep_best(&seen);
	return 0;
}

static __noinline void consider_cgroup(struct mem_cgroup *memcg)
{
	struct bpf_iter_css_task it;
	struct task_struct *task;
	u64 id = css_cgroup_id(&memcg->css);

	if (bpf_iter_css_task_new(&it, &memcg->css, CSS_TASK_ITER_PROCS))
		count(&nr_errors);
	while ((task = bpf_iter_css_task_next(&it)))
		consider(task, id);
	bpf_iter_css_task_destroy(&it);
}

#endif /* BPF_OOM_RANK_PROCESSES_H */
