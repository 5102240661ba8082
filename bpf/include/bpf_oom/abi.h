/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel interface that policies stand on, version 1 of the BPF OOM series.
 *
 * This is the only file that spells out handler signatures, oc->memcg and the
 * prototypes of the kfuncs: later versions move all three, and then only this
 * file changes. The symbols are strong, so that a kernel without the interface
 * is refused by name at load. What only some have of it is __weak, and chosen here:
 * policies cannot tell a patched kernel from a stock one with the module.
 */
#ifndef BPF_OOM_ABI_H
#define BPF_OOM_ABI_H

#include <bpf_oom/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

/* libbpf 1.1, with which Debian 12 compiles, has no name for it yet. */
#ifndef bpf_ksym_exists
#define bpf_ksym_exists(symbol) (!!(symbol))
#endif

/* Generic kfuncs of Linux 6.12. */
int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __ksym;
int *bpf_iter_num_next(struct bpf_iter_num *it) __ksym;
void bpf_iter_num_destroy(struct bpf_iter_num *it) __ksym;
int bpf_iter_css_new(struct bpf_iter_css *it, struct cgroup_subsys_state *start,
		     unsigned int flags) __ksym;
struct cgroup_subsys_state *bpf_iter_css_next(struct bpf_iter_css *it) __ksym;
void bpf_iter_css_destroy(struct bpf_iter_css *it) __ksym;
int bpf_iter_css_task_new(struct bpf_iter_css_task *it, struct cgroup_subsys_state *css,
			  unsigned int flags) __ksym;
struct task_struct *bpf_iter_css_task_next(struct bpf_iter_css_task *it) __ksym;
void bpf_iter_css_task_destroy(struct bpf_iter_css_task *it) __ksym;
int bpf_iter_task_new(struct bpf_iter_task *it, struct task_struct *task__nullable,
		      unsigned int flags) __ksym;
struct task_struct *bpf_iter_task_next(struct bpf_iter_task *it) __ksym;
void bpf_iter_task_destroy(struct bpf_iter_task *it) __ksym;
void bpf_rcu_read_lock(void) __ksym;
void bpf_rcu_read_unlock(void) __ksym;
struct cgroup *bpf_cgroup_from_id(u64 id) __ksym;
struct cgroup *bpf_cgroup_ancestor(struct cgroup *cgrp, int level) __ksym;
void bpf_cgroup_release(struct cgroup *cgrp) __ksym;
struct task_struct *bpf_task_acquire(struct task_struct *task) __ksym;
struct task_struct *bpf_task_from_pid(s32 pid) __ksym;
void bpf_task_release(struct task_struct *task) __ksym;

/* Memory cgroups. Sizes are bytes. */
struct mem_cgroup *bpf_get_root_mem_cgroup(void) __ksym;
struct mem_cgroup *bpf_get_mem_cgroup(struct cgroup_subsys_state *css) __ksym;
void bpf_put_mem_cgroup(struct mem_cgroup *memcg) __ksym;
unsigned long bpf_mem_cgroup_usage(struct mem_cgroup *memcg) __ksym;
unsigned long bpf_mem_cgroup_page_state(struct mem_cgroup *memcg, int idx) __ksym;
void bpf_mem_cgroup_flush_stats(struct mem_cgroup *memcg) __ksym;

/* OOM and PSI. */
int bpf_oom_kill_process(struct oom_control *oc, struct task_struct *task,
			 const char *message__str) __ksym;
int bpf_out_of_memory(struct mem_cgroup *memcg__nullable, int order, bool wait_on_oom_lock,
		      const char *constraint_text__nullable) __ksym;
/* A bool in the kernel, so only the low byte is defined. Clang before 16 reads more. */
int bpf_task_is_oom_victim(struct task_struct *task) __ksym;
int bpf_psi_create_trigger(struct bpf_psi *psi, u64 cgroup_id, u32 resource,
			   u32 threshold_us, u32 window_us) __ksym;

/*
 * Of the module for stock kernels only, whose verifier does not trust oc->memcg and whose
 * oom_control does not say that a program declared the OOM.
 */
struct mem_cgroup *bpf_oom_get_memcg(struct oom_control *oc) __ksym __weak;
int bpf_oom_is_declared(struct oom_control *oc) __ksym __weak;

/* The kernel finds the structs and their members by name. */
struct bpf_oom_ops {
	int (*handle_out_of_memory)(struct oom_control *oc);
	char name[64];
};

struct bpf_psi_ops {
	int (*init)(struct bpf_psi *psi);
	void (*handle_psi_event)(struct psi_trigger *trigger);
	void (*handle_cgroup_free)(u64 cgroup_id);
	/* Not in the plain first version: the loader clears it where the kernel lacks it. */
	void (*handle_cgroup_online)(u64 cgroup_id);
};

/*
 * Handlers. `oc`, `psi`, `trigger` are opaque to a policy: hand them to the
 * functions below. An OOM handler returns 1 when it killed, 0 to pass on.
 */
#define OOM_SEC		SEC("struct_ops.s/handle_out_of_memory")
#define OOM_HANDLER(handler)						\
	BPF_PROG(handler, struct oom_control *oc)

#define PSI_INIT_SEC	SEC("struct_ops.s/init")
#define PSI_INIT(handler)						\
	BPF_PROG(handler, struct bpf_psi *psi)

#define PSI_EVENT_SEC	SEC("struct_ops.s/handle_psi_event")
#define PSI_EVENT(handler)						\
	BPF_PROG(handler, struct psi_trigger *trigger)

#define PSI_FREE_SEC	SEC("struct_ops.s/handle_cgroup_free")
#define PSI_FREE(handler)						\
	BPF_PROG(handler, u64 cgroup_id)

/* A cgroup was made, possibly the next one of a service that restarts. */
#define PSI_ONLINE_SEC	SEC("struct_ops.s/handle_cgroup_online")
#define PSI_ONLINE(handler)						\
	BPF_PROG(handler, u64 online_id)

/* The one map of an object; its name is the policy's directory. */
#define STRUCT_OPS_SEC	SEC(".struct_ops.link")

/* Values of bpf_psi_create_trigger()'s resource. */
enum psi_resource {
	PSI_RESOURCE_IO,
	PSI_RESOURCE_MEM,
	PSI_RESOURCE_CPU,
	PSI_RESOURCE_IRQ,
};

#define PSI_RESOURCE_FULL	0x80000000U

/*
 * Looked at when the averages are updated, every two seconds, instead of ten times a
 * window by a thread of its own. Only where the kernel's BTF has BPF_PSI_AVERAGES; others
 * refuse it with -EINVAL.
 */
#define PSI_RESOURCE_AVERAGES	0x40000000U

/*
 * A reference to the memcg whose OOM this is, the root for a global one. Whoever
 * asks puts it. NULL never happens, but the verifier does not know that.
 */
static __always_inline struct mem_cgroup *oom_scope(struct oom_control *oc)
{
	struct mem_cgroup *memcg;

	if (bpf_ksym_exists(bpf_oom_get_memcg)) {
		memcg = bpf_oom_get_memcg(oc);
		return memcg ? memcg : bpf_get_root_mem_cgroup();
	}
	memcg = oc->memcg;
	return memcg ? bpf_get_mem_cgroup(&memcg->css) : bpf_get_root_mem_cgroup();
}

/* No allocation failed, a PSI policy said so. */
static __always_inline bool oom_is_declared(struct oom_control *oc)
{
	if (bpf_ksym_exists(bpf_oom_is_declared))
		return bpf_oom_is_declared(oc);
	return bpf_core_field_exists(oc->bpf_constraint) && oc->bpf_constraint;
}

/* Kill as the kernel's own killer does; `message` becomes the log line's prefix. */
static __always_inline int oom_kill(struct oom_control *oc, struct task_struct *task,
				    const char *message)
{
	return bpf_oom_kill_process(oc, task, message);
}

static __always_inline bool oom_victim(struct task_struct *task)
{
	return bpf_task_is_oom_victim(task) & 0xff;
}

/*
 * Declare an OOM in `memcg`, or in the whole system (NULL). A system-wide one does
 * not wait for another OOM: whoever handles that frees memory for us as well. 1: somebody
 * was killed or is dying, or the kernel found memory; 0: neither; or a negative error.
 */
static __always_inline int psi_declare_oom(struct mem_cgroup *memcg, const char *constraint)
{
	return bpf_out_of_memory(memcg, 0, !!memcg, constraint);
}

/* The cgroup whose pressure fired, 0 for the system. */
static __always_inline u64 psi_event_cgroup(struct psi_trigger *trigger)
{
	if (bpf_core_type_exists(struct bpf_psi_event))
		return ((struct bpf_psi_event *)(void *)trigger)->cgroup_id;
	return trigger->cgroup_id;
}

/*
 * Call handle_psi_event when `resource` stalls `threshold_us` within `window_us`. `psi` is
 * what init was given, NULL in handle_cgroup_online.
 */
static __always_inline int psi_watch(struct bpf_psi *psi, u64 cgroup_id, u32 resource, bool full,
				     u32 threshold_us, u32 window_us)
{
	return bpf_psi_create_trigger(psi, cgroup_id, resource | (full ? PSI_RESOURCE_FULL : 0),
				      threshold_us, window_us);
}

#endif /* BPF_OOM_ABI_H */
