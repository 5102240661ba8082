// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Random trees that tests/kernel/oracle.py has made up, with what each policy must choose
 * in them. /trees has one line for each cgroup, hog and policy of a tree.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "decision.h"
#include "harness.h"

#define TREES		"/trees"
#define MAX_CGROUPS	40
#define MAX_HOGS	12
#define MAX_TRIES	16
#define MAX_WORDS	16

struct try {
	char text[600];
	char object[32], cgroup[64], process[32];
	struct policy policy;
};

static struct {
	unsigned int seed;
	char cgroups[MAX_CGROUPS][64];
	struct hog hogs[MAX_HOGS];
	char names[MAX_HOGS][16], places[MAX_HOGS][64];
	int mib[MAX_HOGS];
	struct try tries[MAX_TRIES];
	int nr_cgroups, nr_hogs, nr_tries;
} tree;

static void add_cgroup(const char *line)
{
	char *path = tree.cgroups[tree.nr_cgroups++];
	int inner, low, group;

	require(sscanf(line, "cgroup %63s %d %d %d", path, &inner, &low, &group) == 4, "a cgroup can be read",
		"%s", line);
	cg_make(path, inner);
	cg_set(path, "memory.low", low * MIB);
	cg_set(path, "memory.oom.group", group);
}

static void add_hog(const char *line)
{
	int at = tree.nr_hogs++;
	struct hog *hog = &tree.hogs[at];

	*hog = (struct hog){ .name = tree.names[at], .cgroup = tree.places[at] };
	require(sscanf(line, "hog %15s %63s %d %d", tree.names[at], tree.places[at], &tree.mib[at], &hog->adj) == 4,
		"a hog can be read", "%s", line);
}

static void add_try(const char *line)
{
	struct try *try = &tree.tries[tree.nr_tries++];
	const char *words[MAX_WORDS];
	char name[16], text[600], *save, *word;
	int at = 0;

	snprintf(try->text, sizeof(try->text), "%s", line);
	try->text[strcspn(try->text, "\n")] = 0;
	snprintf(text, sizeof(text), "%s", try->text);
	strtok_r(text, " ", &save);
	snprintf(try->object, sizeof(try->object), "%s", strtok_r(NULL, " ", &save));
	snprintf(try->cgroup, sizeof(try->cgroup), "%s", strtok_r(NULL, " ", &save));
	snprintf(try->process, sizeof(try->process), "%s", strtok_r(NULL, " ", &save));
	while ((word = strtok_r(NULL, " ", &save)) && at < MAX_WORDS - 1)
		words[at++] = word;
	words[at] = NULL;
	snprintf(name, sizeof(name), "try%d", tree.nr_tries);
	try->policy = policy_open(try->object, name);
	policy_set_u32(&try->policy, "mode", MODE_OBSERVE);
	policy_settings(&try->policy, words);
	policy_load(&try->policy);
	policy_attach(&try->policy);
}

static const char *name_of(int32_t pid)
{
	for (int i = 0; i < tree.nr_hogs; i++)
		if (tree.hogs[i].pid == pid)
			return tree.hogs[i].name;
	return "-";
}

static bool check_choice(struct try *try)
{
	const char *path = "-", *process = "-";
	struct decision decision;
	char what[160];

	snprintf(what, sizeof(what), "tree %u: %s", tree.seed, try->text + strlen("policy "));
	if (!policy_decision(&try->policy, 1, &decision))
		return check(false, what, "a decision", "none");
	for (int i = 0; i < MAX_RANKED; i++) {
		if (decision.ranked[i].who.verdict != VERDICT_CHOSEN)
			continue;
		path = decision.ranked[i].path;
		process = name_of(decision.ranked[i].who.pid);
	}
	/* The record has the best four; whoever comes later was chosen all the same. */
	if (decision.outcome == OUTCOME_OBSERVED && !strcmp(path, "-"))
		return true;
	if (!strcmp(path, try->cgroup) && (!strcmp(try->process, "-") || !strcmp(process, try->process)))
		return true;
	return check(false, what, "as the oracle says", "%s, process %s, outcome %u; %s", path, process, decision.outcome,
		     try->text);
}

static int run_tree(void)
{
	struct hog *grower = &tree.hogs[tree.nr_hogs - 1];
	int i, right = 0;

	cg_write("t", "memory.max", "max");
	for (i = 0; i < tree.nr_hogs; i++) {
		hog_start(&tree.hogs[i]);
		require(hog_fill(&tree.hogs[i], tree.mib[i] * MIB), "a hog fills", "%s of tree %u does not",
			tree.hogs[i].name, tree.seed);
	}
	cg_set("t", "memory.max", cg_value("t", "memory.current") + MIB);
	/* More than reclaim could find in page cache and slabs. */
	hog_order(grower, 8 * MIB);
	require(wait_for(hog_filled(grower)), "the OOM is solved", "it is not, tree %u", tree.seed);
	for (i = 0; i < tree.nr_tries; i++) {
		right += check_choice(&tree.tries[i]);
		policy_unload(&tree.tries[i].policy);
	}
	for (i = 0; i < tree.nr_hogs; i++) {
		if (!hog_reap(&tree.hogs[i])) {
			close(tree.hogs[i].order);
			require(wait_for(hog_reap(&tree.hogs[i])), "a hog ends", "%s does not", tree.hogs[i].name);
		}
	}
	for (i = tree.nr_cgroups - 1; i >= 0; i--)
		require(wait_for(cg_remove(tree.cgroups[i])), "a cgroup goes", "%s does not", tree.cgroups[i]);
	keep_going();
	return right;
}

static void random_trees(void)
{
	int trees = 0, tries = 0, right = 0;
	FILE *file = fopen(TREES, "r");
	char line[600];

	require(file, "there are trees", "%s is missing", TREES);
	cg_set("t", "memory.swap.max", 0);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "tree %u", &tree.seed) == 1) {
			tree.nr_cgroups = tree.nr_hogs = tree.nr_tries = 0;
		} else if (!strncmp(line, "cgroup ", 7)) {
			add_cgroup(line);
		} else if (!strncmp(line, "hog ", 4)) {
			add_hog(line);
		} else if (!strncmp(line, "policy ", 7)) {
			add_try(line);
			keep_going();
		} else {
			right += run_tree();
			tries += tree.nr_tries;
			trees++;
		}
	}
	fclose(file);
	check(tries > 0, "choices were compared", "1 or more", "%d", tries);
	check_int("choices as the oracle says", tries, right);
	note("%d trees, %d choices compared with the oracle, %d the same", trees, tries, right);
}

const struct scenario tree_scenarios[] = {
	{ "random_trees", "trees", random_trees },
	{ }
};
