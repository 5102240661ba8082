/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel types that policies look into: only the fields that are used, found
 * again in the running kernel by CO-RE. Add a field when a policy needs it.
 *
 *   cgroup, kernfs_node, cgroup_subsys_state         select.h
 *   task_struct, signal_struct, cred, css_set,
 *   pid, file, path, dentry, inode                   subject.h
 *   mm_struct, mem_cgroup, page_counter              memory.h
 *   zone, pglist_data                                conditions.h
 *   oom_control                                      oom.h
 *   bpf_psi, psi_trigger, bpf_psi_event              psi.h, abi.h
 */
#ifndef BPF_OOM_TYPES_H
#define BPF_OOM_TYPES_H

#include <stdbool.h>

/* Spelt here: <linux/types.h> needs the include path of an architecture. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;

/* The names that libbpf's headers use. */
typedef u8 __u8;
typedef u16 __u16;
typedef u32 __u32;
typedef u64 __u64;
typedef s32 __s32;
typedef s64 __s64;
typedef u16 __be16;
typedef u32 __be32;
typedef u32 __wsum;

#ifndef NULL
#define NULL ((void *)0)
#endif

#define ENOENT			2		/* asm-generic/errno-base.h */
#define ESRCH			3
#define EBUSY			16
#define EEXIST			17
#define ENODEV			19
#define ENOSPC			28
#define EOPNOTSUPP		95		/* asm-generic/errno.h */
#define OOM_SCORE_ADJ_MIN	(-1000)
#define PF_KTHREAD		0x00200000	/* task_struct.flags */
#define S_ISUID			04000		/* inode.i_mode */
#define CSS_ONLINE		0x2		/* cgroup_subsys_state.flags */
#define CSS_TASK_ITER_PROCS	0x1		/* one task per process */
#define BPF_TASK_ITER_ALL_PROCS	0
#define BPF_TASK_ITER_PROC_THREADS 2
#define BPF_CGROUP_ITER_DESCENDANTS_PRE 2	/* linux/bpf.h */
#define BPF_MAP_TYPE_HASH	1
#define BPF_MAP_TYPE_ARRAY	2
#define BPF_MAP_TYPE_LRU_HASH	9
#define BPF_ANY			0
#define S64_MIN			((s64)(1ULL << 63))
#define S64_MAX			((s64)~(1ULL << 63))
#define U64_MAX			(~0ULL)

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
	unsigned int flags;
	int nr_descendants;	/* online ones only */
};

/* Whose a directory is; there is none while it is root's. */
struct kernfs_iattrs {
	struct {
		u32 val;
	} ia_uid;
};

struct kernfs_node {
	u64 id;
	const char *name;
	struct kernfs_iattrs *iattr;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	int level;	/* of the root: 0 */
	struct cgroup *ancestors[];	/* by level, itself the last */
};

struct page_counter {	/* pages */
	struct {
		s64 counter;
	} usage;
	unsigned long min;
	unsigned long low;
	unsigned long high;
	unsigned long max;
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
	struct page_counter swap;
	bool oom_group;
};

struct zone {
	unsigned long _watermark[2];	/* pages */
	unsigned long watermark_boost;
};

struct pglist_data {
	struct zone node_zones[6];
};

struct signal_struct {
	short oom_score_adj;
	bool oom_flag_origin;	/* swapoff, KSM: whatever comes back, it asked for */
	int nr_threads;
};

/* Per CPU, brought together in batches: `count` is what has been brought. */
struct percpu_counter {
	s64 count;
	s32 *counters;
};

struct inode {
	u16 i_mode;
};

struct qstr {
	const unsigned char *name;
};

struct dentry {
	struct qstr d_name;
};

struct path {
	struct dentry *dentry;
};

struct file {
	struct inode *f_inode;
	struct path f_path;
};

struct mm_struct {
	struct {
		int counter;
	} mm_users;
	struct file *exe_file;
	struct percpu_counter rss_stat[4];	/* pages */
	struct {
		s64 counter;
	} pgtables_bytes;
};

struct cred {
	struct {
		u32 val;
	} uid;
};

enum cgroup_subsys_id {
	memory_cgrp_id,
};

struct css_set {
	struct cgroup_subsys_state *subsys[1];	/* by cgroup_subsys_id */
	struct cgroup *dfl_cgrp;
};

struct completion;

struct pid {
	unsigned int level;	/* of its namespace, of the first one: 0 */
};

struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	u64 start_time;		/* ns since boot */
	char comm[16];
	struct mm_struct *mm;
	struct signal_struct *signal;
	const struct cred *real_cred;
	struct css_set *cgroups;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct completion *vfork_done;	/* its parent waits there, and has lent its memory */
	struct pid *thread_pid;
};

struct oom_control {
	struct mem_cgroup *memcg;
	const char *bpf_constraint;
	int order;
	unsigned long totalpages;
};

struct psi_trigger {
	u64 cgroup_id;
};

/* What the module for stock kernels hands out in its place. */
struct bpf_psi_event {
	u64 cgroup_id;
};

#pragma clang attribute pop

/* The numbers are taken from the running kernel. */
enum node_stat_item {
	NR_FILE_PAGES = 1,
	NR_SHMEM,
	NR_SWAPCACHE,
	NR_ANON_MAPPED,
	NR_INACTIVE_FILE,
	NR_ACTIVE_FILE,
	NR_SLAB_RECLAIMABLE_B,
	NR_KERNEL_MISC_RECLAIMABLE,
};

enum zone_stat_item {
	NR_FREE_PAGES = 1,
};

/* Indices of zone._watermark. */
enum {
	WMARK_MIN,
	WMARK_LOW,
};

/* Indices of mm_struct.rss_stat. */
enum {
	MM_FILEPAGES,
	MM_ANONPAGES,
	MM_SWAPENTS,
	MM_SHMEMPAGES,
	NR_MM_COUNTERS,
};

/* Opaque, yet complete: libbpf tells a forward declaration from the kernel's struct. */
struct bpf_psi {
};

struct bpf_iter_num {
	u64 opaque;
};

struct bpf_iter_css {
	u64 opaque[3];
};

struct bpf_iter_task {
	u64 opaque[3];
};

struct bpf_iter_css_task {
	u64 opaque;
};

#endif /* BPF_OOM_TYPES_H */
