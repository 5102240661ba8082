// SPDX-License-Identifier: GPL-2.0-or-later
/* pressure_and_swap: call it an OOM when there is pressure and little free swap. */
#include <bpf_oom/psi.h>

/* The default of free_swap_below_percent is what it has of its own, see policy.yml. */
static bool judge(struct mem_cgroup *memcg, struct decision *decision)
{
	return true;
}

PSI_POLICY(pressure_and_swap);
