/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The skeleton of every OOM policy: it walks, spares, kills, pauses, counts, records and
 * observes. A policy only ranks; it includes rank_cgroups.h or rank_processes.h, which
 * say what it has to write.
 */
#ifndef BPF_OOM_OOM_H
#define BPF_OOM_OOM_H

#include <bpf_oom/decision.h>

/*
 * The cgroups whose OOMs the policy answers for, with all below them; "/" is the system.
 * Empty: every OOM.
 */
SELECTORS(scope);
SELECTS_PATHS(scope)

/*
 * Who never dies by this policy: cgroups with all below them, process names, users. A
 * cgroup with such a process in it is never killed as a whole. Empty: nobody but those
 * whom the kernel excepts.
 */
SELECTORS(protect);
SELECTS_PATHS(protect)
SELECTS_PROCESSES(protect)

/* Who dies only when there is nobody else. Empty: nobody. */
SELECTORS(avoid);
SELECTS_PATHS(avoid)

/* Who dies first. Empty: nobody. */
SELECTORS(prefer);
SELECTS_PATHS(prefer)

/* What dies: VICTIM_PROCESS (0), VICTIM_CGROUP (1), VICTIM_OOM_GROUP (2). */
const volatile u32 victim = 1;

enum { VICTIM_PROCESS, VICTIM_CGROUP, VICTIM_OOM_GROUP };

/*
 * How much oom_score_adj weighs: 100 as in the kernel's own heuristic, where 1000 stands
 * for the size of what is out of memory. A cgroup counts with the lowest of its processes.
 * Unit: percent. 0: not at all, but -1000 always excepts.
 */
const volatile u32 adj_weight;

/*
 * After an action in a cgroup the policy leaves its OOMs to the next for so long.
 * Unit: milliseconds. 0: no pause; the kernel waits for a victim that is exiting anyway.
 */
const volatile u32 cooldown_ms;

/*
 * Who uses less than this is left alone.
 * Unit: bytes. 0: any size will do.
 */
const volatile u64 min_usage;

u64 nr_kills COUNTER;		/* processes killed */
u64 nr_out_of_scope COUNTER;	/* OOMs that the policy does not answer for */
u64 nr_cooldowns COUNTER;	/* OOMs that came within the pause */

/* The prefix of the kill's line in the kernel log; OOM_POLICY() fills it in. */
const char kill_message[64];

/* A rank that says: not this one. */
#define RANK_SKIP	S64_MIN

/*
 * The best candidates, best first; one walk finds so many. Only they are looked at
 * closely. When none of them can be killed another walk finds the next ones.
 */
#define MAX_BEST	8
#define MAX_WALKS	64

#define CLASS_PROTECTED	1U
#define CLASS_AVOIDED	2U
#define CLASS_PREFERRED	4U

/* What the lists say of a cgroup; its path never changes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2048);
	__type(key, u64);
	__type(value, u32);
} classes SEC(".maps");

/* When the policy last acted in a cgroup. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 256);
	__type(key, u64);
	__type(value, u64);
} acted SEC(".maps");

/* OOM handlers run one at a time under oom_lock: globals serve as scratch space. */
static struct {
	struct candidate best[MAX_BEST];
	struct candidate skipped[MAX_BEST];
	struct candidate last;		/* the worst that was tried in vain */
	struct candidate inner;		/* the largest process of a cgroup */
	u64 total;			/* bytes of what is out of memory */
	u64 scope_id;
	u32 nr_considered;
	u32 nr_protected;
	u32 nr_unkillable;
	u32 nr_small;
	u32 nr_killed;
	bool tiers;			/* some are preferred or avoided */
} run;

static struct subject subject;

/* A total order: tier, score, and of two the younger one. */
static __always_inline bool comes_before(const struct candidate *a, const struct candidate *b)
{
	if (a->tier != b->tier)
		return a->tier > b->tier;
	if (a->score != b->score)
		return a->score > b->score;
	if (a->cgroup_id != b->cgroup_id)
		return a->cgroup_id > b->cgroup_id;
	return a->pid > b->pid;
}

static __always_inline void insert(struct candidate list[MAX_BEST], const struct candidate *given)
{
	struct candidate moved = *given;
	int i;

	for (i = 0; i < MAX_BEST; i++) {
		if (!list[i].cgroup_id || comes_before(&moved, &list[i])) {
			struct candidate worse = list[i];

			list[i] = moved;
			moved = worse;
			if (!moved.cgroup_id)
				return;
		}
	}
}

__noinline int keep_best(struct candidate *given)
{
	if (given)
		insert(run.best, given);
	return 0;
}

__noinline int keep_skipped(struct candidate *given)
{
	if (given)
		insert(run.skipped, given);
	return 0;
}

__noinline u32 class_of(u64 node)
{
	struct kernfs_node *kn = (void *)node;
	u64 id = BPF_CORE_READ(kn, id);
	u32 *known, class = 0;

	known = bpf_map_lookup_elem(&classes, &id);
	if (known)
		return *known;
	if (!path_of(&subject, node)) {
		/* Too deep to know: spare it. */
		class = CLASS_PROTECTED;
	} else {
		if (protect_path(&subject, true) >= 0)
			class |= CLASS_PROTECTED;
		if (avoid_path(&subject, true) >= 0)
			class |= CLASS_AVOIDED;
		if (prefer_path(&subject, true) >= 0)
			class |= CLASS_PREFERRED;
	}
	bpf_map_update_elem(&classes, &id, &class, BPF_ANY);
	return class;
}

static __always_inline s32 tier_of(u32 class)
{
	if (class & CLASS_PREFERRED)
		return 1;
	return class & CLASS_AVOIDED ? -1 : 0;
}

/* The cgroup a process is in, perhaps one below that of its memory. */
static __always_inline u64 task_node(struct task_struct *task)
{
	return (u64)BPF_CORE_READ(task, cgroups, dfl_cgrp, kn);
}

/* Resident and swapped bytes and page tables, about; 0 for who has no memory any more. */
__noinline u64 task_usage(struct task_struct *task __arg_trusted)
{
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	s64 pages;

	if (!mm)
		return 0;
	pages = BPF_CORE_READ(mm, rss_stat[MM_FILEPAGES].count) +
		BPF_CORE_READ(mm, rss_stat[MM_ANONPAGES].count) +
		BPF_CORE_READ(mm, rss_stat[MM_SWAPENTS].count) +
		BPF_CORE_READ(mm, rss_stat[MM_SHMEMPAGES].count);
	if (pages < 0)
		pages = 0;
	return pages * PAGE_SIZE + BPF_CORE_READ(mm, pgtables_bytes.counter);
}

static __always_inline u32 task_uid(struct task_struct *task)
{
	return BPF_CORE_READ(task, real_cred, uid.val);
}

static __always_inline s64 adj_score(s32 adj)
{
	return (s64)(run.total / 1000 * adj_weight / 100) * adj;
}

/* Why a process may not die: VERDICT_UNKILLABLE, VERDICT_PROTECTED, or 0. */
__noinline u32 task_spared(struct task_struct *task __arg_trusted)
{
	if (task_protected(task))
		return VERDICT_UNKILLABLE;
	if (!protect[0].kind)
		return 0;
	subject_name(&subject, task);
	if (protect_process(&subject, task_uid(task)) & 1)
		return VERDICT_PROTECTED;
	return class_of(task_node(task)) & CLASS_PROTECTED ? VERDICT_PROTECTED : 0;
}

/* What cgroup_killable() and the like found out about the one they looked at. */
static __always_inline void skip(struct candidate *candidate, u32 verdict)
{
	if (verdict == VERDICT_PROTECTED)
		run.nr_protected++;
	else if (verdict == VERDICT_UNKILLABLE)
		run.nr_unkillable++;
	else
		return;
	candidate->verdict = verdict;
	keep_skipped(candidate);
}

/*
 * The verdict on a cgroup as a whole: chosen if it has processes and all of them may die.
 * The iterator can fail for want of memory and then shows no process: that must not look
 * like "nobody here is protected", and it does not, as a cgroup without any is no victim.
 */
__noinline u32 cgroup_verdict(struct mem_cgroup *memcg __arg_trusted)
{
	u32 verdict = VERDICT_GONE, spared;
	struct bpf_iter_css_task it;
	struct task_struct *task;

	if (bpf_iter_css_task_new(&it, &memcg->css, CSS_TASK_ITER_PROCS))
		count(&nr_errors);
	while ((task = bpf_iter_css_task_next(&it))) {
		spared = task_spared(task);
		verdict = spared ? spared : VERDICT_CHOSEN;
		if (spared)
			break;
	}
	bpf_iter_css_task_destroy(&it);
	return verdict;
}

/* The id of the topmost cgroup with memory.oom.group from here up to the scope; 0: none. */
__noinline u64 oom_group_id(struct mem_cgroup *memcg __arg_trusted)
{
	struct cgroup_subsys_state *css = BPF_CORE_READ(memcg, css.parent);
	u64 id = css_cgroup_id(&memcg->css), found;
	int level = 0;

	found = memcg->oom_group ? id : 0;
	for_range(level, 0, PATH_DEPTH) {
		(void)level;
		if (id == run.scope_id || !css)
			break;
		id = BPF_CORE_READ(css, cgroup, kn, id);
		/* The css is the first member. */
		if (BPF_CORE_READ((struct mem_cgroup *)css, oom_group))
			found = id;
		css = BPF_CORE_READ(css, parent);
	}
	return found;
}

/* Look at the processes of one cgroup for largest_process_of() and group_spared(). */
static __noinline u32 look_at_processes(struct mem_cgroup *memcg)
{
	struct candidate seen = {};
	struct bpf_iter_css_task it;
	struct task_struct *task;
	u32 spared, found = 0;

	seen.cgroup_id = css_cgroup_id(&memcg->css);
	if (bpf_iter_css_task_new(&it, &memcg->css, CSS_TASK_ITER_PROCS))
		count(&nr_errors);
	while ((task = bpf_iter_css_task_next(&it))) {
		spared = task_spared(task);
		if (spared == VERDICT_PROTECTED)
			found = spared;
		if (spared || oom_victim(task))
			continue;
		seen.usage = task_usage(task);
		seen.pid = task->pid;
		if (seen.usage <= run.inner.usage)
			continue;
		seen.start_time = task->start_time;
		seen.adj = task->signal->oom_score_adj;
		run.inner = seen;
	}
	bpf_iter_css_task_destroy(&it);
	return found;
}

/*
 * The largest process in or below a cgroup goes to run.inner. Returns VERDICT_PROTECTED
 * if the policy protects somebody there.
 */
__noinline u32 look_below(u64 id)
{
	struct cgroup_subsys_state *css;
	struct mem_cgroup *top, *memcg;
	struct bpf_iter_css it;
	u32 found = 0;

	__builtin_memset(&run.inner, 0, sizeof(run.inner));
	top = memcg_from_cgroup_id(id);
	if (!top)
		return 0;
	bpf_rcu_read_lock();
	bpf_iter_css_new(&it, &top->css, BPF_CGROUP_ITER_DESCENDANTS_POST);
	while ((css = bpf_iter_css_next(&it))) {
		if (!(css->flags & CSS_ONLINE))
			continue;
		memcg = bpf_get_mem_cgroup(css);
		if (!memcg)
			continue;
		if (look_at_processes(memcg))
			found = VERDICT_PROTECTED;
		bpf_put_mem_cgroup(memcg);
	}
	bpf_iter_css_destroy(&it);
	bpf_rcu_read_unlock();
	bpf_put_mem_cgroup(top);
	return found;
}

/* Kill one process; the kernel takes its memory.oom.group along. */
__noinline u32 try_process(struct oom_control *oc __arg_trusted, struct candidate *who)
{
	struct mem_cgroup *memcg;
	struct task_struct *task;
	u32 verdict;
	u64 group;

	if (!who)
		return VERDICT_GONE;
	/* The kernel's group kill knows nothing of what we protect. */
	memcg = memcg_from_cgroup_id(who->cgroup_id);
	if (!memcg)
		return VERDICT_GONE;
	group = oom_group_id(memcg);
	bpf_put_mem_cgroup(memcg);
	if (group) {
		struct candidate kept = run.inner;

		verdict = look_below(group);
		run.inner = kept;
		if (verdict)
			return verdict;
	}
	task = bpf_task_from_pid(who->pid);
	if (!task)
		return VERDICT_GONE;
	verdict = task_spared(task);
	if (!verdict && (task->start_time != who->start_time || oom_victim(task)))
		verdict = VERDICT_GONE;
	if (!verdict && mode == MODE_ENFORCE) {
		if (oom_kill(oc, task, kill_message)) {
			verdict = VERDICT_GONE;
		} else {
			count(&nr_kills);
			run.nr_killed++;
		}
	}
	bpf_task_release(task);
	return verdict ? verdict : VERDICT_CHOSEN;
}

/*
 * Kill all processes of a cgroup. The iterator holds a reference to the task and no lock,
 * so that killing may sleep; tasks forked meanwhile come at its end.
 */
__noinline u32 try_cgroup(struct oom_control *oc __arg_trusted, u64 id)
{
	struct bpf_iter_css_task it;
	struct mem_cgroup *memcg;
	struct task_struct *task;
	u32 verdict;

	memcg = memcg_from_cgroup_id(id);
	if (!memcg)
		return VERDICT_GONE;
	verdict = cgroup_verdict(memcg);
	if (verdict != VERDICT_CHOSEN || mode == MODE_OBSERVE) {
		bpf_put_mem_cgroup(memcg);
		return verdict;
	}
	verdict = VERDICT_GONE;
	if (bpf_iter_css_task_new(&it, &memcg->css, CSS_TASK_ITER_PROCS))
		count(&nr_errors);
	while ((task = bpf_iter_css_task_next(&it))) {
		if (oom_victim(task) || task_spared(task))
			continue;
		/* Refused: it has just exited, or was excepted since we looked. */
		if (oom_kill(oc, task, kill_message))
			continue;
		count(&nr_kills);
		run.nr_killed++;
		verdict = VERDICT_CHOSEN;
	}
	bpf_iter_css_task_destroy(&it);
	bpf_put_mem_cgroup(memcg);
	return verdict;
}

/* Kill what the candidate stands for, or find out that this cannot be. */
static __always_inline u32 try_candidate(struct oom_control *oc, struct candidate *who)
{
	u32 verdict;

	if (victim == VICTIM_CGROUP)
		return try_cgroup(oc, who->cgroup_id);
	if (who->pid)
		return try_process(oc, who);
	verdict = look_below(who->cgroup_id);
	if (!run.inner.pid)
		return verdict ? verdict : VERDICT_UNKILLABLE;
	verdict = try_process(oc, &run.inner);
	if (verdict == VERDICT_CHOSEN) {
		who->pid = run.inner.pid;
		who->start_time = run.inner.start_time;
		who->adj = run.inner.adj;
	}
	return verdict;
}

/* rank_cgroups.h or rank_processes.h: what there is to rank in one cgroup. */
static void consider_cgroup(struct mem_cgroup *memcg);

/* Fill run.best with the best candidates that come after run.last. */
__noinline int find_candidates(struct mem_cgroup *top __arg_trusted)
{
	struct cgroup_subsys_state *css;
	struct mem_cgroup *memcg;
	struct bpf_iter_css it;

	run.nr_considered = 0;
	run.nr_small = 0;
	bpf_rcu_read_lock();
	bpf_iter_css_new(&it, &top->css, BPF_CGROUP_ITER_DESCENDANTS_POST);
	while ((css = bpf_iter_css_next(&it))) {
		/* The walk visits removed cgroups, too, while they hold pages. */
		if (!(css->flags & CSS_ONLINE))
			continue;
		memcg = bpf_get_mem_cgroup(css);
		if (!memcg)
			continue;
		consider_cgroup(memcg);
		bpf_put_mem_cgroup(memcg);
	}
	bpf_iter_css_destroy(&it);
	bpf_rcu_read_unlock();
	return 0;
}

static __always_inline u32 trigger_of(struct oom_control *oc)
{
	if (oom_is_declared(oc))
		return TRIGGER_DECLARED;
	if (oc->order == -1)
		return TRIGGER_SYSRQ;
	return oc->memcg ? TRIGGER_MEMCG : TRIGGER_GLOBAL;
}

__noinline int record_candidate(struct recorded *to, struct candidate *who)
{
	struct cgroup *cgrp;
	struct task_struct *task;

	if (!to || !who)
		return 0;
	to->who = *who;
	to->comm[0] = 0;
	to->path[0] = 0;
	if (!who->verdict)
		to->who.verdict = VERDICT_RANKED;
	cgrp = bpf_cgroup_from_id(who->cgroup_id);
	if (cgrp) {
		record_path(&to->path, &subject, node_of(cgrp));
		bpf_cgroup_release(cgrp);
	}
	task = who->pid ? bpf_task_from_pid(who->pid) : NULL;
	if (task) {
		bpf_probe_read_kernel_str(to->comm, sizeof(to->comm), task->comm);
		bpf_task_release(task);
	}
	return 0;
}

/* The names of processes that are gone already stay empty; mark_victim has kept theirs. */
static __always_inline void record_candidates(struct decision *decision)
{
	int i;

	for (i = 0; i < MAX_RANKED; i++)
		if (run.best[i].cgroup_id)
			record_candidate(&decision->ranked[i], &run.best[i]);
	for (i = 0; i < MAX_SKIPPED; i++)
		if (run.skipped[i].cgroup_id)
			record_candidate(&decision->skipped[i], &run.skipped[i]);
}

static __always_inline bool choose(struct oom_control *oc, struct mem_cgroup *top)
{
	bool chosen = false, more = true;
	int walk = 0, i = 0;

	run.last = (struct candidate){
		.score = ~0ULL >> 1, .tier = 2, .cgroup_id = ~0ULL,
	};
	for_range(walk, 0, MAX_WALKS) {
		(void)walk;
		__builtin_memset(run.best, 0, sizeof(run.best));
		find_candidates(top);
		more = run.best[MAX_BEST - 1].cgroup_id;
		for_range(i, 0, MAX_BEST) {
			struct candidate *who = &run.best[i & (MAX_BEST - 1)];

			if (!who->cgroup_id)
				break;
			run.last = *who;
			who->verdict = try_candidate(oc, who);
			if (who->verdict == VERDICT_CHOSEN) {
				chosen = true;
				break;
			}
			skip(who, who->verdict);
		}
		if (chosen || !more)
			break;
	}
	return chosen;
}

static __always_inline bool in_scope(u64 node)
{
	if (!scope[0].kind)
		return true;
	return path_of(&subject, node) && scope_path(&subject, true) >= 0;
}

static __always_inline bool cools_down(u64 id)
{
	u64 *last;

	if (!cooldown_ms)
		return false;
	last = bpf_map_lookup_elem(&acted, &id);
	return last && bpf_ktime_get_ns() - *last < cooldown_ms * 1000000ULL;
}

static __always_inline int oom_policy_handle(struct oom_control *oc)
{
	struct decision *decision;
	struct mem_cgroup *top;
	u64 began = bpf_ktime_get_ns(), seq;
	bool chosen = false;
	u32 outcome;

	count(&nr_calls);
	decision_close();	/* of an OOM that ended without our notice */
	top = oom_scope(oc);
	if (!top)
		return 0;
	if (!in_scope(node_of(top->css.cgroup))) {
		count(&nr_out_of_scope);
		count(&nr_passes);
		bpf_put_mem_cgroup(top);
		return 0;
	}
	decision = decision_begin(&seq);
	if (!decision) {
		bpf_put_mem_cgroup(top);
		return 0;
	}
	__builtin_memset(&run, 0, sizeof(run));
	run.scope_id = css_cgroup_id(&top->css);
	run.total = (u64)oc->totalpages * PAGE_SIZE;
	run.tiers = avoid[0].kind || prefer[0].kind;
	decision->scope_id = run.scope_id;
	decision->trigger = trigger_of(oc);
	record_path(&decision->scope, &subject, node_of(top->css.cgroup));
	decision_open(seq);

	if (cools_down(run.scope_id)) {
		count(&nr_cooldowns);
		outcome = OUTCOME_COOLDOWN;
	} else {
		/* It sleeps, so before the walk; once, as it covers the whole tree below. */
		bpf_mem_cgroup_flush_stats(top);
		chosen = choose(oc, top);
		if (!chosen)
			outcome = OUTCOME_NO_VICTIM;
		else if (mode == MODE_OBSERVE)
			outcome = OUTCOME_OBSERVED;
		else
			outcome = OUTCOME_KILLED;
		record_candidates(decision);
	}
	bpf_put_mem_cgroup(top);

	if (outcome == OUTCOME_KILLED) {
		u64 now = bpf_ktime_get_ns(), id = run.scope_id;

		bpf_map_update_elem(&acted, &id, &now, BPF_ANY);
	} else {
		count(&nr_passes);
	}
	if (outcome == OUTCOME_OBSERVED)
		count(&nr_observed);
	decision->outcome = outcome;
	decision->nr_considered = run.nr_considered;
	decision->nr_protected = run.nr_protected;
	decision->nr_unkillable = run.nr_unkillable;
	decision->nr_small = run.nr_small;
	decision->nr_killed = run.nr_killed;
	decision->spent_ns = bpf_ktime_get_ns() - began;
	decision->seq = seq;
	return outcome == OUTCOME_KILLED;
}

/* The OOM is over, and whoever dies next died for another reason. */
SEC("fexit/out_of_memory")
int BPF_PROG(decision_end, struct oom_control *oc)
{
	decision_close();
	return 0;
}

/* The last line of a policy: its handler and its entry in the chain. */
#define OOM_POLICY(policy)						\
const char kill_message[64] SEC(".rodata") = "BPF policy " #policy;	\
									\
OOM_SEC int OOM_HANDLER(policy##_handle)				\
{									\
	return oom_policy_handle(oc);					\
}									\
									\
STRUCT_OPS_SEC								\
struct bpf_oom_ops policy = {						\
	.handle_out_of_memory = (void *)policy##_handle,		\
	.name = #policy,						\
}

#endif /* BPF_OOM_OOM_H */
