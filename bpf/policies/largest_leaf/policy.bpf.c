// SPDX-License-Identifier: GPL-2.0-or-later
/* largest_leaf: the cgroup that uses the most dies. */
#define RANKS_WITHIN_USAGE 1
#include <bpf_oom/rank_cgroups.h>

/*
 * Count page cache of files as part of a cgroup's size. It is mostly given back without a
 * kill, so it says little about what a kill will free.
 * 0: do not count it.
 */
const volatile bool count_file;

static s64 rank(struct mem_cgroup *memcg, u64 usage)
{
	return count_file ? usage + memcg_file(memcg) : usage;
}

OOM_POLICY(largest_leaf);
