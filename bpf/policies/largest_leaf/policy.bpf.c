// SPDX-License-Identifier: GPL-2.0-or-later
/* largest_leaf: the cgroup that uses the most dies. */
#include <bpf_oom/rank_cgroups.h>

/*
 * Count page cache as part of a cgroup's size. Page cache is mostly given back without a
 * kill, so it says little about what a kill will free.
 * 0: do not count it.
 */
const volatile bool count_file;

static s64 rank(struct mem_cgroup *memcg, u64 usage)
{
	u64 file;

	/* Page cache only makes it smaller, so most are done with here. */
	if (!run.tiers && !adj_weight && (s64)usage < run.best[MAX_BEST - 1].score)
		return RANK_SKIP;
	if (!count_file) {
		file = memcg_file(memcg);
		usage = usage > file ? usage - file : 0;
	}
	return usage && usage >= min_usage ? (s64)usage : RANK_SKIP;
}

OOM_POLICY(largest_leaf);
