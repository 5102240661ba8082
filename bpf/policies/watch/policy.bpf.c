// SPDX-License-Identifier: GPL-2.0-or-later
/* watch: record pressure events and never act. */
#define PSI_NEVER_ACTS	1
#include <bpf_oom/psi.h>

static bool judge(struct mem_cgroup *memcg, struct decision *decision)
{
	return true;
}

PSI_POLICY(watch);
