// SPDX-License-Identifier: GPL-2.0-or-later
/* When the kernel raised a pressure event, and what came of it. For the benchmark. */
#include <bpf_oom/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

u64 notified;		/* last time that a reader of a pressure file was notified */
u64 raised;		/* last time that a BPF trigger fired */
u64 raised_then;	/* ... for the OOM that was declared last */
u64 handled;
u64 killed;

SEC("fentry/kernfs_notify")
int BPF_PROG(notify, struct kernfs_node *kn)
{
	char name[16] = {};

	bpf_probe_read_kernel_str(name, sizeof(name), kn->name);
	if (name[0] == 'm' && name[7] == 'p')	/* memory.pressure */
		notified = bpf_ktime_get_ns();
	return 0;
}

SEC("fentry/bpf_psi_event")
int BPF_PROG(raise, struct psi_trigger *t)
{
	raised = bpf_ktime_get_ns();
	return 0;
}

SEC("fentry/bpf_out_of_memory")
int BPF_PROG(declare, struct mem_cgroup *memcg)
{
	raised_then = raised;
	handled = bpf_ktime_get_ns();
	return 0;
}

SEC("fentry/oom_kill_process")
int BPF_PROG(kill, struct oom_control *oc)
{
	killed = bpf_ktime_get_ns();
	return 0;
}
