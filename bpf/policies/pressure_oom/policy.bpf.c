// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pressure_oom: call it an OOM when pressure passes a threshold.
 *
 * Watches memory or I/O pressure of one cgroup or of the system. When tasks were
 * stalled for threshold_us within window_us it declares an OOM there, with the
 * constraint CONSTRAINT_BPF_PSI_MEM or _IO in the log. Who dies is up to the OOM
 * policies and, behind them, the kernel.
 *
 * Hooks:
 *   init                create the trigger; an error fails the load
 *   handle_psi_event    declare the OOM
 */
#include <bpf_oom/policy.h>

/*
 * The cgroup to watch, as an absolute path below the cgroup mount.
 * Empty: the whole system.
 */
const volatile char cgroup[512] SEC(".rodata");

/*
 * The id of that cgroup, looked up by the loader.
 * 0: the whole system. ~0: the path does not exist, so nothing is watched.
 */
const volatile u64 cgroup_id;

/* What is scarce: PSI_RESOURCE_IO (0) or PSI_RESOURCE_MEM (1). */
const volatile u32 resource = PSI_RESOURCE_MEM;

/*
 * 0 (some): time in which at least one task was stalled.
 * 1 (full): time in which all were.
 */
const volatile u32 level = 1;

/* Stall time that counts as an OOM. Unit: microseconds, 1 at least. */
const volatile u32 threshold_us = 500000;

/*
 * Time in which it must come together; at most one event each window.
 * Unit: microseconds, at least threshold_us and at most 10 s.
 */
const volatile u32 window_us = 1000000;

POLICY_TEXT(constraint_io) = "CONSTRAINT_BPF_PSI_IO";
POLICY_TEXT(constraint_mem) = "CONSTRAINT_BPF_PSI_MEM";

u64 nr_declared;	/* OOMs declared */

static int declare(struct mem_cgroup *memcg)
{
	if (resource == PSI_RESOURCE_IO)
		return psi_declare_oom(memcg, constraint_io);
	return psi_declare_oom(memcg, constraint_mem);
}

PSI_INIT_SEC int PSI_INIT(pressure_oom_init)
{
	if (cgroup_id == CGROUP_MISSING)
		return 0;
	return psi_watch(psi, cgroup_id, resource, level, threshold_us, window_us);
}

PSI_EVENT_SEC void PSI_EVENT(pressure_oom_event)
{
	struct mem_cgroup *memcg;
	u64 id;
	int err;

	count(&nr_calls);
	id = psi_event_cgroup(trigger);
	if (!id) {
		err = declare(NULL);
	} else {
		memcg = memcg_from_cgroup_id(id);
		if (!memcg) {
			/* Removed since, or the memory controller is off there. */
			count(&nr_passes);
			return;
		}
		err = declare(memcg);
		bpf_put_mem_cgroup(memcg);
	}

	if (err < 0)
		count(&nr_errors);
	else if (err > 0)
		count(&nr_passes);	/* the kernel found memory, nobody had to die */
	else
		count(&nr_declared);
}

STRUCT_OPS_SEC
struct bpf_psi_ops pressure_oom = {
	.init = (void *)pressure_oom_init,
	.handle_psi_event = (void *)pressure_oom_event,
};
