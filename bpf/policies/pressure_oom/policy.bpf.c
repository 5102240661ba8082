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
 *   init                  create the trigger; an error fails the load
 *   handle_psi_event      declare the OOM
 *   handle_cgroup_online  watch the cgroup that a restarted service gets
 */
#include <bpf_oom/path.h>

/*
 * The cgroup to watch, as an absolute path below the cgroup mount.
 * Empty: the whole system.
 */
const volatile char cgroup[CGROUP_PATH_SIZE] SEC(".rodata");

/*
 * The id of that cgroup, looked up by the loader.
 * 0: the whole system. ~0: the path does not exist, so nothing is watched, until it does
 * where the kernel tells about new cgroups.
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

/*
 * 0: ten looks a window, by a real-time thread of the cgroup.
 * 1: a look every two seconds without a thread; window_us must be a multiple of
 * 2,000,000 then, and the kernel must have it.
 */
const volatile bool averages;

POLICY_TEXT(constraint_io) = "CONSTRAINT_BPF_PSI_IO";
POLICY_TEXT(constraint_mem) = "CONSTRAINT_BPF_PSI_MEM";

u64 nr_declared;	/* OOMs declared */
u64 nr_watched;		/* triggers made, at load and for cgroups that came later */

static int declare(struct mem_cgroup *memcg)
{
	if (resource == PSI_RESOURCE_IO)
		return psi_declare_oom(memcg, constraint_io);
	return psi_declare_oom(memcg, constraint_mem);
}

static int watch(struct bpf_psi *psi, u64 id)
{
	u32 what = resource | (averages ? PSI_RESOURCE_AVERAGES : 0);
	int err;

	err = psi_watch(psi, id, what, level, threshold_us, window_us);
	if (!err)
		count(&nr_watched);
	return err;
}

PSI_INIT_SEC int PSI_INIT(pressure_oom_init)
{
	if (cgroup_id == CGROUP_MISSING)
		return 0;
	return watch(psi, cgroup_id);
}

PSI_ONLINE_SEC void PSI_ONLINE(pressure_oom_online)
{
	struct cgroup *cgrp;
	bool ours;
	int err;

	if (!cgroup[0])
		return;
	cgrp = bpf_cgroup_from_id(online_id);
	if (!cgrp)
		return;
	ours = cgroup_has_path(cgrp->kn, cgroup);
	bpf_cgroup_release(cgrp);
	if (!ours)
		return;
	err = watch(NULL, online_id);
	/* It is watched since init, or was removed since. */
	if (err && err != -EEXIST && err != -ENOENT && err != -ENODEV)
		count(&nr_errors);
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
	.handle_cgroup_online = (void *)pressure_oom_online,
};
