/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much memory comes back when somebody dies: what is anonymous or shared, with what of
 * it is swapped while swap is short, and page tables. Not page cache of files: the kernel
 * takes that without a kill.
 */
#ifndef BPF_OOM_MEMORY_H
#define BPF_OOM_MEMORY_H

#include <bpf_oom/policy.h>

#define MAX_CPUS	1024

/*
 * Numbers of the kernel that no program is given, and where it keeps them: the loader writes
 * the addresses, as /proc/kallsyms has them. 0: not known, then the policy does without.
 */
enum kernel_number {
	TOTALRAM_PAGES,		/* _totalram_pages */
	TOTAL_SWAP_PAGES,	/* total_swap_pages */
	NR_SWAP_PAGES,		/* nr_swap_pages, those that are free */
	PER_CPU_OFFSET,		/* __per_cpu_offset, u64[nr_cpu_ids] */
	NR_CPU_IDS,		/* nr_cpu_ids, u32 */
	PERCPU_COUNTER_BATCH,	/* percpu_counter_batch, s32: what one CPU keeps to itself */
	BUDGET_MS,		/* sysctl_bpf_oom_budget_ms, u32 */
	VM_ZONE_STAT,		/* vm_zone_stat, s64[], pages */
	VM_NODE_STAT,		/* vm_node_stat, s64[], pages */
	TOTALRESERVE_PAGES,	/* totalreserve_pages */
	NODE_DATA,		/* node_data, struct pglist_data *[nr_node_ids]; 0: no NUMA */
	NR_NODE_IDS,		/* nr_node_ids, u32; likewise */
	CONTIG_PAGE_DATA,	/* contig_page_data, the only node without NUMA */
	NR_KERNEL_NUMBERS,
};

const volatile u64 kernel_numbers[NR_KERNEL_NUMBERS];

/*
 * What survey() found out of the memory that an OOM is about. Clang takes a static struct
 * apart that is only used by its members, and then its BTF is wrong.
 */
static u64 total_bytes;		/* what there is: memory and swap, less where a limit is lower */
static u64 slack_bytes;		/* how far the counters of an address space may be off */
static u64 stat_slack_bytes;	/* the same of a memcg's statistics, after a flush */
static bool swap_is_short;	/* less than a tenth of it is free */

static __always_inline s64 kernel_s64(enum kernel_number number, s64 otherwise)
{
	s64 value;

	if (bpf_probe_read_kernel(&value, sizeof(value), (void *)kernel_numbers[number]))
		return otherwise;
	return value;
}

static __always_inline s32 kernel_s32(enum kernel_number number, s32 otherwise)
{
	s32 value;

	if (bpf_probe_read_kernel(&value, sizeof(value), (void *)kernel_numbers[number]))
		return otherwise;
	return value;
}

static __always_inline s64 lower(s64 a, s64 b)
{
	return a < b ? a : b;
}

/*
 * What there is for the OOM of a memcg: the memory of the machine, or less where a cgroup
 * from there up has a limit.
 */
__noinline int survey(struct mem_cgroup *top __arg_trusted)
{
	/* No machine has more than 2^50 bytes. */
	s64 memory = kernel_s64(TOTALRAM_PAGES, (1LL << 50) / page_size);
	s64 swap = kernel_s64(TOTAL_SWAP_PAGES, 0), free = kernel_s64(NR_SWAP_PAGES, 0);
	struct mem_cgroup *at = top;
	s32 cpus = kernel_s32(NR_CPU_IDS, 1);
	int level;

	bpf_for(level, 0, 1024) {
		s64 max = BPF_CORE_READ(at, swap.max);

		/* The css is the first member. */
		if (!BPF_CORE_READ(at, css.parent))
			break;
		memory = lower(memory, BPF_CORE_READ(at, memory.max));
		swap = lower(swap, max);
		free = lower(free, max - BPF_CORE_READ(at, swap.usage.counter));
		at = (void *)BPF_CORE_READ(at, css.parent);
	}
	total_bytes = (memory + swap) * page_size;
	swap_is_short = free <= 0 || free * 10 < swap;
	/* Three counters, of each of which every CPU may keep a batch to itself. */
	slack_bytes = 3ULL * cpus * kernel_s32(PERCPU_COUNTER_BATCH, 32) * page_size;
	stat_slack_bytes = 64ULL * cpus * page_size;	/* MEMCG_CHARGE_BATCH */
	return 0;
}

/* What the CPUs have not brought in yet. */
static __always_inline s64 pages_of_cpus(const s32 *counters)
{
	u64 offsets = kernel_numbers[PER_CPU_OFFSET], offset;
	s32 cpus = kernel_s32(NR_CPU_IDS, 0), part;
	s64 pages = 0;
	int cpu;

	if (!counters || !offsets)
		return 0;
	bpf_for(cpu, 0, MAX_CPUS) {
		if (cpu >= cpus)
			break;
		if (bpf_probe_read_kernel(&offset, sizeof(offset),
					  (void *)offsets + cpu * sizeof(offset)))
			break;
		if (!bpf_probe_read_kernel(&part, sizeof(part), (void *)counters + offset))
			pages += part;
	}
	return pages;
}

static __always_inline s64 counter_pages(const struct percpu_counter *counter, bool exact)
{
	s64 pages = BPF_CORE_READ(counter, count);

	return exact ? pages + pages_of_cpus(BPF_CORE_READ(counter, counters)) : pages;
}

/* What mm_bytes_exactly() saw last, in bytes. */
static u64 mm_anon;
static u64 mm_shmem;

static __always_inline u64 mm_bytes(u64 address, bool exact)
{
	struct mm_struct *mm = (void *)address;
	s64 anon, shmem, swapped = 0;

	mm_anon = 0;
	mm_shmem = 0;
	if (!mm)
		return 0;
	/* CO-RE knows constant indices only. */
	anon = counter_pages(&mm->rss_stat[MM_ANONPAGES], exact);
	shmem = counter_pages(&mm->rss_stat[MM_SHMEMPAGES], exact);
	if (swap_is_short)
		swapped = counter_pages(&mm->rss_stat[MM_SWAPENTS], exact);
	if (anon > 0)
		mm_anon = anon * page_size;
	if (shmem > 0)
		mm_shmem = shmem * page_size;
	if (swapped < 0)
		swapped = 0;
	return mm_anon + mm_shmem + swapped * page_size +
	       BPF_CORE_READ(mm, pgtables_bytes.counter);
}

/* Bytes of an address space, 0 for none; slack_bytes says how far they may be off. */
static __always_inline u64 mm_bytes_about(u64 mm)
{
	return mm_bytes(mm, false);
}

/* The same, with a look at each CPU. */
__noinline u64 mm_bytes_exactly(u64 mm)
{
	return mm_bytes(mm, true);
}

/* The memcg that a task's pages are charged to from now on, as an address. */
static __always_inline u64 task_memcg(struct task_struct *task)
{
	void *sets = BPF_CORE_READ(task, cgroups);
	u64 memcg = 0;

	/* The css is the first member. */
	bpf_probe_read_kernel(&memcg, sizeof(memcg),
			      sets + bpf_core_field_offset(struct css_set, subsys) +
			      sizeof(memcg) * bpf_core_enum_value(enum cgroup_subsys_id,
								  memory_cgrp_id));
	return memcg;
}

/* Bytes of shared memory and tmpfs that are charged to a memcg. */
static __always_inline u64 memcg_shmem(struct mem_cgroup *memcg)
{
	return bpf_mem_cgroup_page_state(memcg, bpf_core_enum_value(enum node_stat_item, NR_SHMEM));
}

/* Bytes of anonymous memory that are charged to a memcg and mapped. */
static __always_inline u64 memcg_anon(struct mem_cgroup *memcg)
{
	return bpf_mem_cgroup_page_state(memcg, bpf_core_enum_value(enum node_stat_item,
								    NR_ANON_MAPPED));
}

/*
 * Bytes of page cache of files, which the kernel takes without a kill. The root's statistics
 * are those of the system, and nothing is charged to it.
 */
static __always_inline u64 memcg_file(struct mem_cgroup *memcg)
{
	s64 file;

	if (!memcg->css.parent)
		return 0;
	file = bpf_mem_cgroup_page_state(memcg, bpf_core_enum_value(enum node_stat_item,
								    NR_FILE_PAGES));
	/* Counted with it are tmpfs, and pages of swap that are in memory as well. */
	file -= memcg_shmem(memcg);
	file -= bpf_mem_cgroup_page_state(memcg, bpf_core_enum_value(enum node_stat_item,
								     NR_SWAPCACHE));
	return file > 0 ? file : 0;
}

/* Bytes that are charged to a memcg and those below; no part of it has more. */
static __always_inline u64 memcg_charged(struct mem_cgroup *memcg)
{
	u64 bytes = bpf_mem_cgroup_usage(memcg);

	if (swap_is_short)
		bytes += (u64)BPF_CORE_READ(memcg, swap.usage.counter) * page_size;
	return bytes;
}

/* Bytes that a cgroup asked for: memory.min or memory.low, whichever is more. */
static __always_inline u64 memcg_request(struct mem_cgroup *memcg)
{
	u64 min = memcg->memory.min, low = memcg->memory.low, bytes;

	bytes = (min > low ? min : low) * page_size;
	/* "max" is as much as there is. */
	return bytes < total_bytes ? bytes : total_bytes;
}

#endif /* BPF_OOM_MEMORY_H */
