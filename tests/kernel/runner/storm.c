// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Many OOMs side by side, while policies come, are replaced and go. It ends without a
 * splat (pytest looks), nothing protected dies, every death is an OOM kill.
 */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "harness.h"

#define STORM_DEATHS	160
#define STORM_LIMIT_MS	60000
#define DEATHS_PER_STEP	4

static void limit(const char *cgroup, int mib)
{
	cg_set(cgroup, "memory.max", mib * MIB);
	cg_set(cgroup, "memory.swap.max", 0);
}

static struct policy watcher(void)
{
	struct policy policy = policy_open("psi_probe", NULL);

	policy_set_u64(&policy, "watch_id", cg_id("t/pool"));
	policy_set_u32(&policy, "watch_resource", 1);
	policy_set_u32(&policy, "nr_watches", 1);
	policy_set_u32(&policy, "threshold_us", 1000);
	policy_set_u32(&policy, "window_us", 50000);
	policy_set_u32(&policy, "on_event", 1);
	policy_load(&policy);
	policy_attach(&policy);
	return policy;
}

static void storm(void)
{
	struct hog hogs[] = {
		{ .name = "single", .cgroup = "t/single" },
		{ .name = "mixed", .cgroup = "t/mixed" },
		{ .name = "pool1", .cgroup = "t/pool/1" },
		{ .name = "pool2", .cgroup = "t/pool/2" },
		{ .name = "pool3", .cgroup = "t/pool/2" },
	};
	struct hog protected[] = {
		{ .name = "protected1", .cgroup = "t/mixed", .adj = -1000 },
		{ .name = "protected2", .cgroup = "t/pool/3", .adj = -1000 },
	};
	struct policy chain[2] = {}, next, psi = {};
	int deaths = 0, odd = 0, step = 0, changes = 0;
	unsigned long long policy_kills = 0;
	long long kills = vmstat("oom_kill");
	uint64_t end = now_ms() + STORM_LIMIT_MS;
	unsigned int i;

	cg_make("t/single", false);
	cg_make("t/mixed", false);
	cg_make("t/pool", true);
	cg_make("t/pool/1", false);
	cg_make("t/pool/2", false);
	cg_make("t/pool/3", false);
	limit("t/single", 6);
	limit("t/mixed", 8);
	limit("t/pool", 16);
	for (i = 0; i < ARRAY_SIZE(protected); i++) {
		hog_start(&protected[i]);
		require(hog_fill(&protected[i], MIB), "a protected hog fills", "it does not");
	}

	while (deaths < STORM_DEATHS && now_ms() < end) {
		for (i = 0; i < ARRAY_SIZE(hogs); i++) {
			if (hogs[i].pid && !hog_reap(&hogs[i]))
				continue;
			if (hogs[i].pid) {
				deaths++;
				odd += !WIFSIGNALED(hogs[i].status) || WTERMSIG(hogs[i].status) != 9;
			}
			hogs[i].pid = 0;
			hog_start(&hogs[i]);
			hog_order(&hogs[i], 20 * MIB);
		}
		pause_ms(1);
		if (deaths < step * DEATHS_PER_STEP)
			continue;
		changes++;
		switch (step++ % 6) {
		case 0:
			chain[0] = policy_start("largest_leaf", "storm1");
			break;
		case 1:
			chain[1] = policy_start("probe", "storm2");
			psi = watcher();
			break;
		case 2:		/* replaced: the new one comes before the old one goes */
			next = policy_start("largest_leaf", "storm3");
			policy_kills += policy_u64(&chain[0], "nr_kills");
			policy_unload(&chain[0]);
			chain[0] = next;
			break;
		case 3:
			policy_unload(&psi);
			break;
		case 4:
			policy_kills += policy_u64(&chain[0], "nr_kills");
			policy_unload(&chain[0]);
			break;
		case 5:
			policy_unload(&chain[1]);
			break;
		}
	}
	if (chain[0].map)
		policy_kills += policy_u64(&chain[0], "nr_kills");
	for (i = 0; i < ARRAY_SIZE(protected); i++)
		check_alive(&protected[i]);
	check(deaths >= STORM_DEATHS, "deaths", "160 or more within 60 s", "%d", deaths);
	check_int("deaths by something else than SIGKILL", 0, odd);
	kills = vmstat("oom_kill") - kills;
	check(kills >= deaths && kills <= deaths + (int)ARRAY_SIZE(hogs),
	      "OOM kills are the deaths, and those not reaped yet", "deaths to deaths + 5",
	      "%lld kills, %d deaths", kills, deaths);
	check(policy_kills > 0, "policies have a part in it", "1 kill or more", "%llu", policy_kills);
	note("%d deaths, %lld OOM kills (%llu by policies), policies changed %d times", deaths, kills,
	     policy_kills, changes);
}

const struct scenario storm_scenarios[] = {
	{ "storm", "storm", storm },
	{ }
};
