// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Programs that the verifier must refuse, each behind a map of its own so that the
 * runner loads one at a time, and two (*_allowed) that it must accept.
 */
#include <bpf_oom/policy.h>

struct oom_control___freed {
	bool bpf_memory_freed;
} __attribute__((preserve_access_index));

POLICY_TEXT(message) = "text";
DECLARED_TEXT(text) = "text";
char buffer[8];

#define OOM_MAP(map)							\
	STRUCT_OPS_SEC struct bpf_oom_ops map = {			\
		.handle_out_of_memory = (void *)map##_handle,		\
	}

#define PSI_MAP(map)							\
	STRUCT_OPS_SEC struct bpf_psi_ops map = {			\
		.init = (void *)psi_init,				\
		.handle_psi_event = (void *)map##_handle,		\
	}

PSI_INIT_SEC int PSI_INIT(psi_init)
{
	return psi_watch(psi, 0, PSI_RESOURCE_MEM, true, 100000, 1000000);
}

OOM_SEC int OOM_HANDLER(oom_allowed_handle)
{
	struct mem_cgroup *memcg = oom_scope(oc);
	bool empty;

	if (!memcg)
		return 0;
	empty = !bpf_mem_cgroup_usage(memcg);
	bpf_put_mem_cgroup(memcg);
	return empty;
}
OOM_MAP(oom_allowed);

/* Trusted once it is checked, but not by the verifier of a stock kernel. */
OOM_SEC int OOM_HANDLER(oom_checked_memcg_handle)
{
	struct mem_cgroup *memcg = oc->memcg;

	return memcg ? bpf_mem_cgroup_usage(memcg) == 0 : 0;
}
OOM_MAP(oom_checked_memcg);

PSI_EVENT_SEC void PSI_EVENT(psi_allowed_handle)
{
	psi_declare_oom(NULL, text);
}
PSI_MAP(psi_allowed);

/* An OOM handler holds oom_lock, declaring another OOM would wait for it. */
OOM_SEC int OOM_HANDLER(oom_declares_handle)
{
	return psi_declare_oom(NULL, text);
}
OOM_MAP(oom_declares);

OOM_SEC int OOM_HANDLER(oom_watches_handle)
{
	return bpf_psi_create_trigger((void *)oc, 0, PSI_RESOURCE_MEM, 100000, 1000000);
}
OOM_MAP(oom_watches);

PSI_EVENT_SEC void PSI_EVENT(psi_kills_handle)
{
	struct task_struct *task = bpf_task_from_pid(1);

	if (!task)
		return;
	oom_kill((void *)trigger, task, message);
	bpf_task_release(task);
}
PSI_MAP(psi_kills);

/* A global OOM has no memcg. */
OOM_SEC int OOM_HANDLER(oom_unchecked_memcg_handle)
{
	return bpf_mem_cgroup_usage(oc->memcg) == 0;
}
OOM_MAP(oom_unchecked_memcg);

/* Nor is anything of it for a policy to change. */
OOM_SEC int OOM_HANDLER(oom_writes_handle)
{
	oc->totalpages = 1;
	return 1;
}
OOM_MAP(oom_writes);

/* Progress is for the kernel to state. */
OOM_SEC int OOM_HANDLER(oom_claims_handle)
{
	((struct oom_control___freed *)oc)->bpf_memory_freed = true;
	return 1;
}
OOM_MAP(oom_claims);

/* A fault on user memory is charged, and would wait for our own oom_lock. */
OOM_SEC int OOM_HANDLER(oom_copies_handle)
{
	return bpf_copy_from_user(buffer, sizeof(buffer), NULL) == 0;
}
OOM_MAP(oom_copies);

OOM_SEC int OOM_HANDLER(oom_copies_task_handle)
{
	struct task_struct *task = bpf_task_from_pid(1);
	int err;

	if (!task)
		return 0;
	err = bpf_copy_from_user_task(buffer, sizeof(buffer), NULL, task, 0);
	bpf_task_release(task);
	return err == 0;
}
OOM_MAP(oom_copies_task);

/* Creating a trigger sleeps, so a program that does not may not. */
SEC("struct_ops/init")
int PSI_INIT(psi_no_sleep_init)
{
	return bpf_psi_create_trigger(psi, 0, PSI_RESOURCE_MEM, 100000, 1000000);
}

STRUCT_OPS_SEC struct bpf_psi_ops psi_no_sleep = {
	.init = (void *)psi_no_sleep_init,
};

/* Nor by a kfunc, of which only those on a list are for OOM handlers. */
int bpf_copy_from_user_str(void *dst, u32 size, const void *unsafe_ptr, u64 flags) __ksym;

OOM_SEC int OOM_HANDLER(oom_copies_str_handle)
{
	return bpf_copy_from_user_str(buffer, sizeof(buffer), NULL, 0) == 0;
}
OOM_MAP(oom_copies_str);
