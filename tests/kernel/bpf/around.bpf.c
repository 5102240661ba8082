// SPDX-License-Identifier: GPL-2.0-or-later
/* Looks at the end of out_of_memory(), around what the module for stock kernels hooks. */
#include <bpf_oom/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

u64 nr_ends;

SEC("fexit/out_of_memory")
int BPF_PROG(oom_exit)
{
	nr_ends++;
	return 0;
}
