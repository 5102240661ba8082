/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Cgroups by their path. No kfunc tells it, so the names are compared, from the last to
 * the first.
 */
#ifndef BPF_OOM_PATH_H
#define BPF_OOM_PATH_H

#include <bpf_oom/policy.h>

#define CGROUP_NAME_SIZE	256	/* NAME_MAX and the final 0 */
#define CGROUP_PATH_SIZE	512	/* of a parameter of type cgroup */
#define CGROUP_DEPTH		32	/* levels below the mount */

/* Scratch space of cgroup_has_path(): handle_cgroup_online runs once at a time. */
static char cgroup_name[CGROUP_NAME_SIZE];

static __always_inline struct kernfs_node *kernfs_parent(struct kernfs_node *kn)
{
	struct kernfs_node___rcu *rcu = (void *)kn;

	if (bpf_core_field_exists(rcu->__parent))
		return BPF_CORE_READ(rcu, __parent);
	return BPF_CORE_READ(kn, parent);
}

/*
 * Whether `path`, absolute below the mount, is the path of this cgroup: from the last
 * name to the first, as a node knows its parent. Call it in handle_cgroup_online only.
 */
static __noinline bool cgroup_has_path(struct kernfs_node *kn,
				       const volatile char path[CGROUP_PATH_SIZE])
{
	struct kernfs_node *parent;
	int end = 0, i = 0, level = 0;
	long size;

	for_range(end, 0, CGROUP_PATH_SIZE) {
		if (!path[end & (CGROUP_PATH_SIZE - 1)])
			break;
	}
	for_range(level, 0, CGROUP_DEPTH) {
		(void)level;
		parent = kernfs_parent(kn);
		if (!parent)
			return end == 0;
		size = bpf_probe_read_kernel_str(cgroup_name, sizeof(cgroup_name),
						 BPF_CORE_READ(kn, name));
		/* with the 0, in whose place the path has a slash before the name */
		if (size < 2 || size > end)
			return false;
		end -= size;
		if (path[end & (CGROUP_PATH_SIZE - 1)] != '/')
			return false;
		for_range(i, 0, size - 1) {
			if (cgroup_name[i & (CGROUP_NAME_SIZE - 1)] !=
			    path[(end + 1 + i) & (CGROUP_PATH_SIZE - 1)])
				return false;
		}
		kn = parent;
	}
	return false;
}

#endif /* BPF_OOM_PATH_H */
