/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What BPF programs see of the module, each thing once. types.c makes the module's BTF of it;
 * what is defined elsewhere the compiler compares with it.
 */
#ifndef BPF_OOM_MODULE_INTERFACE_H
#define BPF_OOM_MODULE_INTERFACE_H

#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/types.h>

struct bpf_psi;
struct cgroup_subsys_state;
struct mem_cgroup;
struct oom_control;
struct task_struct;

/* What all arguments are in kernels that do not have the flag any more. */
#ifndef BPF_OOM_KF_TRUSTED_ARGS
#define KF_TRUSTED_ARGS 0
#endif

#define BPF_OOM_NAME_MAX_LEN 64

/**
 * struct bpf_oom_ops - An OOM policy
 * @handle_out_of_memory: called on an OOM, may sleep. Returns non-zero if it
 *	handled the OOM: what it freed is then checked, and nobody else is asked.
 * @name: printed in the log as oom_policy=<name>; may be empty
 */
struct bpf_oom_ops {
	int (*handle_out_of_memory)(struct oom_control *oc);
	char name[BPF_OOM_NAME_MAX_LEN];
};

/**
 * enum bpf_oom_limits - What the kernel puts up with
 * @BPF_OOM_MAX_STRIKES: calls in a row in which a policy took too long, or
 *	claimed progress and had made none, before it is bypassed
 * @BPF_OOM_BYPASS_S: how long it is bypassed, in seconds; each further time
 *	twice as long as the last, until it makes progress in time
 * @BPF_OOM_BYPASS_MAX_S: the longest
 */
enum bpf_oom_limits {
	BPF_OOM_MAX_STRIKES = 3,
	BPF_OOM_BYPASS_S = 10,
	BPF_OOM_BYPASS_MAX_S = 5120,
};

/**
 * enum bpf_psi_resource_flags - Or'd into the resource of a trigger
 * @BPF_PSI_AVERAGES: look when the averages are updated, every two seconds,
 *	instead of ten times a window. Needs no thread; the window must be a
 *	multiple of two seconds.
 * @BPF_PSI_FULL: full pressure instead of some
 */
enum bpf_psi_resource_flags {
	BPF_PSI_AVERAGES = 0x40000000,
	BPF_PSI_FULL = 0x80000000,
};

/**
 * struct bpf_psi_event - What programs see of a trigger
 * @cgroup_id: the cgroup that it watches, 0 for the system
 *
 * Not struct psi_trigger: that of the kernel has no such member, and libbpf looks for types
 * in modules only if the kernel has none of that name.
 */
struct bpf_psi_event {
	u64 cgroup_id;
};

/**
 * struct bpf_psi_ops - Owner of pressure triggers
 * @init: called once at load, to create the triggers. Non-zero fails the load.
 * @handle_psi_event: called each time a trigger fires
 * @handle_cgroup_free: called once a cgroup with a trigger is gone and the
 *	trigger with it
 * @handle_cgroup_online: called for each cgroup that was made after the call of
 *	@init began, to create triggers for it. Never after @handle_cgroup_free
 *	for the same id, and not at all if the cgroup is gone already.
 *
 * All may sleep. All but @init are optional.
 */
struct bpf_psi_ops {
	int (*init)(struct bpf_psi *bpf_psi);
	void (*handle_psi_event)(struct bpf_psi_event *event);
	void (*handle_cgroup_free)(u64 cgroup_id);
	void (*handle_cgroup_online)(u64 cgroup_id);
};

/*
 * Types that functions take or return, in one word each: what it is in C. What it is in the
 * BTF is T_<word> in types.c.
 */
#define BPF_OOM_C_void		void
#define BPF_OOM_C_bool		bool
#define BPF_OOM_C_int		int
#define BPF_OOM_C_u32		u32
#define BPF_OOM_C_u64		u64
#define BPF_OOM_C_ulong		unsigned long
#define BPF_OOM_C_string	const char *
#define BPF_OOM_C_css		struct cgroup_subsys_state *
#define BPF_OOM_C_memcg		struct mem_cgroup *
#define BPF_OOM_C_oom		struct oom_control *
#define BPF_OOM_C_task		struct task_struct *
#define BPF_OOM_C_psi		struct bpf_psi *
#define BPF_OOM_C_psi_event	struct bpf_psi_event *
#define BPF_OOM_C_memory_event	enum memcg_memory_event
#define BPF_OOM_C_vm_event	enum vm_event_item

/*
 * Functions: name, flags of a kfunc, what it returns, the number of its parameters, and type
 * and name of each. What a name ends in tells the verifier something (__str, __nullable, __ign),
 * see Documentation/bpf/kfuncs.rst.
 */
#ifdef BPF_OOM_MEMCG_KFUNCS
#define BPF_OOM_MEMCG_KFUNC_LIST(F)							\
	F(bpf_get_root_mem_cgroup, KF_ACQUIRE | KF_RET_NULL, memcg, 0)			\
	F(bpf_get_mem_cgroup, KF_ACQUIRE | KF_RET_NULL | KF_RCU, memcg, 1, css, css)	\
	F(bpf_put_mem_cgroup, KF_RELEASE, void, 1, memcg, memcg)			\
	F(bpf_mem_cgroup_usage, KF_TRUSTED_ARGS, ulong, 1, memcg, memcg)		\
	F(bpf_mem_cgroup_page_state, KF_TRUSTED_ARGS, ulong, 2, memcg, memcg, int, idx)	\
	F(bpf_mem_cgroup_memory_events, KF_TRUSTED_ARGS, ulong, 2,			\
	  memcg, memcg, memory_event, event)						\
	F(bpf_mem_cgroup_vm_events, KF_TRUSTED_ARGS, ulong, 2,				\
	  memcg, memcg, vm_event, event)						\
	F(bpf_mem_cgroup_flush_stats, KF_TRUSTED_ARGS | KF_SLEEPABLE, void, 1, memcg, memcg)
#else
#define BPF_OOM_MEMCG_KFUNC_LIST(F)
#endif

#define BPF_OOM_COMMON_KFUNC_LIST(F)							\
	F(bpf_task_is_oom_victim, KF_TRUSTED_ARGS, bool, 1, task, task)			\
	BPF_OOM_MEMCG_KFUNC_LIST(F)

#define BPF_OOM_OPS_KFUNC_LIST(F)							\
	F(bpf_oom_kill_process, KF_SLEEPABLE | KF_TRUSTED_ARGS, int, 3,			\
	  oom, oc, task, task, string, message__str)					\
	F(bpf_oom_get_memcg, KF_ACQUIRE | KF_RET_NULL | KF_TRUSTED_ARGS, memcg, 1, oom, oc) \
	F(bpf_oom_is_declared, KF_TRUSTED_ARGS, int, 1, oom, oc)			\
	F(bpf_out_of_memory, KF_SLEEPABLE | KF_TRUSTED_ARGS, int, 4,			\
	  memcg, memcg__nullable, int, order, bool, wait_on_oom_lock,			\
	  string, constraint_text__ign)							\
	F(bpf_psi_create_trigger, KF_SLEEPABLE | KF_TRUSTED_ARGS, int, 5,		\
	  psi, bpf_psi__nullable, u64, cgroup_id, u32, resource, u32, threshold_us,	\
	  u32, window_us)

/* What stands in for a program: the kernel wants to find <struct>__<member> for each. */
#define BPF_OOM_STUB_LIST(F)								\
	F(bpf_oom_ops__handle_out_of_memory, 0, int, 1, oom, oc)			\
	F(bpf_psi_ops__init, 0, int, 1, psi, bpf_psi)					\
	F(bpf_psi_ops__handle_psi_event, 0, void, 1, psi_event, event)			\
	F(bpf_psi_ops__handle_cgroup_free, 0, void, 1, u64, cgroup_id)			\
	F(bpf_psi_ops__handle_cgroup_online, 0, void, 1, u64, cgroup_id)

/* Other functions that can be traced (fentry, fexit) */
#define BPF_OOM_TRACED_LIST(F)								\
	F(bpf_handle_oom, 0, bool, 1, oom, oc)

#define BPF_OOM_FUNCTION_LIST(F)							\
	BPF_OOM_COMMON_KFUNC_LIST(F)							\
	BPF_OOM_OPS_KFUNC_LIST(F)							\
	BPF_OOM_STUB_LIST(F)								\
	BPF_OOM_TRACED_LIST(F)

#define BPF_OOM_PARAMETERS_0()		void
#define BPF_OOM_PARAMETERS_1(t, n)	BPF_OOM_C_##t n
#define BPF_OOM_PARAMETERS_2(t, n, ...)	BPF_OOM_C_##t n, BPF_OOM_PARAMETERS_1(__VA_ARGS__)
#define BPF_OOM_PARAMETERS_3(t, n, ...)	BPF_OOM_C_##t n, BPF_OOM_PARAMETERS_2(__VA_ARGS__)
#define BPF_OOM_PARAMETERS_4(t, n, ...)	BPF_OOM_C_##t n, BPF_OOM_PARAMETERS_3(__VA_ARGS__)
#define BPF_OOM_PARAMETERS_5(t, n, ...)	BPF_OOM_C_##t n, BPF_OOM_PARAMETERS_4(__VA_ARGS__)

/* So the compiler knows them when it comes to their definitions. */
#define BPF_OOM_DECLARE(name, flags, ret, count, ...)					\
	BPF_OOM_C_##ret name(BPF_OOM_PARAMETERS_##count(__VA_ARGS__));
BPF_OOM_FUNCTION_LIST(BPF_OOM_DECLARE)
#undef BPF_OOM_DECLARE

/* types.c */
extern struct btf_id_set8 bpf_oom_common_kfuncs, bpf_oom_ops_kfuncs;
int bpf_oom_check_types(const struct btf *btf, u32 first);

#endif /* BPF_OOM_MODULE_INTERFACE_H */
