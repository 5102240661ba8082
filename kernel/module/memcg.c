// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Access to memory cgroups for BPF programs, under the names and with the meaning of later
 * kernels, which have these kfuncs themselves.
 */
#include "bpf_oom.h"

#include <linux/vmstat.h>

static unsigned long page_state_output(struct mem_cgroup *memcg, int item)
{
	return BPF_OOM_CALL2(memcg_page_state_output, memcg, item);
}

static unsigned long events(struct mem_cgroup *memcg, int event)
{
	return BPF_OOM_CALL2(memcg_events, memcg, event);
}

static void flush_stats(struct mem_cgroup *memcg)
{
	BUILD_BUG_ON(!__same_type(mem_cgroup_flush_stats, void (struct mem_cgroup *)));
	BPF_OOM_CALL1(mem_cgroup_flush_stats, memcg);
}

/*
 * The kernel warns when it is asked for an item that memcgs do not keep, and its table of
 * those that they keep is its own (mm/memcontrol.c, memcg_node_stat_items, memcg_stat_items
 * and memcg_vm_event_stat). This is the part of it that all kernels have in common.
 */
static bool stat_item_valid(int item)
{
	switch (item) {
	case NR_INACTIVE_ANON ... NR_UNEVICTABLE:
	case NR_SLAB_RECLAIMABLE_B:
	case NR_SLAB_UNRECLAIMABLE_B:
	case WORKINGSET_REFAULT_ANON:
	case WORKINGSET_REFAULT_FILE:
	case WORKINGSET_ACTIVATE_ANON:
	case WORKINGSET_ACTIVATE_FILE:
	case WORKINGSET_RESTORE_ANON:
	case WORKINGSET_RESTORE_FILE:
	case WORKINGSET_NODERECLAIM:
	case NR_ANON_MAPPED:
	case NR_FILE_MAPPED:
	case NR_FILE_PAGES:
	case NR_FILE_DIRTY:
	case NR_WRITEBACK:
	case NR_SHMEM:
	case NR_SHMEM_THPS:
	case NR_FILE_THPS:
	case NR_ANON_THPS:
	case NR_KERNEL_STACK_KB:
	case NR_PAGETABLE:
	case NR_SECONDARY_PAGETABLE:
#ifdef CONFIG_SWAP
	case NR_SWAPCACHE:
#endif
	case MEMCG_SWAP:
	case MEMCG_SOCK:
	case MEMCG_PERCPU_B:
	case MEMCG_VMALLOC:
	case MEMCG_KMEM:
	case MEMCG_ZSWAP_B:
	case MEMCG_ZSWAPPED:
		return true;
	default:
		return false;
	}
}

static bool vm_event_item_valid(int item)
{
	switch (item) {
#ifdef CONFIG_MEMCG_V1
	case PGPGIN:
	case PGPGOUT:
#endif
	case PGSCAN_KSWAPD:
	case PGSCAN_DIRECT:
	case PGSCAN_KHUGEPAGED:
	case PGSTEAL_KSWAPD:
	case PGSTEAL_DIRECT:
	case PGSTEAL_KHUGEPAGED:
	case PGFAULT:
	case PGMAJFAULT:
	case PGREFILL:
	case PGACTIVATE:
	case PGDEACTIVATE:
	case PGLAZYFREE:
	case PGLAZYFREED:
#ifdef CONFIG_ZSWAP
	case ZSWPIN:
	case ZSWPOUT:
	case ZSWPWB:
#endif
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	case THP_FAULT_ALLOC:
	case THP_COLLAPSE_ALLOC:
	case THP_SWPOUT:
	case THP_SWPOUT_FALLBACK:
#endif
		return true;
	default:
		return false;
	}
}

__bpf_kfunc_start_defs();

/**
 * bpf_get_root_mem_cgroup - Get the root memory cgroup
 *
 * Return: the root memcg, to be dropped with bpf_put_mem_cgroup(), or NULL if the memory
 * controller is disabled.
 */
__bpf_kfunc struct mem_cgroup *bpf_get_root_mem_cgroup(void)
{
	struct cgroup_subsys_state *css;

	if (mem_cgroup_disabled())
		return NULL;

	css = cgroup_get_e_css(&cgrp_dfl_root.cgrp, &memory_cgrp_subsys);
	return css ? mem_cgroup_from_css(css) : NULL;
}

/**
 * bpf_get_mem_cgroup - Get a reference to the memcg behind a css
 * @css: the css of a memcg, or the own css (cgroup::self) of a cgroup
 *
 * Return: the memcg, to be released with bpf_put_mem_cgroup(), or NULL if @css belongs to
 * another controller, if the cgroup has no memcg of its own or if the last reference is
 * already gone.
 */
__bpf_kfunc struct mem_cgroup *bpf_get_mem_cgroup(struct cgroup_subsys_state *css)
{
	struct mem_cgroup *memcg = NULL;
	bool drop_rcu = false;

	if (mem_cgroup_disabled())
		return NULL;

	if (!css->ss) {
		rcu_read_lock();
		drop_rcu = true;
		css = rcu_dereference(css->cgroup->subsys[memory_cgrp_id]);
	} else if (css->ss != &memory_cgrp_subsys) {
		return NULL;
	}

	if (css && css_tryget(css))
		memcg = mem_cgroup_from_css(css);

	if (drop_rcu)
		rcu_read_unlock();

	return memcg;
}

/**
 * bpf_put_mem_cgroup - Drop a reference to a memcg
 * @memcg: memcg from bpf_get_mem_cgroup() or bpf_get_root_mem_cgroup()
 */
__bpf_kfunc void bpf_put_mem_cgroup(struct mem_cgroup *memcg)
{
	css_put(&memcg->css);
}

/**
 * bpf_mem_cgroup_usage - Memory charged to a memcg and its descendants
 * @memcg: the memcg
 *
 * Return: usage in bytes, too high by the batches of the CPUs at most.
 */
__bpf_kfunc unsigned long bpf_mem_cgroup_usage(struct mem_cgroup *memcg)
{
	return page_counter_read(&memcg->memory) * PAGE_SIZE;
}

/**
 * bpf_mem_cgroup_page_state - A statistic of a memcg and its descendants
 * @memcg: the memcg
 * @idx: an item of enum node_stat_item or enum memcg_stat_item
 *
 * Return: the value as of the last flush, in bytes where the item counts memory, or
 * ULONG_MAX if memcgs do not keep such an item.
 */
__bpf_kfunc unsigned long bpf_mem_cgroup_page_state(struct mem_cgroup *memcg, int idx)
{
	return stat_item_valid(idx) ? page_state_output(memcg, idx) : ULONG_MAX;
}

/**
 * bpf_mem_cgroup_memory_events - Count of a memory.events event
 * @memcg: the memcg
 * @event: the event, descendants included
 *
 * Return: the count, or ULONG_MAX if there is no such event.
 */
__bpf_kfunc unsigned long bpf_mem_cgroup_memory_events(struct mem_cgroup *memcg,
						       enum memcg_memory_event event)
{
	if ((unsigned int)event >= MEMCG_NR_MEMORY_EVENTS)
		return ULONG_MAX;

	return atomic_long_read(&memcg->memory_events[event]);
}

/**
 * bpf_mem_cgroup_vm_events - Count of a VM event in a memcg and its descendants
 * @memcg: the memcg
 * @event: an item of enum vm_event_item
 *
 * Return: the count as of the last flush, or ULONG_MAX if memcgs do not count such an event.
 */
__bpf_kfunc unsigned long bpf_mem_cgroup_vm_events(struct mem_cgroup *memcg,
						   enum vm_event_item event)
{
	return vm_event_item_valid(event) ? events(memcg, event) : ULONG_MAX;
}

/**
 * bpf_mem_cgroup_flush_stats - Bring the statistics of a memcg up to date
 * @memcg: the memcg; its descendants are flushed with it
 */
__bpf_kfunc void bpf_mem_cgroup_flush_stats(struct mem_cgroup *memcg)
{
	flush_stats(memcg);
}

__bpf_kfunc_end_defs();
