// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * by_priority: of the cgroups with the lowest priority the largest dies. The site gives
 * priorities to globs; the first of them that stands for a cgroup, or for one above it,
 * counts.
 */
#include <bpf_oom/rank_cgroups.h>

/* Globs with a priority from 0 (dies first) to 1000; the loader puts longer ones first. */
SELECTORS(priorities);
SELECTS_PATHS(priorities)

/* The priority of all others, from 0 to 1000. */
const volatile u32 default_priority = 500;

#define HIGHEST	1000

static u32 priority_of(struct mem_cgroup *memcg)
{
	int place = first_path(priorities, priorities_path(memcg_cgroup(memcg)));

	return place >= 0 ? priorities[bounded(place, MAX_SELECTORS)].weight : default_priority;
}

static s64 rank(struct mem_cgroup *memcg, u64 usage)
{
	/* No cgroup is larger than 2^52 bytes. */
	return ((s64)(HIGHEST - priority_of(memcg)) << 52) + usage;
}

OOM_POLICY(by_priority);
