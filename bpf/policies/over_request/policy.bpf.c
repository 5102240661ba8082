// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * over_request: who uses the most above what it asked for dies, as the kubelet ranks. What
 * a cgroup asked for is memory.min or memory.low, whichever is more.
 */
#define RANKS_WITHIN_USAGE 1
#include <bpf_oom/rank_cgroups.h>

static s64 rank(struct mem_cgroup *memcg, u64 usage)
{
	return (s64)usage - (s64)memcg_request(memcg);
}

OOM_POLICY(over_request);
