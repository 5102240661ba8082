// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * An independent witness of kills: every OOM victim that the kernel marks, with its cgroup.
 * It knows nothing of our policies, shares no code with them, and is loaded by bpftool.
 */
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u32 __u32;
typedef u64 __u64;
typedef unsigned short __u16, __be16;
typedef unsigned char __u8;
typedef int __s32;
typedef long long __s64;
typedef u32 __be32, __wsum;

#define BPF_MAP_TYPE_ARRAY 2

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "GPL";

#define MAX_VICTIMS 512

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct kernfs_node {
	u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct task_struct {
	int tgid;
	char comm[16];
	struct css_set *cgroups;
};
#pragma clang attribute pop

struct victim {
	u64 ns;
	u64 cgroup_id;
	u32 pid;
	u32 killer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_VICTIMS);
	__type(key, u32);
	__type(value, struct victim);
} victims SEC(".maps");

/* OOMs are handled one at a time. */
u32 nr_victims;

/* In the context of the killer; the task that it is about comes as the first argument. */
SEC("raw_tp/mark_victim")
int mark_victim(u64 *args)
{
	struct task_struct *task = (void *)args[0];
	u32 at = nr_victims % MAX_VICTIMS;
	struct victim *victim;

	victim = bpf_map_lookup_elem(&victims, &at);
	if (!victim)
		return 0;
	victim->ns = bpf_ktime_get_ns();
	victim->killer = bpf_get_current_pid_tgid() >> 32;
	victim->pid = BPF_CORE_READ(task, tgid);
	victim->cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	nr_victims++;
	return 0;
}
