// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A PSI policy that does as the runner says and records what came of it.
 */
#include "meet.h"

#define MAX_WATCHES	2
#define MAX_RECORDS	16

const volatile u32 nr_watches;
const volatile u64 watch_id[MAX_WATCHES];
const volatile u32 watch_resource[MAX_WATCHES];
const volatile u32 threshold_us = 100000;
const volatile u32 window_us = 1000000;
const volatile s32 init_result;

/* What an event does. */
enum { EVENT_RECORDS, EVENT_DECLARES, EVENT_DECLARES_GLOBAL, EVENT_BAD_ORDERS, EVENT_TRIES };
const volatile u32 on_event;

DECLARED_TEXT(constraint) = "CONSTRAINT_BPF_PSI_MEM";

s32 watch_results[MAX_WATCHES];
u32 nr_events;
u64 events[MAX_RECORDS];
u32 nr_frees;
u64 frees[MAX_RECORDS];
s32 declare_result;
s32 bad_order_results[2];

PSI_INIT_SEC int PSI_INIT(psi_probe_init)
{
	u32 i;

	for (i = 0; i < MAX_WATCHES; i++) {
		if (i == nr_watches)
			break;
		watch_results[i] = bpf_psi_create_trigger(psi, watch_id[i], watch_resource[i],
							  threshold_us, window_us);
	}
	return init_result;
}

PSI_EVENT_SEC void PSI_EVENT(psi_probe_event)
{
	struct mem_cgroup *memcg;
	u64 id;

	id = psi_event_cgroup(trigger);
	events[__sync_fetch_and_add(&nr_events, 1) % MAX_RECORDS] = id;
	if (on_event == EVENT_RECORDS)
		return;
	if (on_event == EVENT_DECLARES_GLOBAL) {
		declare_result = psi_declare_oom(NULL, constraint);
		return;
	}
	memcg = memcg_from_cgroup_id(id);
	if (!memcg) {
		count(&nr_errors);
		return;
	}
	if (on_event == EVENT_BAD_ORDERS) {
		bad_order_results[0] = bpf_out_of_memory(memcg, -1, true, constraint);
		bad_order_results[1] = bpf_out_of_memory(memcg, 99, true, constraint);
	} else if (on_event == EVENT_TRIES) {
		/* While an OOM policy is running. */
		meet_here(MEET_PSI);
		meet_wait_ms(MEET_OOM, 10000);
		declare_result = bpf_out_of_memory(memcg, 0, false, constraint);
		meet_here(MEET_DONE);
	} else {
		declare_result = psi_declare_oom(memcg, constraint);
	}
	bpf_put_mem_cgroup(memcg);
}

PSI_FREE_SEC void PSI_FREE(psi_probe_free)
{
	frees[__sync_fetch_and_add(&nr_frees, 1) % MAX_RECORDS] = cgroup_id;
}

STRUCT_OPS_SEC
struct bpf_psi_ops psi_probe = {
	.init = (void *)psi_probe_init,
	.handle_psi_event = (void *)psi_probe_event,
	.handle_cgroup_free = (void *)psi_probe_free,
};
