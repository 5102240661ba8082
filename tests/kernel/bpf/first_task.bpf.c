// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * An OOM policy that kills the first task it may in the cgroup that is out of memory, and
 * counts in a map that the witness reads that somebody was asked.
 */
#include <bpf_oom/policy.h>
#include "asked.h"

const volatile bool passes;	/* leave the kill to the next one */

POLICY_TEXT(kill_message) = "first_task";

OOM_SEC int OOM_HANDLER(first_task_handle)
{
	struct bpf_iter_css_task it;
	struct task_struct *task;
	struct mem_cgroup *scope;
	u64 *counter = asked_counter();
	bool killed = false;

	count(&nr_calls);
	if (counter)
		(*counter)++;
	if (passes)
		return 0;
	scope = oom_scope(oc);
	if (!scope)
		return 0;
	bpf_iter_css_task_new(&it, &scope->css, CSS_TASK_ITER_PROCS);
	while ((task = bpf_iter_css_task_next(&it))) {
		if (task_protected(task) || oom_victim(task))
			continue;
		if (!oom_kill(oc, task, kill_message)) {
			killed = true;
			break;
		}
	}
	bpf_iter_css_task_destroy(&it);
	bpf_put_mem_cgroup(scope);
	return killed;
}

STRUCT_OPS_SEC
struct bpf_oom_ops first_task = {
	.handle_out_of_memory = (void *)first_task_handle,
};
