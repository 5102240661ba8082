/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every policy has: its identity in read-only data, counters, small helpers.
 * Include it once, in policy.bpf.c.
 */
#ifndef BPF_OOM_POLICY_H
#define BPF_OOM_POLICY_H

#include <bpf_oom/abi.h>

char LICENSE[] SEC("license") = "GPL";

/*
 * Written by the loader before load, read back from the kernel to tell drift.
 * object_digest: SHA-256 in hex of all that went into this object.
 * policy_name: the inventory's name for it.
 */
const volatile char object_digest[65] SEC(".rodata");
const volatile char policy_name[64] SEC(".rodata");

/* Bytes of a page of this host. The loader writes it. */
const volatile u32 page_size SEC(".rodata") = 4096;

/* Strings that kfuncs read must be frozen read-only data, not literals. */
#define POLICY_TEXT(name) const char name[] SEC(".rodata")

/*
 * But what an OOM is declared with is writable: the verifier of a kernel with the plain first
 * version of the interface takes no other, later ones take any.
 */
#define DECLARED_TEXT(name) char name[] SEC(".data")

/*
 * Counters, read by policy_info. They lie in a map of their own, which the loader hands on
 * when a policy is replaced. PSI handlers run side by side, so add atomically.
 */
#define COUNTER SEC(".data.counters")

u64 nr_calls COUNTER;	/* the handler was entered */
u64 nr_passes COUNTER;	/* it did nothing and left the event to the next */
u64 nr_errors COUNTER;	/* the kernel refused something that should have worked */

static __always_inline void count(u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

/*
 * A function that is not static is verified once and by itself, and not anew for each
 * state in which it is called: that keeps policies quick to load. It is given numbers,
 * memory of a known size, or with this a pointer that the kernel trusts. Functions that
 * walk over tasks under RCU stay static: Linux 7.3 takes a global one that is called there
 * for one that must not do what only sleeping programs may.
 */
#ifndef __arg_trusted
#define __arg_trusted __attribute__((btf_decl_tag("arg:trusted")))
#endif

/*
 * A loop that the verifier looks at once, however long; its body may return. libbpf has it
 * since 1.3, and Debian 12 compiles with 1.1.
 */
#ifndef bpf_for
static __always_inline void range_end(struct bpf_iter_num *it)
{
	bpf_iter_num_destroy(it);
}

static __always_inline struct bpf_iter_num *range_begin(struct bpf_iter_num *it, int from, int to)
{
	bpf_iter_num_new(it, from, to);
	return it;
}

static __always_inline bool range_next(struct bpf_iter_num *it, int *i)
{
	int *at = bpf_iter_num_next(it);

	if (at)
		*i = *at;
	return at;
}

#define bpf_for(i, from, to)						\
	for (struct bpf_iter_num __it __attribute__((cleanup(range_end))),	\
	     *__range = range_begin(&__it, from, to); range_next(__range, &(i));)
#endif

/*
 * An index into an array of `size`, a power of two. Clang knows from the loop that it is in
 * range, drops the mask and leaves the verifier without.
 */
static __always_inline u32 bounded(u32 index, u32 size)
{
	barrier_var(index);
	return index & (size - 1);
}

static __always_inline void put_memcg(struct mem_cgroup **memcg)
{
	if (*memcg)
		bpf_put_mem_cgroup(*memcg);
}

static __always_inline void put_cgroup(struct cgroup **cgrp)
{
	if (*cgrp)
		bpf_cgroup_release(*cgrp);
}

static __always_inline void put_task(struct task_struct **task)
{
	if (*task)
		bpf_task_release(*task);
}

/* A pointer whose reference goes when the pointer does, by whatever way. */
#define __put(what) __attribute__((cleanup(put_##what)))

static __always_inline struct bpf_iter_css *memcg_walk_begin(struct bpf_iter_css *it,
							     struct mem_cgroup *top)
{
	bpf_iter_css_new(it, &top->css, BPF_CGROUP_ITER_DESCENDANTS_PRE);
	return it;
}

/* Clang forgets the type of a kfunc that is nowhere but in an attribute. */
static __always_inline void memcg_walk_end(struct bpf_iter_css *it)
{
	bpf_iter_css_destroy(it);
}

/*
 * Let go of the memcg before and take the next. The walk visits removed cgroups, too, while
 * they hold pages.
 */
static __always_inline bool memcg_walk_next(struct bpf_iter_css *it, struct mem_cgroup **memcg)
{
	struct cgroup_subsys_state *css;

	put_memcg(memcg);
	*memcg = NULL;
	while ((css = bpf_iter_css_next(it))) {
		if (!(css->flags & CSS_ONLINE))
			continue;
		*memcg = bpf_get_mem_cgroup(css);
		if (*memcg)
			return true;
	}
	return false;
}

/*
 * Each online memcg in and below `top`, from the top down, under RCU. It is held for one
 * round; declare it as struct mem_cgroup *memcg __put(memcg) = NULL.
 */
#define for_each_memcg(memcg, top)					\
	for (struct bpf_iter_css __it __attribute__((cleanup(memcg_walk_end))),	\
	     *__walk = memcg_walk_begin(&__it, top); memcg_walk_next(__walk, &(memcg));)

/*
 * Each process of a memcg, by its first thread. Without memory for the walk there seems to
 * be none: `failed` says so.
 */
#define for_each_process(task, memcg, failed)				\
	for (struct bpf_iter_css_task __it __attribute__((cleanup(process_walk_end))),	\
	     *__walk = process_walk_begin(&__it, memcg, &(failed));	\
	     (task = bpf_iter_css_task_next(__walk));)

static __always_inline void process_walk_end(struct bpf_iter_css_task *it)
{
	bpf_iter_css_task_destroy(it);
}

static __always_inline struct bpf_iter_css_task *
process_walk_begin(struct bpf_iter_css_task *it, struct mem_cgroup *memcg, bool *failed)
{
	if (bpf_iter_css_task_new(it, &memcg->css, CSS_TASK_ITER_PROCS)) {
		*failed = true;
		count(&nr_errors);
	}
	return it;
}

/* Adds without a wrap: what is too much stays the most, what is too little the least. */
static __always_inline s64 add_saturated(s64 a, s64 b)
{
	if (b > 0 && a > S64_MAX - b)
		return S64_MAX;
	if (b < 0 && a < S64_MIN - b)
		return S64_MIN;
	return a + b;
}

/* What nobody may kill: kernel threads, init, and who was excepted by -1000. */
static __always_inline bool task_protected(struct task_struct *task)
{
	return task->flags & PF_KTHREAD || task->tgid == 1 ||
	       task->signal->oom_score_adj == OOM_SCORE_ADJ_MIN;
}

/* The address of a cgroup, as a number: what is read from there is not trusted. */
static __always_inline u64 cgroup_address(struct cgroup *cgrp)
{
	return (u64)BPF_CORE_READ(cgrp, self.cgroup);
}

static __always_inline u64 memcg_cgroup(struct mem_cgroup *memcg)
{
	return (u64)BPF_CORE_READ(memcg, css.cgroup);
}

static __always_inline u64 css_cgroup_id(struct cgroup_subsys_state *css)
{
	return css->cgroup->kn->id;
}

/* A reference to the memcg of a cgroup, or NULL: gone, or no memory controller. */
static __always_inline struct mem_cgroup *memcg_from_cgroup_id(u64 id)
{
	struct cgroup *cgrp __put(cgroup) = bpf_cgroup_from_id(id);

	return cgrp ? bpf_get_mem_cgroup(&cgrp->self) : NULL;
}

#endif /* BPF_OOM_POLICY_H */
