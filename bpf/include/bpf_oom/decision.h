/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The record of why: what a policy decided on each OOM or pressure event, and who really
 * died. A fixed-size ring in a pinned map, which root reads without consuming it
 * (policy_info, `bpf-oom decisions`). The loader hands it on when a policy is replaced.
 */
#ifndef BPF_OOM_DECISION_H
#define BPF_OOM_DECISION_H

#include <bpf_oom/select.h>

#define PATH_LEVELS	15		/* whose names fit for sure */
#define PATH_ROOM	4096

/* Where a path is put together; the last name has room behind it. */
struct path_room {
	u32 at;		/* in memory, lest the verifier follows it from step to step */
	u32 level;
	char text[PATH_ROOM + NODE_NAME_SIZE];
};

/* enforce (0): act. observe (1): decide and record, do nothing, pass on. */
const volatile u32 mode;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_DECISIONS);
	__type(key, u32);
	__type(value, struct decision);
} decisions SEC(".maps");

u64 nr_decisions COUNTER;	/* recorded since the policy was first loaded */
u64 nr_observed COUNTER;	/* would have acted, but for mode: observe */

/* Decisions whose victims may still come, by the thread that handles the OOM. */
struct open_decision {
	u32 slot;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, u32);
	__type(value, struct open_decision);
} open_decisions SEC(".maps");

/* Scratch space of mark_victim, which runs under oom_lock. */
static struct path_room died_path;

static __always_inline u32 current_tid(void)
{
	return (u32)bpf_get_current_pid_tgid();
}

/* A place in the ring, empty but for its time. */
static __always_inline struct decision *decision_begin(u64 *seq)
{
	struct decision *decision;
	u32 slot;

	*seq = __sync_fetch_and_add(&nr_decisions, 1) + 1;
	slot = (u32)(*seq - 1) % MAX_DECISIONS;
	decision = bpf_map_lookup_elem(&decisions, &slot);
	if (!decision)
		return NULL;
	decision->seq = 0;
	__builtin_memset((char *)decision + sizeof(decision->seq), 0,
			 __builtin_offsetof(struct decision, scope) - sizeof(decision->seq));
	decision->scope[0] = 0;
	for (int i = 0; i < MAX_RANKED; i++)
		decision->ranked[i].who.verdict = 0;
	for (int i = 0; i < MAX_SKIPPED; i++)
		decision->skipped[i].who.verdict = 0;
	for (int i = 0; i < MAX_DIED; i++)
		decision->died[i].pid = 0;
	decision->time_ns = bpf_ktime_get_boot_ns();
	decision->mode = mode;
	return decision;
}

/* From now on whom the kernel kills on behalf of this thread belongs to the decision. */
static __always_inline void decision_open(u64 seq)
{
	struct open_decision open = { .slot = (u32)(seq - 1) % MAX_DECISIONS };
	u32 tid = current_tid();

	bpf_map_update_elem(&open_decisions, &tid, &open, BPF_ANY);
}

static __always_inline void decision_close(void)
{
	u32 tid = current_tid();

	bpf_map_delete_elem(&open_decisions, &tid);
}

/*
 * The path of a cgroup, given by its address, as the record keeps it: whole, or "..." and
 * its end.
 */
__noinline int record_path(char (*to)[DECISION_PATH], struct path_room *room, u64 address)
{
	struct cgroup *cgrp = (void *)address;
	u32 depth = BPF_CORE_READ(cgrp, level), from = 0, at;
	volatile struct path_room *end = room;
	struct cgroup *above;
	long size;
	int step;

	if (!to || !room)
		return 0;
	end->at = 0;
	end->level = depth > PATH_LEVELS ? depth - PATH_LEVELS + 1 : 1;
	bpf_for(step, 0, PATH_LEVELS) {
		at = end->at;
		if (end->level > depth || at >= PATH_ROOM)
			break;
		room->text[at & (PATH_ROOM - 1)] = '/';
		at++;
		above = ancestor_at(cgrp, end->level);
		size = bpf_probe_read_kernel_str(&room->text[at & (PATH_ROOM - 1)], NODE_NAME_SIZE,
						 BPF_CORE_READ(above, kn, name));
		end->at = size > 0 ? at + size - 1 : at;
		end->level++;
	}
	at = end->at;
	if (!at)
		room->text[at++] = '/';
	room->text[at & (PATH_ROOM - 1)] = 0;
	if (at < DECISION_PATH && depth <= PATH_LEVELS) {
		bpf_probe_read_kernel_str(*to, DECISION_PATH, room->text);
		return 0;
	}
	if (at > DECISION_PATH - 4)
		from = at - (DECISION_PATH - 4);
	(*to)[0] = (*to)[1] = (*to)[2] = '.';
	bpf_probe_read_kernel_str(*to + 3, DECISION_PATH - 3, &room->text[from & (PATH_ROOM - 1)]);
	return 0;
}

/* Whoever chose: this is who dies. In the context of the thread that handles the OOM. */
SEC("tp_btf/mark_victim")
int BPF_PROG(decision_victim, struct task_struct *task)
{
	struct open_decision *open;
	struct decision *decision;
	struct casualty *died;
	struct cgroup *cgrp;
	u32 tid = current_tid(), slot, at;

	open = bpf_map_lookup_elem(&open_decisions, &tid);
	if (!open)
		return 0;
	slot = open->slot;
	decision = bpf_map_lookup_elem(&decisions, &slot);
	if (!decision)
		return 0;
	at = decision->nr_died;
	decision->nr_died = at + 1;
	if (at >= MAX_DIED)
		return 0;
	died = &decision->died[at];
	died->pid = task->tgid;
	died->adj = BPF_CORE_READ(task, signal, oom_score_adj);
	bpf_probe_read_kernel_str(died->comm, sizeof(died->comm), task->comm);
	cgrp = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	died->cgroup_id = BPF_CORE_READ(cgrp, kn, id);
	record_path(&died->path, &died_path, (u64)cgrp);
	return 0;
}

#endif /* BPF_OOM_DECISION_H */
