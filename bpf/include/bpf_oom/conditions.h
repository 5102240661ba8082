/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What must hold beside pressure before a psi policy acts: all conditions that are given.
 * Nobody shall die for pressure while there is memory: a cgroup that thrashes at its own
 * limit makes pressure for the whole system, too.
 */
#ifndef BPF_OOM_CONDITIONS_H
#define BPF_OOM_CONDITIONS_H

#include <bpf_oom/decision.h>
#include <bpf_oom/memory.h>

/*
 * Act only when so much memory is free, or less: of the system what MemAvailable of
 * /proc/meminfo says, of a cgroup what its own and its ancestors' limits (memory.max and
 * memory.high) leave, and no more than the system has. Page cache of files and slab that the
 * kernel can take back count as free.
 * Unit: percent, of the memory of the system or of the lowest limit. 0: 10 for the system, and
 * in a cgroup free memory does not matter. 100: however much is free.
 */
const volatile u32 free_memory_below_percent;

/* The same. Unit: bytes. 0: the percentage counts. */
const volatile u64 free_memory_below_bytes;

/*
 * Act only when so much of the swap space is free, or less: of what the system has, and of
 * what the cgroup's and its ancestors' memory.swap.max let it use. Without swap none is free.
 * Unit: percent, of what there is for it. 0: only when none is free. 100: however much is free.
 */
const volatile u32 free_swap_below_percent = 100;

/* The same. Unit: bytes. 0: the percentage counts. */
const volatile u64 free_swap_below_bytes;

/*
 * Of the whole system: where more than a tenth is available no allocation fails, and pressure
 * comes from the limits of cgroups, which have OOMs of their own. As earlyoom has it.
 */
#define FREE_MEMORY_OF_SYSTEM	10

#define MAX_NODES	1024	/* of NUMA */
#define MAX_ZONES	8	/* of a node */
#define MAX_DEPTH	1024	/* of cgroups */
#define NOT_KNOWN	S64_MAX

/* What a look around found, in pages. */
struct surroundings {
	s64 free_memory;	/* NOT_KNOWN: the kernel hides its addresses */
	s64 all_memory;
	s64 free_swap;		/* likewise */
	s64 all_swap;
};

static __always_inline s64 stat_of(enum kernel_number table, u64 item)
{
	s64 pages = 0;

	bpf_probe_read_kernel(&pages, sizeof(pages),
			      (void *)kernel_numbers[table] + item * sizeof(pages));
	return pages > 0 ? pages : 0;
}

#define ZONE_STAT(item)	stat_of(VM_ZONE_STAT, bpf_core_enum_value(enum zone_stat_item, item))
#define NODE_STAT(item)	stat_of(VM_NODE_STAT, bpf_core_enum_value(enum node_stat_item, item))

/* Kernels differ in how many zones a node has and how large they are. */
static __always_inline s64 node_low(u64 address)
{
	struct pglist_data *node = (void *)address;
	u64 size = bpf_core_type_size(struct zone);
	void *zones = &node->node_zones;
	s64 pages = 0;
	u64 at;
	int i;

	bpf_for(i, 0, MAX_ZONES) {
		struct zone *zone;

		at = i * size;
		if (at >= bpf_core_field_size(node->node_zones))
			break;
		zone = zones + at;
		pages += (s64)BPF_CORE_READ(zone, _watermark[WMARK_LOW]) +
			 (s64)BPF_CORE_READ(zone, watermark_boost);
	}
	return pages;
}

/* Where reclaim in the background begins, the sum of all zones; pages. */
__noinline s64 low_watermarks(void)
{
	u64 nodes = kernel_numbers[NODE_DATA], node;
	s32 count = kernel_s32(NR_NODE_IDS, 1);
	s64 pages = 0;
	int i;

	if (!nodes)
		return node_low(kernel_numbers[CONTIG_PAGE_DATA]);
	bpf_for(i, 0, MAX_NODES) {
		if (i >= count)
			break;
		node = 0;
		bpf_probe_read_kernel(&node, sizeof(node), (void *)nodes + i * sizeof(node));
		if (node)
			pages += node_low(node);
	}
	return pages;
}

/* Without what the kernel does not give before it swaps: half of it, or its low watermark. */
static __always_inline s64 most_of(s64 pages, s64 low)
{
	return pages - lower(pages / 2, low);
}

/*
 * MemAvailable of /proc/meminfo, in pages; NOT_KNOWN where its parts are not. See
 * si_mem_available().
 */
__noinline s64 available_memory(void)
{
	s64 reserve = kernel_s64(TOTALRESERVE_PAGES, -1), low, pages;

	if (reserve < 0 || !kernel_numbers[VM_ZONE_STAT] || !kernel_numbers[VM_NODE_STAT] ||
	    (!kernel_numbers[NODE_DATA] && !kernel_numbers[CONTIG_PAGE_DATA]))
		return NOT_KNOWN;
	low = low_watermarks();
	pages = ZONE_STAT(NR_FREE_PAGES) - reserve;
	pages += most_of(NODE_STAT(NR_ACTIVE_FILE) + NODE_STAT(NR_INACTIVE_FILE), low);
	pages += most_of(NODE_STAT(NR_SLAB_RECLAIMABLE_B) +
			 NODE_STAT(NR_KERNEL_MISC_RECLAIMABLE), low);
	return pages > 0 ? pages : 0;
}

#define MEMCG_STAT(memcg, item)							\
	bpf_mem_cgroup_page_state(memcg, bpf_core_enum_value(enum node_stat_item, item))

/* Pages that are charged to a memcg and that the kernel can take back without a kill. */
static __always_inline s64 reclaimable(struct mem_cgroup *memcg)
{
	u64 bytes = MEMCG_STAT(memcg, NR_ACTIVE_FILE) + MEMCG_STAT(memcg, NR_INACTIVE_FILE) +
		    MEMCG_STAT(memcg, NR_SLAB_RECLAIMABLE_B);

	return bytes / page_size;
}

/* What the limits of one cgroup leave. Above the last one's a limit changes nothing. */
static __always_inline void within_swap(struct mem_cgroup *memcg, struct surroundings *found)
{
	s64 limit = BPF_CORE_READ(memcg, swap.max), left;

	if (limit >= found->all_swap)
		return;
	left = limit - BPF_CORE_READ(memcg, swap.usage.counter);
	found->all_swap = limit;
	found->free_swap = lower(found->free_swap, left > 0 ? left : 0);
}

static __always_inline void within_memory(struct mem_cgroup *memcg, struct surroundings *found)
{
	s64 max = BPF_CORE_READ(memcg, memory.max), left;
	s64 limit = lower(max, BPF_CORE_READ(memcg, memory.high));

	if (limit >= found->all_memory)
		return;
	bpf_mem_cgroup_flush_stats(memcg);
	left = limit - BPF_CORE_READ(memcg, memory.usage.counter) + reclaimable(memcg);
	found->all_memory = limit;
	found->free_memory = lower(found->free_memory, left > 0 ? left : 0);
}

/* What there is for a memcg, of the root for the system. */
__noinline int look_around(struct mem_cgroup *memcg __arg_trusted, struct surroundings *found)
{
	struct cgroup *cgrp __put(cgroup) = NULL;
	int level;

	if (!found)
		return 0;
	found->free_memory = available_memory();
	found->all_memory = kernel_s64(TOTALRAM_PAGES, (1LL << 50) / page_size);
	found->free_swap = kernel_s64(NR_SWAP_PAGES, NOT_KNOWN);
	found->all_swap = kernel_s64(TOTAL_SWAP_PAGES, (1LL << 50) / page_size);
	/* It falls below 0 for a moment when the last page is taken. */
	if (found->free_swap < 0)
		found->free_swap = 0;
	cgrp = bpf_cgroup_from_id(BPF_CORE_READ(memcg, css.cgroup, kn, id));
	if (!cgrp)
		return 0;
	bpf_for(level, 1, MAX_DEPTH) {
		struct cgroup *at __put(cgroup) = bpf_cgroup_ancestor(cgrp, level);

		if (!at)
			break;

		struct mem_cgroup *limited __put(memcg) = bpf_get_mem_cgroup(&at->self);

		if (!limited)
			continue;
		within_memory(limited, found);
		within_swap(limited, found);
	}
	return 0;
}

static __always_inline bool memory_is_short(const struct surroundings *found, bool system)
{
	u32 percent = free_memory_below_percent;

	/* By default it is not known whether it is; who asks for it is told at load. */
	if (found->free_memory == NOT_KNOWN)
		return true;
	if (free_memory_below_bytes)
		return (u64)found->free_memory * page_size <= free_memory_below_bytes;
	if (!percent)
		percent = system && !PSI_NEVER_ACTS ? FREE_MEMORY_OF_SYSTEM : 100;
	return percent >= 100 || found->free_memory * 100 <= found->all_memory * percent;
}

static __always_inline bool swap_is_low(const struct surroundings *found)
{
	if (free_swap_below_bytes)
		return (u64)found->free_swap * page_size <= free_swap_below_bytes;
	return free_swap_below_percent >= 100 ||
	       found->free_swap * 100 <= found->all_swap * free_swap_below_percent;
}

/* The conditions that do not hold for a memcg, the root's for the system; and for the record. */
static __always_inline u32 unmet_conditions(struct mem_cgroup *memcg, bool system,
					    struct decision *decision)
{
	struct surroundings found = {};
	u32 unmet = 0;

	look_around(memcg, &found);
	if (found.free_memory != NOT_KNOWN)
		decision->free_memory = found.free_memory * page_size;
	if (found.free_swap != NOT_KNOWN)
		decision->free_swap = found.free_swap * page_size;
	if (!memory_is_short(&found, system))
		unmet |= CONDITION_FREE_MEMORY;
	if (!swap_is_low(&found))
		unmet |= CONDITION_FREE_SWAP;
	return unmet;
}

#endif /* BPF_OOM_CONDITIONS_H */
