// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the library's policies choose, spare, pause and record. Ranking is tried in observe
 * mode, many settings on one tree and one OOM; acting by kills.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/swap.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "decision.h"
#include "harness.h"

static struct policy start(const char *object, const char *name, const char * const *words)
{
	struct policy policy = policy_open(object, name);

	policy_settings(&policy, words);
	policy_load(&policy);
	policy_attach(&policy);
	return policy;
}

static bool last_decision(struct policy *policy, struct decision *decision)
{
	return policy_decision(policy, policy_u64(policy, "nr_decisions"), decision);
}

static const struct recorded *chosen(const struct decision *decision)
{
	for (int i = 0; i < MAX_RANKED; i++)
		if (decision->ranked[i].who.verdict == VERDICT_CHOSEN)
			return &decision->ranked[i];
	return NULL;
}

enum { WEB, DB, BATCH, GUARD, LATE, CACHED, GROWER, HOGS };

static const struct hog tree[HOGS] = {
	[WEB] = { .name = "web", .cgroup = "t/web" },
	[DB] = { .name = "db", .cgroup = "t/db" },
	[BATCH] = { .name = "batch", .cgroup = "t/batch", .adj = 700 },
	[GUARD] = { .name = "guard", .cgroup = "t/guard" },
	[LATE] = { .name = "late", .cgroup = "t/late" },
	[CACHED] = { .name = "cached", .cgroup = "t/cached", .disk = true },
	[GROWER] = { .name = "grower", .cgroup = "t/grower", .adj = -1000 },
};
static const int sizes[HOGS] = { 12, 30, 16, 21, 8, 36, 2 };

/* Everybody has what they want; the next page that the grower touches is one too many. */
static void fill_tree(struct hog hogs[HOGS])
{
	for (int i = 0; i < HOGS; i++) {
		hogs[i] = tree[i];
		cg_make(hogs[i].cgroup, false);
	}
	cg_set("t/db", "memory.low", 28 * MIB);
	cg_set("t", "memory.swap.max", 0);
	for (int i = 0; i < HOGS; i++) {
		hog_start(&hogs[i]);
		require(hog_fill(&hogs[i], sizes[i] * MIB), "a hog fills", "%s does not", hogs[i].name);
	}
	cg_set("t", "memory.max", cg_value("t", "memory.current") + MIB);
}

static const struct try {
	const char *object;
	const char *settings[8];
	const char *victim;	/* NULL: nobody; "": the OOM is out of scope */
	uint32_t skipped;	/* a verdict that the record has to name */
} tries[] = {
	{ "largest_leaf", { }, "db" },
	{ "largest_leaf", { "count_file=1" }, "cached" },
	{ "largest_leaf", { "protect+/t/db" }, "guard", VERDICT_PROTECTED },
	{ "largest_leaf", { "protect+/t/d?", "protect+/*/gu*d" }, "batch", VERDICT_PROTECTED },
	{ "largest_leaf", { "protect+/t/d", "protect+/t/dbx", "protect+t/db", "protect+/db" }, "db" },
	{ "largest_leaf", { "protect+/t*" }, NULL, VERDICT_PROTECTED },
	{ "largest_leaf", { "protect+/*b" }, "db" },
	{ "largest_leaf", { "protect+name:d*" }, "guard", VERDICT_PROTECTED },
	{ "largest_leaf", { "protect+uid:0" }, NULL, VERDICT_PROTECTED },
	{ "largest_leaf", { "protect+uid:1" }, "db" },
	{ "largest_leaf", { "avoid+/t/db" }, "guard" },
	{ "largest_leaf", { "avoid+/t" }, "db" },
	{ "largest_leaf", { "prefer+/t/late" }, "late" },
	{ "largest_leaf", { "prefer+/t/late", "prefer+/t/web", "avoid+/t/batch" }, "web" },
	{ "largest_leaf", { "prefer+/t/db", "protect+/t/db" }, "guard", VERDICT_PROTECTED },
	{ "largest_leaf", { "adj_weight=100" }, "batch" },
	{ "largest_leaf", { "adj_weight=1" }, "db" },
	{ "largest_leaf", { "min_usage=25" }, "db" },
	{ "largest_leaf", { "min_usage=40" }, "db" },
	{ "largest_leaf", { "scope+/t" }, "db" },
	{ "largest_leaf", { "scope+/" }, "db" },
	{ "largest_leaf", { "scope+/o", "scope+/t" }, "db" },
	{ "largest_leaf", { "scope+/t/db" }, "" },
	{ "largest_leaf", { "scope+/o" }, "" },
	{ "largest_leaf", { "victim=0" }, "db" },
	{ "largest_leaf", { "victim=0", "protect+name:db" }, "guard", VERDICT_PROTECTED },
	{ "largest_leaf", { "victim=2" }, "db" },
	{ "largest_process", { }, "db" },
	{ "largest_process", { "protect+/t/db" }, "guard", VERDICT_PROTECTED },
	{ "largest_process", { "victim=0" }, "db" },
	{ "largest_process", { "adj_weight=100" }, "batch" },
	{ "largest_process", { "protect+name:db", "protect+/t/cached" }, "guard", VERDICT_PROTECTED },
	{ "largest_process", { "protect+/t/[db", "protect+/t/db", "avoid+/t/cached" }, "guard", VERDICT_PROTECTED },
	{ "largest_process", { "avoid+name:db", "avoid+/t/guard", "avoid+name:cach*" }, "batch" },
	{ "largest_process", { "avoid+uid:0", "prefer+name:?eb" }, "web" },
	{ "largest_process", { "min_usage=40" }, "db" },
	{ "youngest", { }, "cached" },
	{ "youngest", { "protect+name:cached" }, "late", VERDICT_PROTECTED },
	{ "youngest", { "min_usage=10", "protect+/t/cached" }, "guard" },
	{ "over_request", { }, "guard" },
	{ "over_request", { "protect+/t/guard" }, "batch", VERDICT_PROTECTED },
	{ "over_request", { "protect_extra+name:guard" }, "batch", VERDICT_PROTECTED },
	{ "biggest_swapper", { "victim=0" }, NULL },	/* of the documentation; nobody swaps here */
	{ "by_priority", { "priorities+/t/web=10", "priorities+/t/batch=10" }, "batch" },
	{ "by_priority", { "priorities+/t/web=10", "priorities+/t=900" }, "web" },
	{ "by_priority", { "priorities+/t=0", "priorities+/t/web=1" }, "db" },
	{ "by_priority", { "default_priority=5", "priorities+/t/late=6" }, "db" },
	{ "by_priority", { "default_priority=7", "priorities+/t/late=6", "protect+/t/late" }, "db",
	  VERDICT_PROTECTED },
	{ "largest_leaf", { "protect+own:/t" }, "db" },
	{ "largest_leaf", { "protect+own:/t/db" }, "guard", VERDICT_PROTECTED },
	{ "largest_leaf", { "protect+name:db@1" }, "db" },
	{ "largest_leaf", { "protect+name:db@0" }, "guard", VERDICT_PROTECTED },
};

static bool has_skipped(const struct decision *decision, uint32_t verdict)
{
	for (int i = 0; i < MAX_SKIPPED; i++)
		if (decision->skipped[i].who.verdict == verdict)
			return true;
	for (int i = 0; i < MAX_RANKED; i++)
		if (decision->ranked[i].who.verdict == verdict)
			return true;
	return false;
}

static void check_try(const struct try *try, struct policy *policy)
{
	struct decision decision;
	const struct recorded *who;
	char what[160], path[32];
	int i, at;

	at = snprintf(what, sizeof(what), "%s", try->object);
	for (i = 0; try->settings[i]; i++)
		at += snprintf(what + at, sizeof(what) - at, " %s", try->settings[i]);
	if (try->victim && !try->victim[0]) {
		check(policy_u64(policy, "nr_out_of_scope") && !policy_u64(policy, "nr_decisions"), what,
		      "out of scope", "%llu decisions", (unsigned long long)policy_u64(policy, "nr_decisions"));
		return;
	}
	if (!last_decision(policy, &decision)) {
		check(false, what, "a decision", "none");
		return;
	}
	who = chosen(&decision);
	snprintf(path, sizeof(path), "/t/%s", try->victim ? try->victim : "");
	check(decision.outcome == (try->victim ? OUTCOME_OBSERVED : OUTCOME_NO_VICTIM) &&
	      (try->victim ? who && !strcmp(who->path, path) : !who),
	      what, try->victim ? try->victim : "nobody", "%s, outcome %u, considered %u",
	      who ? who->path : "nobody", decision.outcome, decision.nr_considered);
	if (try->skipped)
		check(has_skipped(&decision, try->skipped), what, "the record says who was spared", "verdict %u is missing",
		      try->skipped);
}

/*
 * Many settings observe one OOM; the kernel solves it. No more than 38 programs of a kernel
 * without a patch for that can look at the end of out_of_memory().
 */
static void rank(unsigned int from, unsigned int to)
{
	struct policy policies[ARRAY_SIZE(tries)];
	struct hog hogs[HOGS];
	unsigned int i;

	for (i = from; i < to; i++) {
		char name[16];

		snprintf(name, sizeof(name), "try%u", i);
		policies[i] = policy_open(tries[i].object, name);
		policy_set_u32(&policies[i], "mode", MODE_OBSERVE);
		policy_settings(&policies[i], tries[i].settings);
		policy_load(&policies[i]);
		policy_attach(&policies[i]);
		keep_going();
		/* Slow kernels verify for minutes; a silent machine is taken for a hanging one. */
		printf("kernel-tier: %u of %u policies observe\n", i + 1 - from, to - from);
		fflush(stdout);
	}
	fill_tree(hogs);
	hog_order(&hogs[GROWER], 4 * MIB);
	check_killed(&hogs[BATCH]);	/* by the kernel, which weighs its adj */
	for (i = from; i < to; i++) {
		check_try(&tries[i], &policies[i]);
		check_int("errors", 0, policy_u64(&policies[i], "nr_errors"));
	}
}

static void policies_rank_cgroups(void)
{
	rank(0, ARRAY_SIZE(tries) / 2);
}

static void policies_rank_otherwise(void)
{
	rank(ARRAY_SIZE(tries) / 2, ARRAY_SIZE(tries));
}

/* Our choice stands beside what really died. */
static void observe_records_both(void)
{
	static const char * const words[] = { "mode=1", NULL };
	struct policy policy = start("largest_leaf", "observer", words);
	const struct recorded *who;
	struct decision decision;
	struct hog hogs[HOGS];

	fill_tree(hogs);
	hog_order(&hogs[GROWER], 4 * MIB);
	check_killed(&hogs[BATCH]);
	check_log("oom_policy=default");
	require(last_decision(&policy, &decision), "there is a decision", "none");
	who = chosen(&decision);
	check(who && !strcmp(who->path, "/t/db") && who->who.cgroup_id == cg_id("t/db"), "our choice", "/t/db", "%s",
	      who ? who->path : "nobody");
	check(who && who->who.usage > 29 * MIB && who->who.usage < 32 * MIB, "its usage", "30 MiB", "%llu",
	      who ? (unsigned long long)who->who.usage : 0);
	check_int("victims", 1, decision.nr_died);
	check_int("the pid of the one that really died", hogs[BATCH].pid, decision.died[0].pid);
	check(!strcmp(decision.died[0].comm, "batch") && !strcmp(decision.died[0].path, "/t/batch"),
	      "its name and cgroup", "batch in /t/batch", "%s in %s", decision.died[0].comm, decision.died[0].path);
	check_int("its oom_score_adj", 700, decision.died[0].adj);
	check_int("the trigger", TRIGGER_MEMCG, decision.trigger);
	check(!strcmp(decision.scope, "/t") && decision.scope_id == cg_id("t"), "the scope", "/t", "%s", decision.scope);
	check(decision.spent_ns > 0 && decision.time_ns > 0, "time and time spent", "there", "not there");
	check(decision.nr_considered >= 6, "candidates", "6 or more", "%u", decision.nr_considered);
	check_int("kills", 0, policy_u64(&policy, "nr_kills"));
	check_int("counted as observed", policy_u64(&policy, "nr_calls"), policy_u64(&policy, "nr_observed"));
	/* Who dies for another reason does not belong to it. */
	proc_write("sysrq-trigger", "f");
	check(wait_for(policy_u64(&policy, "nr_decisions") > decision.seq), "sysrq-f makes a decision of its own",
	      "one more", "none");
	require(policy_decision(&policy, decision.seq, &decision), "the first one is still there", "it is not");
	check_int("victims of the first one", 1, decision.nr_died);
}

static void fill_all(struct hog *hogs, const int *mib, int count)
{
	for (int i = 0; i < count; i++) {
		hog_start(&hogs[i]);
		require(hog_fill(&hogs[i], mib[i] * MIB), "a hog fills", "%s does not", hogs[i].name);
	}
	cg_set("t", "memory.swap.max", 0);
	cg_set("t", "memory.max", cg_value("t", "memory.current") + MIB);
}

static struct hog grower = { .name = "grower", .cgroup = "t/grower", .adj = -1000 };

static void provoke(void)
{
	cg_make("t/grower", false);
	hog_start(&grower);
	hog_order(&grower, 4 * MIB);
}

/* The largest leaf, but only its largest process dies. */
static void victim_is_a_process(void)
{
	static const char * const words[] = { "victim=0", NULL };
	struct policy policy = start("largest_leaf", "process", words);
	struct hog hogs[] = {
		{ .name = "small", .cgroup = "t/pair" }, { .name = "big", .cgroup = "t/pair" },
		{ .name = "single", .cgroup = "t/single" },
	};
	static const int mib[] = { 8, 12, 15 };
	struct decision decision;

	cg_make("t/pair", false);
	cg_make("t/single", false);
	fill_all(hogs, mib, 3);
	provoke();
	check_killed(&hogs[1]);
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	check_alive(&hogs[0]);
	check_alive(&hogs[2]);
	check_int("kills", 1, policy_u64(&policy, "nr_kills"));
	require(last_decision(&policy, &decision), "there is a decision", "none");
	check_int("the outcome", OUTCOME_KILLED, decision.outcome);
	check_int("the chosen pid", hogs[1].pid, decision.ranked[0].who.pid);
	check_int("the pid that died", hogs[1].pid, decision.died[0].pid);
	check_log("BPF policy largest_leaf: Killed process");
}

/* The cgroup of the largest process dies as a whole. */
static void victim_is_a_cgroup(void)
{
	struct policy policy = start("largest_process", "whole", NULL);
	struct hog hogs[] = {
		{ .name = "helper", .cgroup = "t/pair" }, { .name = "big", .cgroup = "t/pair" },
		{ .name = "single", .cgroup = "t/single" }, { .name = "single2", .cgroup = "t/single" },
	};
	static const int mib[] = { 3, 17, 15, 13 };

	cg_make("t/pair", false);
	cg_make("t/single", false);
	fill_all(hogs, mib, 4);
	provoke();
	check_killed(&hogs[0]);
	check_killed(&hogs[1]);
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	check_alive(&hogs[2]);
	check_alive(&hogs[3]);
	check_int("kills", 2, policy_u64(&policy, "nr_kills"));
}

static void make_group(struct hog *hogs, const int *mib, int count)
{
	cg_make("t/group", true);
	cg_write("t/group", "memory.oom.group", "1");
	cg_make("t/group/a", false);
	cg_make("t/group/b", false);
	cg_make("t/single", false);
	fill_all(hogs, mib, count);
}

/* What memory.oom.group says is one is ranked and dies as one. */
static void victim_is_an_oom_group(void)
{
	static const char * const words[] = { "victim=2", NULL };
	struct policy policy = start("largest_leaf", "group", words);
	struct hog hogs[] = {
		{ .name = "a", .cgroup = "t/group/a" }, { .name = "b", .cgroup = "t/group/b" },
		{ .name = "single", .cgroup = "t/single" },
	};
	static const int mib[] = { 12, 14, 20 };

	make_group(hogs, mib, 3);
	provoke();
	check_killed(&hogs[0]);
	check_killed(&hogs[1]);
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	check_alive(&hogs[2]);
	check_int("oom_group_kill of the group", 1, cg_field("t/group", "memory.events.local", "oom_group_kill"));
	check_int("kills of the policy itself", 1, policy_u64(&policy, "nr_kills"));
}

/* The kernel would take the protected one along with its group. */
static void protected_process_spares_its_oom_group(void)
{
	static const char * const words[] = { "victim=0", "protect+name:keeper", NULL };
	struct policy policy = start("largest_process", "careful", words);
	struct hog hogs[] = {
		{ .name = "keeper", .cgroup = "t/group/a" }, { .name = "big", .cgroup = "t/group/b" },
		{ .name = "single", .cgroup = "t/single" },
	};
	static const int mib[] = { 3, 24, 12 };

	make_group(hogs, mib, 3);
	provoke();
	check_killed(&hogs[2]);
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	check_alive(&hogs[0]);
	check_alive(&hogs[1]);
	check_int("kills", 1, policy_u64(&policy, "nr_kills"));
}

/* A glob may name a cgroup below the one that is charged: it protects who is in there. */
static void protected_subcgroup_lives_alone(void)
{
	static const char * const words[] = { "protect+/t/service/keeper", NULL };
	struct policy policy = start("largest_leaf", "careful", words);
	struct hog hogs[] = {
		{ .name = "keeper", .cgroup = "t/service/keeper" }, { .name = "big", .cgroup = "t/service" },
		{ .name = "single", .cgroup = "t/single" },
	};
	static const int mib[] = { 3, 24, 12 };

	cg_make("t/service", false);
	cg_make("t/service/keeper", false);
	cg_make("t/single", false);
	fill_all(hogs, mib, 3);
	provoke();
	check_killed(&hogs[1]);
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	check_alive(&hogs[0]);
	check_alive(&hogs[2]);
	check_int("kills", 1, policy_u64(&policy, "nr_kills"));
}

/* Who was hit a short time ago comes last, and no OOM is left to the kernel for it. */
static void cooldown_takes_the_next_best(void)
{
	static const char * const words[] = { "cooldown_ms=600000", NULL };
	struct policy policy = start("largest_leaf", "pausing", words);
	struct hog hogs[HOGS], again;
	struct decision decision;

	fill_tree(hogs);
	hog_order(&hogs[GROWER], 4 * MIB);
	check_killed(&hogs[DB]);
	check(wait_for(hog_filled(&hogs[GROWER])), "the grower gets its memory", "it does", "it does not");
	/* It is the largest once more. */
	again = hogs[DB];
	again.pid = 0;
	hog_start(&again);
	require(hog_fill(&again, 25 * MIB), "it fills", "it does not");
	hog_order(&hogs[GROWER], 10 * MIB);
	check_killed(&hogs[GUARD]);
	check(wait_for(hog_filled(&hogs[GROWER])), "the grower gets its memory", "it does", "it does not");
	check_alive(&again);
	check_int("kills of the policy", 2, policy_u64(&policy, "nr_kills"));
	require(last_decision(&policy, &decision), "there is a decision", "none");
	check_int("its outcome", OUTCOME_KILLED, decision.outcome);
}

/* Of two policies whose scopes lie in one another each answers for its own OOMs. */
static void scopes_lie_in_one_another(void)
{
	static const char * const inner_words[] = { "scope+/t/in*", NULL };
	static const char * const outer_words[] = { "scope+/", NULL };
	struct policy inner = start("largest_leaf", "inner", inner_words);
	struct policy outer = start("largest_leaf", "outer", outer_words);
	struct hog hogs[] = {
		{ .name = "in", .cgroup = "t/inner/x" }, { .name = "out", .cgroup = "t/outer" },
	};

	cg_make("t/inner", true);
	cg_make("t/inner/x", false);
	cg_make("t/outer", false);
	for (int i = 0; i < 2; i++) {
		cg_set(hogs[i].cgroup, "memory.max", 10 * MIB);
		cg_set(hogs[i].cgroup, "memory.swap.max", 0);
		hog_start(&hogs[i]);
		hog_order(&hogs[i], 30 * MIB);
		check_killed(&hogs[i]);
		if (i == 0)
			check_int("kills of the outer one in the inner scope", 0, policy_u64(&outer, "nr_kills"));
	}
	check_int("kills of the inner one", 1, policy_u64(&inner, "nr_kills"));
	check_int("kills of the outer one", 1, policy_u64(&outer, "nr_kills"));
	check_log("oom_policy=inner");
	check_log("oom_policy=outer");
}

/* The newest decisions stay, the older ones are overwritten. */
static void decisions_are_a_ring(void)
{
	struct policy policy = start("largest_process", "ring", NULL);
	struct spawner spawner = { .cgroup = "t/pool", .children = 2, .mib = 12 };
	struct decision decision;
	uint64_t last, seq;
	int whole = 0;

	cg_make("t/pool", false);
	cg_set("t/pool", "memory.max", 6 * MIB);
	cg_set("t/pool", "memory.swap.max", 0);
	spawner_start(&spawner);
	while ((last = policy_u64(&policy, "nr_decisions")) < MAX_DECISIONS + 6) {
		keep_going();
		require(wait_for(policy_u64(&policy, "nr_decisions") > last), "OOMs keep coming", "they stop");
	}
	spawner_stop(&spawner);
	last = policy_u64(&policy, "nr_decisions");
	for (seq = last - MAX_DECISIONS + 1; seq <= last; seq++)
		whole += policy_decision(&policy, seq, &decision) && decision.outcome &&
			 !strcmp(decision.scope, "/t/pool");
	check_int("whole decisions among the newest", MAX_DECISIONS, whole);
	check(!policy_decision(&policy, last - MAX_DECISIONS, &decision), "an older one is gone", "it is", "it is there");
}

/* ---- pressure; the cgroup is there first, as a plain kernel does not tell of new ones */

static void eat(struct hog *eater, const char *cgroup)
{
	*eater = (struct hog){ .name = "eater", .cgroup = cgroup };
	cg_make(cgroup, false);
	cg_set(cgroup, "memory.high", 20 * MIB);
	hog_start(eater);
}

/* Pressure must last before the policy acts. */
static void pressure_must_last(void)
{
	static const char * const words[] = {
		"scope+/t/p", "threshold_us=20000", "window_us=200000", "sustained_ms=2500", NULL,
	};
	struct policy policy;
	struct decision decision;
	struct hog eater;

	cg_set("t", "memory.swap.max", 0);
	eat(&eater, "t/p");
	policy = start("pressure_oom", NULL, words);
	hog_order(&eater, 500 * MIB);
	check_killed(&eater);
	check(policy_u64(&policy, "nr_not_yet") >= 3, "events before", "3 or more", "%llu",
	      (unsigned long long)policy_u64(&policy, "nr_not_yet"));
	check(wait_for(last_decision(&policy, &decision)), "there is a decision", "one", "none");
	check_int("its outcome", OUTCOME_DECLARED, decision.outcome);
	check_int("its trigger", TRIGGER_PRESSURE, decision.trigger);
	check(!strcmp(decision.scope, "/t/p"), "its scope", "/t/p", "%s", decision.scope);
	check_int("who died", eater.pid, decision.died[0].pid);
	check_constraint("CONSTRAINT_BPF_PSI_MEM");
}

/* One action, then a pause. */
static void pressure_cooldown(void)
{
	static const char * const words[] = {
		"scope+/t/p", "threshold_us=20000", "window_us=200000", "cooldown_ms=600000", NULL,
	};
	struct policy policy;
	struct hog eater;

	cg_set("t", "memory.swap.max", 0);
	eat(&eater, "t/p");
	policy = start("pressure_oom", NULL, words);
	hog_order(&eater, 500 * MIB);
	check_killed(&eater);
	eater.pid = 0;
	hog_start(&eater);
	hog_order(&eater, 500 * MIB);
	check(wait_for(policy_u64(&policy, "nr_cooldowns") >= 3), "events within the pause", "3 or more", "%llu",
	      (unsigned long long)policy_u64(&policy, "nr_cooldowns"));
	check_alive(&eater);
	check_int("OOMs declared", 1, policy_u64(&policy, "nr_declared"));
}

/* A declared OOM that finds nobody to kill is recorded as that, and not as a death nor as an error. */
static void pressure_without_victim(void)
{
	static const char * const words[] = {
		"scope+/t/p", "threshold_us=20000", "window_us=200000", "cooldown_ms=100", NULL,
	};
	struct hog eater = { .name = "eater", .cgroup = "t/p", .adj = -1000 };
	struct policy policy;
	struct decision decision;

	cg_set("t", "memory.swap.max", 0);
	cg_make("t/p", false);
	cg_set("t/p", "memory.high", 20 * MIB);
	hog_start(&eater);
	policy = start("pressure_oom", NULL, words);
	hog_order(&eater, 500 * MIB);
	check(wait_for(policy_u64(&policy, "nr_passes") > 0), "OOMs of which nobody died", "1 or more", "none");
	require(last_decision(&policy, &decision), "there is a decision", "none");
	check_int("its outcome", OUTCOME_NOBODY_DIED, decision.outcome);
	check_int("OOMs of which somebody died", 0, policy_u64(&policy, "nr_declared"));
	check_int("errors", 0, policy_u64(&policy, "nr_errors"));
	check_alive(&eater);
}

/* Neither an observing policy nor one that only watches harms anybody. */
static void pressure_without_action(const char *object, uint32_t mode, uint32_t outcome)
{
	struct policy policy = policy_open(object, NULL);
	struct decision decision;
	struct hog eater;

	policy_select(&policy, "scope", "/t/p");
	policy_set_u32(&policy, "threshold_us", 20000);
	policy_set_u32(&policy, "window_us", 200000);
	policy_set_u32(&policy, "cooldown_ms", 100);
	policy_set_u32(&policy, "mode", mode);
	cg_set("t", "memory.swap.max", 0);
	eat(&eater, "t/p");
	policy_load(&policy);
	policy_attach(&policy);
	hog_order(&eater, 500 * MIB);
	check(wait_for(policy_u64(&policy, "nr_decisions") >= 3), "decisions", "3 or more", "%llu",
	      (unsigned long long)policy_u64(&policy, "nr_decisions"));
	require(last_decision(&policy, &decision), "there is a decision", "none");
	check_int("its outcome", outcome, decision.outcome);
	check_alive(&eater);
	check_not_log("oom-kill:");
}

static void pressure_observed(void)
{
	pressure_without_action("pressure_oom", MODE_OBSERVE, OUTCOME_OBSERVED);
}

static void watch_never_acts(void)
{
	pressure_without_action("watch", MODE_ENFORCE, OUTCOME_RECORDED);
}

/* A cgroup that cannot be watched, here for the cap, is not called watched. */
static void unwatched_is_not_called_watched(void)
{
	static const char * const words[] = { "scope+/t/p*", NULL };
	struct policy policy;

	sysctl_write("kernel/bpf_psi_max_triggers", "1");
	policy = start("watch", NULL, words);
	cg_make("t/p1", false);
	check(wait_for(policy_u64(&policy, "nr_watched") == 1), "the first is watched", "1", "%llu",
	      (unsigned long long)policy_u64(&policy, "nr_watched"));
	cg_make("t/p2", false);
	check(wait_for(policy_u64(&policy, "nr_left_out") == 1), "the second is one too many", "1 left out", "%llu",
	      (unsigned long long)policy_u64(&policy, "nr_left_out"));
	check_int("errors", 0, policy_u64(&policy, "nr_errors"));
	sysctl_write("kernel/bpf_psi_max_triggers", "256");
	check(policy_watches(&policy, "t/p1"), "the policy says that it watches the first", "yes", "no");
	check(!policy_watches(&policy, "t/p2"), "and nothing of the second", "no", "yes");
}

/* With free swap it is not called an OOM, when the swap is full it is. */
static void pressure_and_swap(void)
{
	static const char * const words[] = {
		"scope+/t/p", "threshold_us=20000", "window_us=200000", "cooldown_ms=0", "free_swap_below_percent=20", "level=0",
		NULL,
	};
	struct policy policy;
	struct decision decision;
	struct hog eater;

	disk_swap_on(SWAP_MIB);
	eat(&eater, "t/p");
	policy = start("pressure_and_swap", NULL, words);
	hog_order(&eater, 26 * MIB);	/* six of them go to the swap */
	check(wait_for(policy_u64(&policy, "nr_unmet") > 0), "events with free swap", "1 or more", "0");
	require(last_decision(&policy, &decision), "there is a decision", "none");
	check(decision.free_swap > 3 * MIB && decision.free_swap <= SWAP_MIB * MIB, "free swap in the record",
	      "3 to 16 MiB", "%llu", (unsigned long long)decision.free_swap);
	check_alive(&eater);
	hog_order(&eater, 60 * MIB);
	check_killed(&eater);
	check_constraint("CONSTRAINT_BPF_PSI_MEM");
	check(wait_for((last_decision(&policy, &decision), decision.outcome == OUTCOME_DECLARED)), "the last decision",
	      "declared", "outcome %u", decision.outcome);
	check(decision.free_swap <= SWAP_MIB * MIB / 5 + 4096, "free swap in it", "a fifth at most", "%llu",
	      (unsigned long long)decision.free_swap);
	require(!swapoff("/dev/vda"), "the swap can be left", "%s", strerror(errno));
}

const struct scenario policy_scenarios[] = {
	{ "policies_rank_cgroups", "policies", policies_rank_cgroups },
	{ "policies_rank_otherwise", "policies", policies_rank_otherwise },
	{ "observe_records_both", "policies", observe_records_both },
	{ "victim_is_a_process", "policies", victim_is_a_process },
	{ "victim_is_a_cgroup", "policies", victim_is_a_cgroup },
	{ "victim_is_an_oom_group", "policies", victim_is_an_oom_group },
	{ "protected_process_spares_its_oom_group", "policies", protected_process_spares_its_oom_group },
	{ "protected_subcgroup_lives_alone", "policies", protected_subcgroup_lives_alone },
	{ "cooldown_takes_the_next_best", "policies", cooldown_takes_the_next_best },
	{ "scopes_lie_in_one_another", "policies", scopes_lie_in_one_another },
	{ "decisions_are_a_ring", "policies", decisions_are_a_ring },
	{ "pressure_must_last", "policies", pressure_must_last },
	{ "pressure_cooldown", "policies", pressure_cooldown },
	{ "pressure_without_victim", "policies", pressure_without_victim },
	{ "pressure_observed", "policies", pressure_observed },
	{ "watch_never_acts", "policies", watch_never_acts },
	{ "unwatched_is_not_called_watched", "policies", unwatched_is_not_called_watched },
	{ "pressure_and_swap", "policies", pressure_and_swap },
	{ }
};
