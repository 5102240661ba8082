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

/* The priority of a cgroup that was seen before; its path never changes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2048);
	__type(key, u64);
	__type(value, u32);
} known SEC(".maps");

static u32 priority_of(struct mem_cgroup *memcg)
{
	u64 id = css_cgroup_id(&memcg->css);
	u32 priority = default_priority, *before;
	int at = -1;

	before = bpf_map_lookup_elem(&known, &id);
	if (before)
		return *before;
	if (path_of(&subject, node_of(memcg->css.cgroup)))
		at = priorities_path(&subject, true);
	if (at >= 0)
		priority = priorities[at & (MAX_SELECTORS - 1)].weight;
	bpf_map_update_elem(&known, &id, &priority, BPF_ANY);
	return priority;
}

static s64 rank(struct mem_cgroup *memcg, u64 usage)
{
	/* No cgroup is larger than 2^52 bytes. */
	return ((s64)(HIGHEST - priority_of(memcg)) << 52) + usage;
}

OOM_POLICY(by_priority);
