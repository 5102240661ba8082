/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Selectors: which cgroups, processes and users a parameter speaks of.
 *
 * No kfunc tells a cgroup's path, so it is put together from the names of its nodes. A
 * glob is compared with it byte by byte: '*' stands for any bytes of one name, '?' for one
 * byte, everything else for itself, also the backslash of systemd's names.
 */
#ifndef BPF_OOM_SELECT_H
#define BPF_OOM_SELECT_H

#include <bpf_oom/policy.h>
#include <bpf_oom/record.h>

#define SELECTORS(list) const volatile struct selector list[MAX_SELECTORS]

#define PATH_SIZE	512	/* of a cgroup's path, with the final 0 */
#define NODE_NAME_SIZE	256	/* NAME_MAX and the final 0 */
#define PATH_DEPTH	32	/* levels below the mount */
#define GLOB_STEPS	4096	/* of one comparison; who needs more does not match */

/*
 * A text to compare with. A path is written from its end to its beginning; the names have
 * room behind the path, so that the verifier need not know how long they are. What changes
 * from step to step lies here as well: of memory the verifier assumes nothing, so that it
 * looks at each loop once.
 */
struct subject {
	u32 start;
	u32 glob_at;
	u32 text_at;
	u32 star_at;	/* of the last star, GLOB_SIZE: there was none */
	u32 star_text;	/* where what it stands for ends */
	char text[PATH_SIZE + NODE_NAME_SIZE];
	char name[NODE_NAME_SIZE];
};

static __always_inline struct kernfs_node *kernfs_parent(struct kernfs_node *kn)
{
	struct kernfs_node___rcu *rcu = (void *)kn;

	if (bpf_core_field_exists(rcu->__parent))
		return BPF_CORE_READ(rcu, __parent);
	return BPF_CORE_READ(kn, parent);
}

/*
 * Write the path of a cgroup, given by the address of its kernfs_node; false when it is
 * too long. The root's is empty.
 */
__noinline bool subject_path(struct subject *subject, u64 node)
{
	struct kernfs_node *kn = (void *)node, *parent;
	int level = 0;
	long size;
	u32 at;

	if (!subject)
		return false;
	subject->text[PATH_SIZE - 1] = 0;
	subject->start = PATH_SIZE - 1;
	for_range(level, 0, PATH_DEPTH) {
		(void)level;
		parent = kernfs_parent(kn);
		if (!parent)
			return true;
		size = bpf_probe_read_kernel_str(subject->name, sizeof(subject->name),
						 BPF_CORE_READ(kn, name));
		at = *(volatile u32 *)&subject->start;
		/* With the 0, in whose place the path has a slash before the name. */
		if (size < 2 || size > at)
			return false;
		at -= size;
		subject->text[at & (PATH_SIZE - 1)] = '/';
		bpf_probe_read_kernel(&subject->text[(at + 1) & (PATH_SIZE - 1)],
				      (size - 1) & (NODE_NAME_SIZE - 1), subject->name);
		subject->start = at;
		kn = parent;
	}
	return false;
}

/* The address of a cgroup's node, as a number; read so, it is none of the kernel's pointers. */
static __always_inline u64 node_of(struct cgroup *cgrp)
{
	return (u64)BPF_CORE_READ(cgrp, kn);
}

static __always_inline bool path_of(struct subject *subject, u64 node)
{
	return subject_path(subject, node) & 1;
}

static __always_inline void subject_name(struct subject *subject, struct task_struct *task)
{
	subject->start = 0;
	bpf_probe_read_kernel_str(subject->text, sizeof(task->comm), task->comm);
}

/*
 * Whether the glob stands for the text; with `below` also for what is below it, that is, a
 * text that goes on with a slash.
 */
static __always_inline bool glob_matches(const volatile struct selector *selector,
					 volatile struct subject *subject, bool below)
{
	char wanted, have;
	int step = 0;

	subject->glob_at = 0;
	subject->text_at = subject->start;
	subject->star_at = GLOB_SIZE;
	for_range(step, 0, GLOB_STEPS) {
		(void)step;
		wanted = selector->glob[subject->glob_at & (GLOB_SIZE - 1)];
		have = subject->text[subject->text_at & (PATH_SIZE - 1)];
		if (!wanted && (!have || (below && have == '/')))
			return true;
		if (wanted == '*') {
			subject->star_at = subject->glob_at++;
			subject->star_text = subject->text_at;
			continue;
		}
		if (have && (wanted == have || (wanted == '?' && have != '/'))) {
			subject->glob_at++;
			subject->text_at++;
			continue;
		}
		/* Let the last star stand for one byte more. */
		if (subject->star_at == GLOB_SIZE)
			return false;
		have = subject->text[subject->star_text & (PATH_SIZE - 1)];
		if (!have || have == '/')
			return false;
		subject->star_text++;
		subject->text_at = subject->star_text;
		subject->glob_at = subject->star_at + 1;
	}
	return false;
}

/* Whether a selector names a process, by its user or its name, which `subject` holds. */
static __always_inline bool names_process(const volatile struct selector *selector,
					  struct subject *subject, u32 uid)
{
	if (selector->kind == SELECT_UID)
		return selector->low <= uid && uid <= selector->high;
	return selector->kind == SELECT_NAME && glob_matches(selector, subject, false);
}

static __always_inline int select_path(const volatile struct selector list[MAX_SELECTORS],
				       struct subject *subject, bool below)
{
	int i = 0;

	for_range(i, 0, MAX_SELECTORS) {
		const volatile struct selector *selector = &list[i & (MAX_SELECTORS - 1)];

		if (!selector->kind)
			break;
		if (selector->kind == SELECT_CGROUP && glob_matches(selector, subject, below))
			return i;
	}
	return -1;
}

static __always_inline bool select_process(const volatile struct selector list[MAX_SELECTORS],
					   struct subject *subject, u32 uid)
{
	int i = 0;

	for_range(i, 0, MAX_SELECTORS) {
		const volatile struct selector *selector = &list[i & (MAX_SELECTORS - 1)];

		if (!selector->kind)
			break;
		if (names_process(selector, subject, uid))
			return true;
	}
	return false;
}

/*
 * LIST_path(): the place of the first of a list's cgroup globs that stands for the path,
 * with `below` also for one further up; -1: none.
 */
#define SELECTS_PATHS(list)						\
__noinline int list##_path(struct subject *subject, bool below)	\
{									\
	return subject ? select_path(list, subject, below) : -1;	\
}

/* LIST_process(): whether a list names the process of that user and of the name in `subject`. */
#define SELECTS_PROCESSES(list)						\
__noinline bool list##_process(struct subject *subject, u32 uid)	\
{									\
	return subject && select_process(list, subject, uid);		\
}

#endif /* BPF_OOM_SELECT_H */
