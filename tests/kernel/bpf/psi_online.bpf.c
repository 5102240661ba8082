// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A PSI policy that watches each cgroup which is made below a parent, and records what it
 * was told and in which order.
 */
#include "meet.h"

#define MAX_RECORDS	4096

const volatile u64 parent_id;		/* watch cgroups whose parent this is */
const volatile u32 resource = PSI_RESOURCE_MEM | PSI_RESOURCE_FULL;
const volatile u32 threshold_us = 20000;
const volatile u32 window_us = 500000;
const volatile u32 init_ms;		/* how long init() takes */
const volatile u32 online_ms;		/* how long handle_cgroup_online() takes */
const volatile bool twice;		/* ask for each trigger twice, the second time in vain */
const volatile bool declares;		/* an event declares an OOM in its cgroup */

DECLARED_TEXT(constraint) = "CONSTRAINT_BPF_PSI_MEM";

/* What was told: the id of a cgroup, with GONE or'd in for handle_cgroup_free(). */
#define GONE		(1ULL << 63)
u64 told[MAX_RECORDS];
u32 nr_told;

u32 nr_watched;
u32 nr_gone;
u32 nr_events;
s32 last_error;
s32 twice_error;
s32 event_error;	/* of a trigger asked for where none can be made */

static void tell(u64 what)
{
	told[__sync_fetch_and_add(&nr_told, 1) % MAX_RECORDS] = what;
}

PSI_INIT_SEC int PSI_INIT(psi_online_init)
{
	if (init_ms)
		meet_wait_ms(MEET_DONE, init_ms);
	return 0;
}

static bool ours(u64 id)
{
	struct cgroup *cgrp;
	u64 found;

	cgrp = bpf_cgroup_from_id(id);
	if (!cgrp)
		return false;
	found = BPF_CORE_READ(cgrp, self.parent, cgroup, kn, id);
	bpf_cgroup_release(cgrp);
	return found == parent_id;
}

PSI_ONLINE_SEC void PSI_ONLINE(psi_online_online)
{
	int err;

	tell(online_id);
	if (online_ms)
		meet_wait_ms(MEET_DONE, online_ms);
	if (!ours(online_id))
		return;
	err = bpf_psi_create_trigger(NULL, online_id, resource, threshold_us, window_us);
	if (err == -ENOENT || err == -ENODEV)
		nr_gone++;	/* removed since */
	else if (err)
		last_error = err;
	else
		__sync_fetch_and_add(&nr_watched, 1);
	if (twice)
		twice_error = bpf_psi_create_trigger(NULL, online_id, resource, threshold_us,
						     window_us);
}

PSI_EVENT_SEC void PSI_EVENT(psi_online_event)
{
	struct mem_cgroup *memcg;

	__sync_fetch_and_add(&nr_events, 1);
	event_error = bpf_psi_create_trigger(NULL, 0, PSI_RESOURCE_MEM, 100000, 1000000);
	if (!declares)
		return;
	memcg = memcg_from_cgroup_id(psi_event_cgroup(trigger));
	if (!memcg)
		return;
	psi_declare_oom(memcg, constraint);
	bpf_put_mem_cgroup(memcg);
}

PSI_FREE_SEC void PSI_FREE(psi_online_free)
{
	tell(cgroup_id | GONE);
}

STRUCT_OPS_SEC
struct bpf_psi_ops psi_online = {
	.init = (void *)psi_online_init,
	.handle_psi_event = (void *)psi_online_event,
	.handle_cgroup_free = (void *)psi_online_free,
	.handle_cgroup_online = (void *)psi_online_online,
};
