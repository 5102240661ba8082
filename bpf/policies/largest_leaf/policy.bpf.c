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

POLICY_TEXT(kill_message) = "BPF policy largest_leaf";

u64 nr_kills;	/* tasks killed */

/*
 * The largest leaves, largest first; one walk over the cgroups finds so many. Only their
 * tasks are looked at. When none of them can be killed another walk finds the next ones.
 */
#define MAX_LEAVES	8
#define MAX_WALKS	64

struct leaf {
	u64 size;
	u64 id;		/* of the cgroup */
};

/* OOM handlers run one at a time under oom_lock: globals serve as scratch space. */
static struct leaf leaves[MAX_LEAVES];
static struct leaf last;	/* the smallest that was tried in vain */

/* A total order: of two leaves of the same size the younger one comes first. */
static __always_inline bool comes_before(const struct leaf *a, const struct leaf *b)
{
	return a->size > b->size || (a->size == b->size && a->id > b->id);
}

static __always_inline void remember(struct leaf leaf)
{
	int i;

	for (i = 0; i < MAX_LEAVES; i++) {
		if (comes_before(&leaf, &leaves[i])) {
			struct leaf smaller = leaves[i];

			leaves[i] = leaf;
			leaf = smaller;
		}
	}
}

static void consider(struct mem_cgroup *memcg)
{
	struct leaf leaf = { .size = bpf_mem_cgroup_usage(memcg) };
	u64 file;

	/* Page cache only makes it smaller, so most leaves are done with here. */
	if (leaf.size < min_usage || leaf.size < leaves[MAX_LEAVES - 1].size)
		return;
	if (!count_file) {
		int item = bpf_core_enum_value(enum node_stat_item, NR_FILE_PAGES);

		file = bpf_mem_cgroup_page_state(memcg, item);
		leaf.size = leaf.size > file ? leaf.size - file : 0;
		if (leaf.size < min_usage)
			return;
	}
	leaf.id = css_cgroup_id(&memcg->css);
	if (leaf.size && comes_before(&last, &leaf))
		remember(leaf);
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

/* Fill in the largest leaves that come after `last`. */
static void find_leaves(struct mem_cgroup *scope)
{
	struct cgroup_subsys_state *css;
	struct bpf_iter_css it;

	__builtin_memset(leaves, 0, sizeof(leaves));
	bpf_rcu_read_lock();
	bpf_iter_css_new(&it, &scope->css, BPF_CGROUP_ITER_DESCENDANTS_POST);
	while ((css = bpf_iter_css_next(&it))) {
		struct mem_cgroup *memcg;

		/* The walk visits removed cgroups, too, while they hold pages. */
		if (css->nr_descendants || !(css->flags & CSS_ONLINE))
			continue;
		memcg = bpf_get_mem_cgroup(css);
		if (!memcg)
			continue;
		consider(memcg);
		bpf_put_mem_cgroup(memcg);
	}
	bpf_iter_css_destroy(&it);
	bpf_rcu_read_unlock();
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
	if (!leaf_killable(memcg)) {
		bpf_put_mem_cgroup(memcg);
		return false;
	}
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
	bool killed = false;
	int walk = 0, i = 0;

	count(&nr_calls);
	scope = oom_scope(oc);
	if (!scope)
		return 0;

	/* It sleeps, so before the walk; once, as it covers the whole tree below. */
	bpf_mem_cgroup_flush_stats(scope);

	last = (struct leaf){ .size = ~0ULL, .id = ~0ULL };
	for_range(walk, 0, MAX_WALKS) {
		(void)walk;
		find_leaves(scope);
		for_range(i, 0, MAX_LEAVES) {
			if (!leaves[i & (MAX_LEAVES - 1)].id)
				break;
			last = leaves[i & (MAX_LEAVES - 1)];
			killed = kill_leaf(oc, last.id);
			if (killed)
				break;
		}
		/* Somebody dies, or there are no more leaves. */
		if (killed || !leaves[MAX_LEAVES - 1].id)
			break;
	}
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
