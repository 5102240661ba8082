/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * OOM policies and pressure events in BPF, as a module for kernels that do not have them.
 *
 *   symbols.c	finds what the kernel does not export, and refuses what it does not know
 *   x86.S	calls of such functions, and the way into and out of the hooks
 *   main.c	hooks, kfuncs and who may call them; loading and unloading
 *   oom.c	struct bpf_oom_ops
 *   psi.c	struct bpf_psi_ops
 *   memcg.c	the kfuncs for memory cgroups that later kernels have themselves
 *   interface.h, types.c	what programs see of all that: the BTF of the module
 */
#ifndef BPF_OOM_MODULE_H
#define BPF_OOM_MODULE_H

#include <linux/bpf.h>
#include <linux/bpf_verifier.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/cgroup.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/oom.h>
#include <linux/psi.h>

#include "interface.h"

#ifndef CONFIG_X86_64
#error "bpf_oom is for x86-64 only: on other architectures use a kernel with the patches of kernel/"
#endif
#ifndef CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS
#error "bpf_oom needs a kernel with CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS"
#endif
#if !defined(CONFIG_MEMCG) || !defined(CONFIG_PSI) || !defined(CONFIG_DEBUG_INFO_BTF_MODULES)
#error "bpf_oom needs a kernel with CONFIG_MEMCG, CONFIG_PSI and CONFIG_DEBUG_INFO_BTF_MODULES"
#endif

#ifndef BPF_OOM_MM_FLAGS_TEST
#define mm_flags_test(flag, mm) test_bit(flag, &(mm)->flags)
#endif

/*
 * Calls @target with up to six arguments. Functions whose address the kernel does not take
 * have no ENDBR, or lose it at boot, so that an indirect call of them is a fault on a CPU
 * with IBT; see x86.S. It knows no types: compare with __same_type() where a header has the
 * prototype, and list the function in symbols.c, which compares with the kernel's BTF.
 */
unsigned long bpf_oom_call(unsigned long a1, unsigned long a2, unsigned long a3,
			   unsigned long a4, unsigned long a5, unsigned long a6,
			   unsigned long target);

#define BPF_OOM_LONG(x) ((unsigned long)(x))
#define BPF_OOM_CALL1(f, a)						\
	bpf_oom_call(BPF_OOM_LONG(a), 0, 0, 0, 0, 0, bpf_oom_syms.f)
#define BPF_OOM_CALL2(f, a, b)						\
	bpf_oom_call(BPF_OOM_LONG(a), BPF_OOM_LONG(b), 0, 0, 0, 0, bpf_oom_syms.f)
#define BPF_OOM_CALL3(f, a, b, c)					\
	bpf_oom_call(BPF_OOM_LONG(a), BPF_OOM_LONG(b), BPF_OOM_LONG(c), 0, 0, 0, bpf_oom_syms.f)

/* Addresses of what is looked up. Functions are only ever called through bpf_oom_call(). */
struct bpf_oom_syms {
	/* mm/oom_kill.c */
	unsigned long out_of_memory;
	unsigned long oom_evaluate_task;
	unsigned long oom_kill_process;
	unsigned long oom_kill_memcg_member;
	struct mutex *oom_lock;		/* held around every OOM */
	int *sysctl_panic_on_oom;
	/* mm/memcontrol.c */
	unsigned long mem_cgroup_scan_tasks;
#ifdef BPF_OOM_MEMCG_KFUNCS
	unsigned long memcg_page_state_output;
	unsigned long memcg_events;
	unsigned long mem_cgroup_flush_stats;
#endif
	/* kernel/cgroup/ */
	unsigned long __cgroup_get_from_id;
	struct mutex *cgroup_mutex;	/* held while a cgroup is made or removed */
#ifdef CONFIG_CPUSETS
	unsigned long cpuset_mems_allowed_intersects;
#endif
#ifdef CONFIG_NUMA
	/* mm/mempolicy.c */
	unsigned long mempolicy_in_oom_domain;
#endif
	/* kernel/sched/psi.c */
	unsigned long psi_trigger_create;
#ifdef BPF_OOM_PSI_SPLIT_CREATE
	unsigned long psi_trigger_create_rtpoll_worker;
#endif
	unsigned long psi_trigger_destroy;
	struct psi_group *psi_system;
	/* kernel/sched/core.c */
	unsigned long task_sched_runtime;
	/* kernel/trace/ftrace.c */
	int *ftrace_enabled;
};

extern struct bpf_oom_syms bpf_oom_syms;

/* Both return 0, or an error after a line in the log that says what is missing. */
int bpf_oom_find_symbols(void);
int bpf_oom_check_own_btf(struct btf *btf);

const char *bpf_oom_type_name(const struct btf *btf, u32 id);
struct tracepoint *bpf_oom_find_tracepoint(const char *name);

/* One line, which bpf-oom repeats to whoever wants the module loaded. */
#define bpf_oom_refuse(fmt, ...) pr_err("not loaded: " fmt "\n", ##__VA_ARGS__)

/* The OOM that is being handled. Under oom_lock, so there is one at a time. */
struct bpf_oom_state {
	/* What policies are being asked about, and which of them; NULL otherwise */
	struct oom_control *oc;
	const char *policy;
	/* A victim was marked since the policy was asked */
	bool freed;

	/* A declared OOM: how the program calls it, and what it would like the order to be */
	const char *constraint;
	struct oom_control *declared;
	int order;
	/* The notifiers have found memory for it */
	bool notified;

	/* Who is about to be killed by the kernel's own choice, for the log */
	struct task_struct *passed_on;
	enum oom_constraint passed_constraint;
};

extern struct bpf_oom_state bpf_oom_now;

/* main.c, called by x86.S: true if the hooked function need not run. */
int bpf_oom_hook_scan(struct mem_cgroup *memcg, void *fn, void *arg);
int bpf_oom_hook_evaluate(struct task_struct *task, void *arg);
void bpf_oom_tramp_scan(void);
void bpf_oom_tramp_evaluate(void);

/* Ids of ours in our BTF as the kernel has relocated it; 0 before the first program. */
extern struct btf *bpf_oom_btf;
extern u32 bpf_oom_ops_id;
int bpf_oom_check_kfuncs(const struct bpf_prog *prog);
int bpf_oom_may_register(struct bpf_link *link);

int bpf_oom_init(void);
void bpf_oom_exit(void);
int bpf_oom_declare(struct mem_cgroup *memcg, int order, bool wait, const char *text);

int bpf_psi_init(void);
void bpf_psi_exit(void);
struct workqueue_struct *bpf_psi_workqueue(void);

#endif /* BPF_OOM_MODULE_H */
