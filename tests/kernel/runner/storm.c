// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Very many OOMs, in many cgroups from several tasks at once, while policies are loaded,
 * replaced and unloaded, cgroups made and removed and pressure triggers fire. It ends
 * without a splat (pytest looks), nothing protected dies, every death is an OOM kill, and
 * no memcg is left over.
 *
 * The kernel command line says how many deaths it takes: storm=NUMBER. It lasts until each
 * change of policies was made at least once, however many deaths come while they load.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define STORM_DEATHS	400	/* unless the command line says another number */
#define DEATHS_PER_STEP	20	/* at least; a long storm changes the policies as often as 240 times */
#define STEPS		240
#define ROUND		8	/* changes, after which they begin anew */
#define POOLS		6
#define FIRST_SQUEEZED	4	/* pools whose limit is lowered once they are full */
/*
 * What a kernel keeps pinned now and then, for a while and without any policy: Linux 7.3 was
 * seen to, in one of four storms. A leak of ours would grow with the cgroups that were
 * watched or killed in, dozens in the shortest storm.
 */
#define PINNED		2
#define SILENCE_MS	60000	/* a storm without a death for so long hangs */

static struct policy watcher(const char *parent)
{
	struct policy policy = policy_open("psi_online", NULL);
	bool declares = true;

	policy_set_u64(&policy, "parent_id", cg_id(parent));
	policy_set_u32(&policy, "threshold_us", 1000);
	policy_set_u32(&policy, "window_us", 20000);
	policy_set(&policy, "declares", &declares, 1);
	policy_load(&policy);
	policy_attach(&policy);
	return policy;
}

static void count_in(struct policy *policy, const char *counter, unsigned long long *sum)
{
	if (policy->object)
		*sum += policy_u64(policy, counter);
}

static void count_watcher(struct policy *policy, unsigned long long *events, unsigned long long *watched)
{
	if (policy->object) {
		*events += policy_u32(policy, "nr_events");
		*watched += policy_u32(policy, "nr_watched");
	}
}

/*
 * A CPU keeps charges of a few memcgs in stock, and a reference to each for as long as no
 * other takes its place. So charge on every CPU for some that live.
 */
#define LIVING	8

static void take_stock(void)
{
	char name[32];
	cpu_set_t set;
	int cpu, i;

	for (i = 0; i < LIVING; i++) {
		snprintf(name, sizeof(name), "t/living%d", i);
		for (cpu = 0; cpu < 2; cpu++) {
			pid_t pid = fork();

			if (!pid) {
				CPU_ZERO(&set);
				CPU_SET(cpu, &set);
				sched_setaffinity(0, sizeof(set), &set);
				cg_join(name, getpid());
				memset(malloc(MIB / 2), 1, MIB / 2);
				_exit(0);
			}
			waitpid(pid, NULL, 0);
		}
	}
}

static void storm(void)
{
	struct hog protected[POOLS];
	struct spawner spawners[POOLS];
	struct policy chain[2] = {}, next, psi = {};
	unsigned long long deaths = 0, squeezed = 0, odd = 0, kills = 0, events = 0, watched = 0, last = 0;
	long long oom_kills = vmstat("oom_kill"), dying, wanted = STORM_DEATHS;
	const char *argument = getenv("storm");
	uint64_t silent_since = now_ms();
	char names[POOLS][32], kept[POOLS][48];
	unsigned long long per_step;
	int i, step = 0;

	if (argument)
		wanted = atoll(argument);
	per_step = wanted / STEPS > DEATHS_PER_STEP ? wanted / STEPS : DEATHS_PER_STEP;
	dying = cg_field("", "cgroup.stat", "nr_dying_descendants");
	for (i = 0; i < POOLS; i++) {
		snprintf(names[i], sizeof(names[i]), "t/pool%d", i);
		cg_make(names[i], true);
		if (i < FIRST_SQUEEZED)
			cg_set(names[i], "memory.max", (3 + i % 3) * MIB);
		/* Some pools are slowed down on their way, so that there is pressure. */
		if (i < FIRST_SQUEEZED && i % 2)
			cg_set(names[i], "memory.high", (3 + i % 3) * MIB - MIB / 2);
		cg_set(names[i], "memory.swap.max", 0);
		snprintf(kept[i], sizeof(kept[i]), "t/pool%d/kept", i);
		cg_make(kept[i], false);
		protected[i] = (struct hog){ .name = "kept", .cgroup = kept[i], .adj = -1000 };
		hog_start(&protected[i]);
		require(hog_fill(&protected[i], MIB / 2), "a protected hog fills", "it does not");
		spawners[i] = (struct spawner){
			.cgroup = names[i], .children = 1 + i % 3, .mib = 8, .churn = true,
		};
		if (i >= FIRST_SQUEEZED) {
			spawners[i].children = 12;
			spawners[i].mib = 0;
		}
		spawner_start(&spawners[i]);
	}

	while ((long long)deaths < wanted || step < ROUND) {
		pause_ms(5);
		for (deaths = 0, i = 0; i < POOLS; i++)
			deaths += spawner_deaths(&spawners[i]);
		if (deaths != last)
			silent_since = now_ms();
		else if (now_ms() > silent_since + SILENCE_MS)
			break;
		last = deaths;
		keep_going();
		if (deaths < step * per_step)
			continue;
		switch (step++ % ROUND) {
		case 0:
			chain[0] = policy_start("largest_leaf", "storm1");
			break;
		case 1:
			psi = watcher(names[0]);
			break;
		case 2:
			chain[1] = policy_start("probe", "storm2");
			break;
		case 3:		/* replaced: the new one comes before the old one goes */
		case 5:
			next = policy_start("largest_leaf", "storm3");
			count_in(&chain[0], "nr_kills", &kills);
			policy_unload(&chain[0]);
			chain[0] = next;
			break;
		case 4:
			next = watcher(names[step / ROUND % POOLS]);
			count_watcher(&psi, &events, &watched);
			policy_unload(&psi);
			psi = next;
			break;
		case 6:
			count_in(&chain[0], "nr_kills", &kills);
			policy_unload(&chain[0]);
			policy_unload(&chain[1]);
			break;
		case 7:
			count_watcher(&psi, &events, &watched);
			policy_unload(&psi);
			break;
		}
	}
	for (deaths = 0, i = 0; i < POOLS; i++) {
		spawner_stop(&spawners[i]);
		deaths += spawner_deaths(&spawners[i]);
		if (i >= FIRST_SQUEEZED)
			squeezed += spawner_deaths(&spawners[i]);
		odd += spawner_odd(&spawners[i]);
	}
	count_in(&chain[0], "nr_kills", &kills);
	count_watcher(&psi, &events, &watched);
	for (i = 0; i < POOLS; i++)
		check_alive(&protected[i]);
	oom_kills = vmstat("oom_kill") - oom_kills;
	check((long long)deaths >= wanted, "deaths", "as many as wanted", "%llu of %lld", deaths, wanted);
	check_int("ends of another kind than SIGKILL, or cgroups that were not made or removed", 0, odd);
	/* Children that the spawners ended at the stop are deaths, too. */
	check(oom_kills >= wanted && oom_kills <= (long long)deaths, "OOM kills", "the deaths, less those at the end",
	      "%lld kills, %llu deaths", oom_kills, deaths);
	check(step >= ROUND, "changes of policies", "a round or more", "%d", step);
	check(kills > 0, "policies have a part in it", "1 kill or more", "%llu", kills);
	check(watched > 0, "new cgroups were watched", "1 or more", "%llu", watched);
	check(events > 0, "pressure events came", "1 or more", "%llu", events);
	if (chain[0].object)
		policy_unload(&chain[0]);
	if (chain[1].object)
		policy_unload(&chain[1]);
	if (psi.object)
		policy_unload(&psi);
	for (i = 0; i < POOLS; i++)
		cg_remove_tree(names[i]);
	/* What else holds a dead memcg: caches, and the stock of the CPUs. */
	for (i = 0; i < LIVING; i++) {
		snprintf(names[0], sizeof(names[0]), "t/living%d", i);
		cg_make(names[0], false);
	}
	wait_for_ms((proc_write("sys/vm/drop_caches", "3"), take_stock(),
		     cg_field("", "cgroup.stat", "nr_dying_descendants") <= dying), 20000);
	check(cg_field("", "cgroup.stat", "nr_dying_descendants") <= dying + PINNED,
	      "dying cgroups are back to their number", "as before, and 2 at most", "%lld, were %lld", cg_field("", "cgroup.stat", "nr_dying_descendants"), dying);
	check(wait_for(!count_threads("psimon")), "no psimon thread is left", "0", "%d", count_threads("psimon"));
	note("%llu deaths, %llu of them by a lowered limit, %lld OOM kills (%llu by policies that were seen to their end), policies changed %d times, "
	     "%llu cgroups watched, %llu pressure events, %lld dying cgroups before and %lld after",
	     deaths, squeezed, oom_kills, kills, step, watched, events, dying,
	     cg_field("", "cgroup.stat", "nr_dying_descendants"));
}

const struct scenario storm_scenarios[] = {
	{ "storm", "storm", storm },
	{ }
};
