// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * over_request: who uses the most above what it asked for dies, as the kubelet ranks. What
 * a cgroup asked for is memory.min or memory.low, whichever is more.
 */
#include <bpf_oom/rank_cgroups.h>

static s64 rank(struct mem_cgroup *memcg, u64 usage)
{
	u64 min = memcg->memory.min, low = memcg->memory.low;

	return (s64)usage - (s64)((min > low ? min : low) * PAGE_SIZE);
}

OOM_POLICY(over_request);
