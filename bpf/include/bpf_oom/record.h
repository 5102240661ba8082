/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The form of selectors and decisions, for policies and for the programs around them. */
#ifndef BPF_OOM_RECORD_H
#define BPF_OOM_RECORD_H

#define GLOB_SIZE	256	/* bytes, with the final 0 */
#define MAX_PARTS	32	/* levels of one glob of paths */
#define MAX_SELECTORS	32	/* of one parameter */

/* The loader writes them, see params.py; a list ends with SELECT_NONE. */
enum selector_kind {
	SELECT_NONE,
	SELECT_CGROUP,	/* a glob of cgroup paths: it and all below it */
	SELECT_NAME,	/* a glob of process names, for users from low to high */
	SELECT_UID,	/* user ids from low to high */
	SELECT_OWN,	/* a glob of cgroup paths: it and nothing below it */
};

struct selector {
	u32 kind;
	u32 low;
	u32 high;
	s32 weight;		/* only where the parameter gives one */
	u32 nr_parts;		/* of a path; the root's has none */
	u8 part[MAX_PARTS];	/* where in the glob each level's name begins */
	char glob[GLOB_SIZE];
};

enum decision_mode {
	MODE_ENFORCE,
	MODE_OBSERVE,
};

#define MAX_DECISIONS	64	/* the older ones are overwritten */
#define DECISION_PATH	384	/* bytes with the final 0; of a longer path the end, after "..." */
#define MAX_RANKED	4
#define MAX_SKIPPED	4
#define MAX_DIED	8

enum decision_trigger {
	TRIGGER_MEMCG = 1,	/* a cgroup at its limit */
	TRIGGER_GLOBAL,		/* the system is out of memory */
	TRIGGER_DECLARED,	/* a psi policy called it an OOM */
	TRIGGER_SYSRQ,
	TRIGGER_PRESSURE,	/* a psi policy itself */
};

enum decision_outcome {
	OUTCOME_KILLED = 1,
	OUTCOME_OBSERVED,	/* would have acted */
	OUTCOME_NO_VICTIM,	/* nobody that may be killed */
	OUTCOME_COOLDOWN,	/* not used any more */
	OUTCOME_DECLARED,	/* an OOM, and somebody died */
	OUTCOME_NOBODY_DIED,	/* an OOM, and the kernel found memory or had no victim */
	OUTCOME_RECORDED,	/* a policy that never acts */
	OUTCOME_SPARED,		/* the policy judged that it need not act */
	OUTCOME_FAILED,		/* the kernel refused, see `error` */
	OUTCOME_BUSY,		/* another OOM was being handled, that frees memory as well */
};

/* What a psi policy wants beside pressure, a bit each; see conditions.h. */
enum condition {
	CONDITION_FREE_MEMORY = 1,
	CONDITION_FREE_SWAP = 2,
};

enum verdict {
	VERDICT_RANKED = 1,	/* a candidate that was not reached */
	VERDICT_CHOSEN,
	VERDICT_PROTECTED,	/* by the policy's parameters */
	VERDICT_UNKILLABLE,	/* oom_score_adj -1000, init, a kernel thread */
	VERDICT_GONE,		/* it ended, or the kernel did not let it be killed */
	VERDICT_EMPTY,		/* no process is in it: what it holds no death gives back */
	VERDICT_SHARES,		/* its memory is also that of somebody protected */
};

/* Tiers: whoever is in a higher one dies first. */
enum tier {
	TIER_SMALL = -3,	/* would give back less than min_usage */
	TIER_PAUSED,		/* somebody died there a short time ago */
	TIER_AVOIDED,
	TIER_NORMAL,
	TIER_PREFERRED,
	TIER_ORIGIN,		/* swapoff, or KSM's unmerging: the kernel itself takes it first */
};

/* A place in protect; in protect_extra from here on. */
#define SPARED_BY_EXTRA	MAX_SELECTORS
#define SPARED_BY_NONE	(-1)

struct candidate {
	u64 cgroup_id;
	s64 score;
	u64 usage;	/* bytes that come back when it dies, about */
	u64 start_time;	/* of the process; tells it from a later one with the same pid */
	s32 pid;	/* 0: the cgroup as a whole */
	s32 tier;
	s32 adj;
	u32 verdict;
	s32 spared_by;	/* with VERDICT_PROTECTED the selector */
	u32 nr_survivors;	/* processes in it that live on */
};

struct recorded {
	struct candidate who;
	char comm[16];
	char path[DECISION_PATH];
};

struct casualty {
	u64 cgroup_id;
	s32 pid;
	s32 adj;
	char comm[16];
	char path[DECISION_PATH];
};

struct decision {
	u64 seq;		/* from 1; 0 while it is being written */
	u64 time_ns;		/* since boot, with the time suspended */
	u64 spent_ns;		/* in the policy */
	u64 scope_id;		/* the cgroup that it is about; 0 or the root's: the system */
	u64 free_swap;		/* bytes, what there was for the scope of a psi policy */
	u64 free_memory;	/* bytes, likewise */
	u32 trigger;
	u32 mode;
	u32 outcome;
	s32 error;
	u32 nr_considered;	/* candidates */
	u32 nr_protected;
	u32 nr_unkillable;
	u32 nr_small;		/* below min_usage */
	u32 nr_killed;		/* by the policy itself */
	u32 nr_died;		/* all OOM victims meanwhile, whoever chose them */
	u32 nr_unseen;		/* cgroups that it had no time to look at */
	u32 unmet;		/* the conditions that did not hold, see enum condition */
	char scope[DECISION_PATH];
	struct recorded ranked[MAX_RANKED];	/* the best, best first */
	struct recorded skipped[MAX_SKIPPED];	/* the best of those that may not die */
	struct casualty died[MAX_DIED];		/* the first ones */
};

#endif /* BPF_OOM_RECORD_H */
