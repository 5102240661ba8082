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

/* The cgroup id of a path that does not exist (yet). */
#define CGROUP_MISSING	(~0ULL)

/* Strings that kfuncs read must be frozen read-only data, not literals. */
#define POLICY_TEXT(name) const char name[] SEC(".rodata")

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

static __always_inline void range_end(struct bpf_iter_num *it)
{
	bpf_iter_num_destroy(it);
}

/* A loop that the verifier looks at once, however long; its body may return. */
#define for_range(i, from, to)						\
	for (struct bpf_iter_num __it __attribute__((cleanup(range_end))),	\
	     *__range = range_begin(&__it, from, to); range_next(__range, &(i));)

/* What nobody may kill: kernel threads, init, and who was excepted by -1000. */
static __always_inline bool task_protected(struct task_struct *task)
{
	return task->flags & PF_KTHREAD || task->tgid == 1 ||
	       task->signal->oom_score_adj == OOM_SCORE_ADJ_MIN;
}

static __always_inline u64 css_cgroup_id(struct cgroup_subsys_state *css)
{
	return css->cgroup->kn->id;
}

/* A reference to the memcg of a cgroup, or NULL: gone, or no memory controller. */
static __always_inline struct mem_cgroup *memcg_from_cgroup_id(u64 id)
{
	struct mem_cgroup *memcg;
	struct cgroup *cgrp;

	cgrp = bpf_cgroup_from_id(id);
	if (!cgrp)
		return NULL;
	memcg = bpf_get_mem_cgroup(&cgrp->self);
	bpf_cgroup_release(cgrp);
	return memcg;
}

#endif /* BPF_OOM_POLICY_H */
