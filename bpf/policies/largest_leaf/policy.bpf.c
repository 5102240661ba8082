// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * largest_leaf: kill the largest leaf cgroup as a whole.
 *
 * Among the leaf cgroups inside the cgroup that is out of memory (the whole system
 * for a global OOM) without a protected task, take the one with the largest usage
 * less page cache and kill all its tasks. When none of them could be killed take
 * the next largest, and in the end leave it to the next policy and the kernel.
 *
 * Hooks:
 *   handle_out_of_memory  choose and kill; 1 only if something was killed
 */
#include <bpf_oom/policy.h>

/*
 * Leaves whose usage is below this are left alone.
 * Unit: bytes. 0: any size will do.
 */
const volatile u64 min_usage;

/*
 * Count page cache as part of a leaf's size. Page cache is mostly given back
 * without a kill, so it says little about what a kill will free.
 * 0: do not count it.
 */
const volatile bool count_file;

/* Leaves to try when tasks of the larger ones cannot be killed. */
#define MAX_LEAVES	8

POLICY_TEXT(kill_message) = "BPF policy largest_leaf";

u64 nr_kills;	/* tasks killed */

/* OOM handlers run one at a time under oom_lock: globals serve as scratch space. */
static u64 tried[MAX_LEAVES];

static bool leaf_tried(u64 id)
{
	int i;

	for (i = 0; i < MAX_LEAVES; i++) {
		if (tried[i] == id)
			return true;
	}
	return false;
}

static u64 leaf_size(struct mem_cgroup *memcg)
{
	u64 usage = bpf_mem_cgroup_usage(memcg);
	u64 file;

	if (count_file)
		return usage;
	file = bpf_mem_cgroup_page_state(memcg,
					 bpf_core_enum_value(enum node_stat_item, NR_FILE_PAGES));
	return usage > file ? usage - file : 0;
}

/*
 * True if the leaf has tasks and all of them may be killed. The iterator can fail
 * for want of memory and then shows no task: that must not look like "nobody here
 * is protected", and it does not, as a leaf without tasks is no victim either.
 */
static bool leaf_killable(struct mem_cgroup *memcg)
{
	struct bpf_iter_css_task it;
	struct task_struct *task;
	bool killable = false;

	if (bpf_iter_css_task_new(&it, &memcg->css, CSS_TASK_ITER_PROCS))
		count(&nr_errors);
	while ((task = bpf_iter_css_task_next(&it))) {
		killable = !task_protected(task);
		if (!killable)
			break;
	}
	bpf_iter_css_task_destroy(&it);
	return killable;
}

/* The cgroup id of the largest leaf that may be killed and was not tried, or 0. */
static u64 largest_leaf_in(struct mem_cgroup *scope)
{
	struct cgroup_subsys_state *css;
	u64 best = 0, best_size = 0;
	struct bpf_iter_css it;

	bpf_rcu_read_lock();
	bpf_iter_css_new(&it, &scope->css, BPF_CGROUP_ITER_DESCENDANTS_POST);
	while ((css = bpf_iter_css_next(&it))) {
		struct mem_cgroup *memcg;
		u64 size;

		/* The walk visits removed cgroups, too, while they hold pages. */
		if (css->nr_descendants || !(css->flags & CSS_ONLINE))
			continue;
		memcg = bpf_get_mem_cgroup(css);
		if (!memcg)
			continue;
		size = leaf_size(memcg);
		if (size >= min_usage && size > best_size) {
			u64 id = css_cgroup_id(&memcg->css);

			if (!leaf_tried(id) && leaf_killable(memcg)) {
				best = id;
				best_size = size;
			}
		}
		bpf_put_mem_cgroup(memcg);
	}
	bpf_iter_css_destroy(&it);
	bpf_rcu_read_unlock();
	return best;
}

/*
 * Kill all tasks of a leaf. The iterator holds a reference to the task and no lock,
 * so that killing may sleep; tasks forked meanwhile come at its end.
 */
static bool kill_leaf(struct oom_control *oc, u64 id)
{
	struct bpf_iter_css_task it;
	struct mem_cgroup *memcg;
	struct task_struct *task;
	bool killed = false;	/* a number would keep the verifier from seeing the loop's end */

	memcg = memcg_from_cgroup_id(id);
	if (!memcg)
		return false;
	if (bpf_iter_css_task_new(&it, &memcg->css, CSS_TASK_ITER_PROCS))
		count(&nr_errors);
	while ((task = bpf_iter_css_task_next(&it))) {
		if (oom_victim(task))
			continue;
		/* Refused: it has just exited, or was protected since we looked. */
		if (oom_kill(oc, task, kill_message))
			continue;
		count(&nr_kills);
		killed = true;
	}
	bpf_iter_css_task_destroy(&it);
	bpf_put_mem_cgroup(memcg);
	return killed;
}

OOM_SEC int OOM_HANDLER(largest_leaf_handle)
{
	struct mem_cgroup *scope;
	struct bpf_iter_num round;
	bool killed = false;
	int *i;

	count(&nr_calls);
	scope = oom_scope(oc);
	if (!scope)
		return 0;

	/* It sleeps, so before the walk; once, as it covers the whole tree below. */
	bpf_mem_cgroup_flush_stats(scope);

	__builtin_memset(tried, 0, sizeof(tried));
	bpf_iter_num_new(&round, 0, MAX_LEAVES);
	while ((i = bpf_iter_num_next(&round))) {
		u64 id = largest_leaf_in(scope);

		if (!id)
			break;
		killed = kill_leaf(oc, id);
		if (killed)
			break;
		if (*i >= 0 && *i < MAX_LEAVES)
			tried[*i] = id;
	}
	bpf_iter_num_destroy(&round);
	bpf_put_mem_cgroup(scope);

	if (!killed)
		count(&nr_passes);
	return killed;
}

STRUCT_OPS_SEC
struct bpf_oom_ops largest_leaf = {
	.handle_out_of_memory = (void *)largest_leaf_handle,
	.name = "largest_leaf",
};
