// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pressure_oom: call it an OOM when pressure passes a threshold. Who dies is up to the OOM
 * policies and, behind them, the kernel.
 */
#include <bpf_oom/psi.h>

static bool judge(struct mem_cgroup *memcg, struct decision *decision)
{
	return true;
}

PSI_POLICY(pressure_oom);
