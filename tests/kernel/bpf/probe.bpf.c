// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * An OOM policy that does as the runner says and records what came of it.
 */
#include "meet.h"

/* What the handler returns. */
const volatile s32 verdict;

/* It returns that only every other time, and 0 otherwise. */
const volatile bool alternates;

/* How long it takes, unless whom it meets says that it is done. */
const volatile u32 busy_ms;

struct oom_control___freed {
	u32 gfp_mask;
	s32 order;
	bool bpf_memory_freed;
} __attribute__((preserve_access_index));

struct task_struct___faults {
	int pagefault_disabled;
} __attribute__((preserve_access_index));

POLICY_TEXT(kill_message) = "probe";

#define MAX_TARGETS	8
#define GFP_FS		0x80	/* linux/gfp_types.h */

/* Written by the runner: pids to kill, once; 0 ends the list. */
s32 targets[MAX_TARGETS];

/* Written here. */
s32 results[MAX_TARGETS];
u64 called_ns;		/* first call */
u64 left_ns;		/* end of the last one */
s32 order;		/* of the last one, -1: sysrq */
u32 nr_nofs;		/* calls without __GFP_FS */
u32 task_flags;		/* of the task that runs the handler */
s32 faults_disabled;
u64 scope_id;		/* cgroup id of the last OOM's scope */
u64 scope_usage;
u64 scope_file;
u32 is_global;
u32 freed_on_entry;	/* calls which found memory already freed */

OOM_SEC int OOM_HANDLER(probe_handle)
{
	struct oom_control___freed *freed = (void *)oc;
	struct mem_cgroup *scope;
	struct task_struct *task;
	int i;

	count(&nr_calls);
	if (!called_ns)
		called_ns = bpf_ktime_get_ns();
	/* The module remembers it where no program can look. */
	if (bpf_core_field_exists(freed->bpf_memory_freed))
		freed_on_entry += freed->bpf_memory_freed;
	is_global = !oc->memcg;
	order = freed->order;
	task_flags = bpf_get_current_task_btf()->flags;
	faults_disabled = ((struct task_struct___faults *)bpf_get_current_task_btf())->pagefault_disabled;
	nr_nofs += !(freed->gfp_mask & GFP_FS);
	meet_here(MEET_OOM);
	if (busy_ms)
		meet_wait_ms(MEET_DONE, busy_ms);

	scope = oom_scope(oc);
	if (scope) {
		bpf_mem_cgroup_flush_stats(scope);
		scope_id = css_cgroup_id(&scope->css);
		scope_usage = bpf_mem_cgroup_usage(scope);
		scope_file = bpf_mem_cgroup_page_state(scope,
				bpf_core_enum_value(enum node_stat_item, NR_FILE_PAGES));
		bpf_put_mem_cgroup(scope);
	}

	for (i = 0; i < MAX_TARGETS; i++) {
		if (!targets[i])
			break;
		task = bpf_task_from_pid(targets[i]);
		if (!task) {
			count(&nr_errors);
			continue;
		}
		results[i] = oom_kill(oc, task, kill_message);
		targets[i] = 0;
		bpf_task_release(task);
	}
	left_ns = bpf_ktime_get_ns();
	return alternates && nr_calls % 2 == 0 ? 0 : verdict;
}

STRUCT_OPS_SEC
struct bpf_oom_ops probe = {
	.handle_out_of_memory = (void *)probe_handle,
};
