/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The skeleton of every PSI policy: it watches, follows cgroups that come and go, wants
 * pressure to last and other conditions to hold, pauses, declares, counts, records and observes.
 * A policy only judges.
 */
#ifndef BPF_OOM_PSI_H
#define BPF_OOM_PSI_H

/* Defined by a policy that only records. */
#ifndef PSI_NEVER_ACTS
#define PSI_NEVER_ACTS	0
#endif

#include <bpf_oom/conditions.h>

/*
 * The cgroups to watch, each by itself, also those that come later.
 * Empty, or "/" (the root): the whole system.
 */
SELECTORS(scope);
SELECTS_PATHS(scope)

/* What is scarce: PSI_RESOURCE_IO (0) or PSI_RESOURCE_MEM (1). */
const volatile u32 resource = PSI_RESOURCE_MEM;

/*
 * 0 (some): time in which at least one task was stalled.
 * 1 (full): time in which all were.
 */
const volatile u32 level = 1;

/* Stall time that makes an event. Unit: microseconds, 1 at least. */
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

/*
 * Events must keep coming for so long before the policy acts.
 * Unit: milliseconds. 0: the first one will do.
 */
const volatile u32 sustained_ms;

/*
 * After an action for a cgroup its events are ignored for so long.
 * Unit: milliseconds. 0: no pause.
 */
const volatile u32 cooldown_ms = 10000;

DECLARED_TEXT(constraint_io) = "CONSTRAINT_BPF_PSI_IO";
DECLARED_TEXT(constraint_mem) = "CONSTRAINT_BPF_PSI_MEM";

u64 nr_declared COUNTER;	/* OOMs declared of which somebody died */
u64 nr_watched COUNTER;		/* triggers made, at load and for cgroups that came later */
u64 nr_left_out COUNTER;	/* cgroups without room for a trigger, or where PSI is off */
u64 nr_busy COUNTER;		/* events while another OOM was being handled */
u64 nr_not_yet COUNTER;		/* events that have not lasted long enough */
u64 nr_cooldowns COUNTER;	/* events within the pause */
u64 nr_unmet COUNTER;		/* events at which a condition beside pressure did not hold */
u64 nr_spared COUNTER;		/* events that the policy's own judgement let pass */

/* Cgroups; the kernel's own default, see the sysctl kernel.bpf_psi_max_triggers. */
#define MAX_WATCHED	256

struct watched {
	u64 first_ns;	/* of the events that follow one another */
	u64 last_ns;
	u64 acted_ns;
	char path[DECISION_PATH];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_WATCHED + 1);
	__type(key, u64);
	__type(value, struct watched);
} watched SEC(".maps");

/* Scratch space of init and handle_cgroup_online, of which one runs at a time. */
static struct path_room path_room;
static struct watched fresh;
static u64 found[MAX_WATCHED];
static u32 found_count;

/*
 * What a policy has to write: whether to act on an event. `memcg` is the cgroup's, NULL
 * for the system. What it looked at goes into the decision.
 */
static bool judge(struct mem_cgroup *memcg, struct decision *decision);

static __always_inline int watch_cgroup(struct bpf_psi *psi, u64 id)
{
	u32 what = resource | (averages ? PSI_RESOURCE_AVERAGES : 0);
	int err;

	err = psi_watch(psi, id, what, level, threshold_us, window_us);
	if (!err)
		count(&nr_watched);
	return err;
}

/* Each by itself, so what is above it does not count. */
static __always_inline bool wants(u64 cgroup)
{
	return scope_path(cgroup) >> 32;
}

static __always_inline int remember(u64 id, u64 cgroup)
{
	record_path(&fresh.path, &path_room, cgroup);
	return bpf_map_update_elem(&watched, &id, &fresh, BPF_ANY);
}

/* The system is watched as one, whatever it is called. */
static __always_inline int watch_system(struct bpf_psi *psi)
{
	u64 id = 0;
	int err;

	__builtin_memset(&fresh, 0, sizeof(fresh));
	fresh.path[0] = '/';
	err = bpf_map_update_elem(&watched, &id, &fresh, BPF_ANY);
	fresh.path[0] = 0;
	return err ? err : watch_cgroup(psi, 0);
}

/* Creating a trigger sleeps and the walk must not: so first the walk. */
static __always_inline bool find_cgroups(struct mem_cgroup *root)
{
	struct mem_cgroup *memcg __put(memcg) = NULL;
	bool system = false;

	found_count = 0;
	bpf_rcu_read_lock();
	for_each_memcg(memcg, root) {
		u64 cgroup = memcg_cgroup(memcg), id = css_cgroup_id(&memcg->css);

		if (!wants(cgroup))
			continue;
		if (!BPF_CORE_READ((struct cgroup *)cgroup, level))
			system = true;
		else if (found_count >= MAX_WATCHED || remember(id, cgroup))
			count(&nr_left_out);
		else
			found[found_count++ & (MAX_WATCHED - 1)] = id;
	}
	bpf_rcu_read_unlock();
	return system;
}

/*
 * What keeps one cgroup from being watched is no reason to leave the others: it has gone, it
 * is one too many, or its owner has written 0 to cgroup.pressure.
 */
static __always_inline bool leaves_one_out(int err)
{
	if (err == -ENOSPC || err == -EOPNOTSUPP)
		count(&nr_left_out);
	else if (err != -ENOENT && err != -ENODEV)
		return false;
	return true;
}

static __always_inline int psi_policy_init(struct bpf_psi *psi)
{
	struct mem_cgroup *root;
	bool system;
	int i = 0, err = 0;

	if (!scope[0].kind)
		return watch_system(psi);
	root = bpf_get_root_mem_cgroup();
	if (!root)
		return -ENODEV;
	system = find_cgroups(root);
	bpf_put_mem_cgroup(root);
	if (system)
		err = watch_system(psi);
	if (err)
		return err;
	bpf_for(i, 0, MAX_WATCHED) {
		if ((u32)i >= found_count)
			break;
		err = watch_cgroup(psi, found[bounded(i, MAX_WATCHED)]);
		if (err && leaves_one_out(err)) {
			bpf_map_delete_elem(&watched, &found[bounded(i, MAX_WATCHED)]);
			err = 0;
		}
		if (err)
			break;
	}
	return err;
}

static __always_inline void psi_policy_online(u64 id)
{
	int err = 0;

	if (!scope[0].kind)
		return;

	struct cgroup *cgrp __put(cgroup) = bpf_cgroup_from_id(id);

	if (!cgrp || !wants(cgroup_address(cgrp)))
		return;
	/* One that is watched since init keeps what is known of it. */
	if (!bpf_map_lookup_elem(&watched, &id) && remember(id, cgroup_address(cgrp)))
		err = -ENOSPC;
	if (!err)
		err = watch_cgroup(NULL, id);
	if (!err || err == -EEXIST)
		return;
	/* What is in the map is watched: whoever reads it must be able to rely on that. */
	bpf_map_delete_elem(&watched, &id);
	if (!leaves_one_out(err))
		count(&nr_errors);
}

static __always_inline void psi_policy_free(u64 id)
{
	bpf_map_delete_elem(&watched, &id);
}

/* Whether events have followed one another for long enough. */
static __always_inline bool lasts(struct watched *at, u64 now)
{
	u64 gap = 2000ULL * window_us;

	/* The averages are looked at every two seconds. */
	if (averages && gap < 4000000000ULL)
		gap = 4000000000ULL;
	if (!at->last_ns || now - at->last_ns > gap)
		at->first_ns = now;
	at->last_ns = now;
	return now - at->first_ns >= sustained_ms * 1000000ULL;
}

static __always_inline int declare(struct mem_cgroup *memcg)
{
	if (resource == PSI_RESOURCE_IO)
		return psi_declare_oom(memcg, constraint_io);
	return psi_declare_oom(memcg, constraint_mem);
}

/* Act as the mode says; the outcome. */
static __always_inline u32 act(struct mem_cgroup *memcg, struct decision *decision, u64 seq)
{
	int err;

	if (PSI_NEVER_ACTS)
		return OUTCOME_RECORDED;
	if (mode == MODE_OBSERVE) {
		count(&nr_observed);
		return OUTCOME_OBSERVED;
	}
	decision_open(seq);
	err = declare(memcg);
	decision_close();
	decision->error = err < 0 ? err : 0;
	/* That there is progress does not say that somebody died: the record of victims does. */
	if (err > 0 && decision->nr_died) {
		count(&nr_declared);
		return OUTCOME_DECLARED;
	}
	count(&nr_passes);
	if (err >= 0)
		return OUTCOME_NOBODY_DIED;
	if (err == -EBUSY) {
		count(&nr_busy);
		return OUTCOME_BUSY;
	}
	count(&nr_errors);
	return OUTCOME_FAILED;
}

static __always_inline void psi_policy_event(struct psi_trigger *trigger)
{
	u64 now = bpf_ktime_get_ns(), id = psi_event_cgroup(trigger), seq;
	struct decision *decision;
	struct mem_cgroup *memcg;
	struct watched *at;

	count(&nr_calls);
	at = bpf_map_lookup_elem(&watched, &id);
	if (!at) {
		count(&nr_errors);
		return;
	}
	if (!lasts(at, now)) {
		count(&nr_not_yet);
		return;
	}
	if (at->acted_ns && now - at->acted_ns < cooldown_ms * 1000000ULL) {
		count(&nr_cooldowns);
		return;
	}
	memcg = id ? memcg_from_cgroup_id(id) : bpf_get_root_mem_cgroup();
	if (!memcg) {
		/* Removed since, or the memory controller is off there. */
		count(&nr_passes);
		return;
	}
	decision = decision_begin(&seq);
	if (decision) {
		decision->scope_id = id;
		decision->trigger = TRIGGER_PRESSURE;
		bpf_probe_read_kernel_str(decision->scope, sizeof(decision->scope), at->path);
		decision->unmet = unmet_conditions(memcg, !id, decision);
		if (decision->unmet) {
			count(&nr_unmet);
			decision->outcome = OUTCOME_SPARED;
		} else if (judge(id ? memcg : NULL, decision)) {
			decision->outcome = act(id ? memcg : NULL, decision, seq);
			if (decision->outcome != OUTCOME_BUSY &&
			    decision->outcome != OUTCOME_FAILED)
				at->acted_ns = now;
		} else {
			count(&nr_spared);
			decision->outcome = OUTCOME_SPARED;
		}
		decision->spent_ns = bpf_ktime_get_ns() - now;
		decision->seq = seq;
	}
	bpf_put_mem_cgroup(memcg);
}

/* The last line of a policy: its handlers and their registration. */
#define PSI_POLICY(policy)						\
PSI_INIT_SEC int PSI_INIT(policy##_init)				\
{									\
	return psi_policy_init(psi);					\
}									\
									\
PSI_ONLINE_SEC void PSI_ONLINE(policy##_online)			\
{									\
	psi_policy_online(online_id);					\
}									\
									\
PSI_FREE_SEC void PSI_FREE(policy##_free)				\
{									\
	psi_policy_free(cgroup_id);					\
}									\
									\
PSI_EVENT_SEC void PSI_EVENT(policy##_event)				\
{									\
	psi_policy_event(trigger);					\
}									\
									\
STRUCT_OPS_SEC								\
struct bpf_psi_ops policy = {						\
	.init = (void *)policy##_init,					\
	.handle_psi_event = (void *)policy##_event,			\
	.handle_cgroup_free = (void *)policy##_free,			\
	.handle_cgroup_online = (void *)policy##_online,		\
}

#endif /* BPF_OOM_PSI_H */
