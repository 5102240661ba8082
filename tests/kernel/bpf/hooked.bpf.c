// SPDX-License-Identifier: GPL-2.0-or-later
/* Sits at the entry of a function that the module for stock kernels hooks: only one of the two can. */
#include <bpf_oom/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

u64 nr_scans;

SEC("fentry/mem_cgroup_scan_tasks")
int BPF_PROG(scan_enter)
{
	nr_scans++;
	return 0;
}
