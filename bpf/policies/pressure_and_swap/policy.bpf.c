// SPDX-License-Identifier: GPL-2.0-or-later
/* pressure_and_swap: call it an OOM when there is pressure and little free swap. */
#include <bpf_oom/psi.h>

/*
 * Act only when so much of the swap space is free, or less: of what the system has, and of
 * what a cgroup may use of it. Without any swap none is free.
 * Unit: percent. 0: only when none is free. 100: however much is free.
 */
const volatile u32 free_swap_percent = 10;

static bool judge(struct mem_cgroup *memcg, struct decision *decision)
{
	s64 free = 0, total = 0;

	bpf_probe_read_kernel(&free, sizeof(free), &nr_swap_pages);
	bpf_probe_read_kernel(&total, sizeof(total), &total_swap_pages);
	if (memcg) {
		s64 max = memcg->swap.max, used = BPF_CORE_READ(memcg, swap.usage.counter);

		if (max < total)
			total = max;
		if (max - used < free)
			free = max - used;
	}
	if (free < 0)
		free = 0;
	decision->free_swap = free * page_size;
	return free * 100 <= total * free_swap_percent;
}

PSI_POLICY(pressure_and_swap);
