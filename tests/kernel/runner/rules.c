// SPDX-License-Identifier: GPL-2.0-or-later
/* What holds around policies: sysctls, sysrq, bypassing, counts, replacing without a gap. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "harness.h"

enum { BAIT, GROWER, HOGS };

/* An OOM in "t/scope" comes about when the grower fills; the kernel would kill the bait. */
static void start(struct hog hogs[HOGS])
{
	hogs[BAIT] = (struct hog){ .name = "bait", .cgroup = "t/scope/bait", .adj = 1000 };
	hogs[GROWER] = (struct hog){ .name = "grower", .cgroup = "t/scope/grower" };
	cg_make("t/scope", true);
	cg_set("t/scope", "memory.max", 30 * MIB);
	cg_set("t/scope", "memory.swap.max", 0);
	cg_make("t/scope/bait", false);
	cg_make("t/scope/grower", false);
	hog_start(&hogs[BAIT]);
	require(hog_fill(&hogs[BAIT], 15 * MIB), "the bait fills", "it does not");
	hog_start(&hogs[GROWER]);
}

static void renew(struct hog *hog, uint64_t bytes)
{
	hog->pid = 0;
	hog_start(hog);
	require(hog_fill(hog, bytes), "a hog fills", "%s does not", hog->name);
}

static struct policy probe(const char *name, int verdict, uint32_t busy_ms)
{
	struct policy policy = policy_open("probe", name);

	policy_set_u32(&policy, "verdict", verdict);
	policy_set_u32(&policy, "busy_ms", busy_ms);
	policy_load(&policy);
	policy_attach(&policy);
	return policy;
}

/* After an OOM whoever died comes back; the grower lets go of what it got. */
static void renew_both(struct hog hogs[HOGS])
{
	require(wait_for(hog_reap(&hogs[BAIT])), "the bait dies", "it does not");
	close(hogs[GROWER].order);
	require(wait_for(hog_reap(&hogs[GROWER])), "the grower ends", "it does not");
	renew(&hogs[BAIT], 15 * MIB);
	hogs[GROWER].pid = 0;
	hog_start(&hogs[GROWER]);
}

/* One OOM after the other in "t/scope", each solved by somebody. */
static void ooms(struct hog hogs[HOGS], int count)
{
	for (int i = 0; i < count; i++) {
		if (i)
			renew_both(hogs);
		hog_order(&hogs[GROWER], 20 * MIB);
		require(wait_for(hog_filled(&hogs[GROWER]) || hog_reap(&hogs[GROWER])),
			"an OOM is solved", "it is not");
	}
}

/* What vm.bpf_oom_bypassed says of a policy; false when it says nothing. */
static bool bypass_of(struct policy *policy, unsigned long long *since_ms, unsigned long long *left_ms, char why[100])
{
	FILE *file = fopen("/proc/sys/vm/bpf_oom_bypassed", "r");
	struct bpf_link_info info = {};
	__u32 size = sizeof(info), id;
	bool there = false;

	require(file && !bpf_link_get_info_by_fd(bpf_link__fd(policy->link), &info, &size),
		"vm.bpf_oom_bypassed can be read, and a link", "%s", strerror(errno));
	while (!there && fscanf(file, "%u %llu %llu %99[^\n]", &id, since_ms, left_ms, why) == 4)
		there = id == info.id;
	fclose(file);
	return there;
}

static void check_bypassed(struct policy *policy, int seconds, const char *why)
{
	const char *name = bpf_map__initial_value(policy->map, &(size_t){ 0 }) + sizeof(void *);
	unsigned long long since_ms, left_ms;
	char text[256], said[100];

	snprintf(text, sizeof(text), "policy %s is bypassed for %d s: %s\n", name, seconds, why);
	check_log(text);
	check(policy_registered(policy) > 0, "its link stays", "a map", "none");
	if (!check(bypass_of(policy, &since_ms, &left_ms, said), "vm.bpf_oom_bypassed has it", "a line", "none"))
		return;
	check(!strcmp(said, why), "and why", why, "%s", said);
	check(since_ms + left_ms + 1 >= seconds * 1000ULL && left_ms <= seconds * 1000ULL && left_ms,
	      "and since when and until when", "the whole time together", "%llu ms, %llu ms", since_ms, left_ms);
}

/*
 * Who claims progress without having made any is bypassed after three times, and the
 * policy behind it is asked in its place; loaded anew it is asked again.
 */
static void bypass_false_claims(void)
{
	struct policy liar = probe("liar", 1, 0), second = probe("second", 0, 0);
	unsigned long long since_ms, left_ms;
	struct hog hogs[HOGS];
	uint64_t calls;
	char why[100];

	start(hogs);
	ooms(hogs, 4);
	check_killed(&hogs[BAIT]);
	check_int("calls of the liar until it is bypassed", 3, policy_u64(&liar, "nr_calls"));
	check_bypassed(&liar, 10, "it claimed progress 3 times in a row and made none");
	check_int("times that the log says so", 1, klog_count("policy liar is bypassed"));
	check(policy_u64(&second, "nr_calls") > 3, "the next policy is asked all the time",
	      "more than 3", "%llu", (unsigned long long)policy_u64(&second, "nr_calls"));
	check_not_log("policy second is bypassed");
	check(!bypass_of(&second, &since_ms, &left_ms, why), "vm.bpf_oom_bypassed has nothing of the other", "nothing",
	      "%s", why);

	policy_unload(&liar);
	liar = probe("liar", 1, 0);
	calls = policy_u64(&second, "nr_calls");
	renew(&hogs[BAIT], 6 * MIB);
	hog_order(&hogs[GROWER], 6 * MIB);
	check_killed(&hogs[BAIT]);
	check(wait_for(policy_u64(&liar, "nr_calls") > 0), "loaded anew it is asked again", "1 or more",
	      "%llu", (unsigned long long)policy_u64(&liar, "nr_calls"));
	check(policy_u64(&second, "nr_calls") > calls, "and so is the other", "more than before", "no");
}

/* A policy over its budget of time is bypassed after three times, a quick one is not. */
static void bypass_slow_policy(void)
{
	struct policy slow, quick;
	struct hog hogs[HOGS];

	sysctl_write("vm/bpf_oom_budget_ms", "150");
	slow = probe("slow", 0, 300);
	quick = probe("quick", 0, 20);
	start(hogs);
	ooms(hogs, 4);
	sysctl_write("vm/bpf_oom_budget_ms", "1000");
	check_killed(&hogs[BAIT]);
	check_int("calls of the slow one until it is bypassed", 3, policy_u64(&slow, "nr_calls"));
	check_bypassed(&slow, 10, "3 calls in a row took more than 150 ms of CPU time");
	check_not_log("policy quick is bypassed");
	check(policy_u64(&quick, "nr_calls") > 3, "and is asked all the time", "more than 3", "%llu",
	      (unsigned long long)policy_u64(&quick, "nr_calls"));
}

/* The first bypass is over after ten seconds. */
static void wait_for_the_end_of_a_bypass(void)
{
	keep_going();
	pause_ms(10500);
	keep_going();
}

/* It is asked again when its time is over, and each further bypass lasts twice as long. */
static void bypass_lasts_longer_each_time(void)
{
	struct policy liar = probe("liar", 1, 0);
	struct hog hogs[HOGS];

	start(hogs);
	ooms(hogs, 4);
	check_int("calls of the liar until it is bypassed", 3, policy_u64(&liar, "nr_calls"));
	check_bypassed(&liar, 10, "it claimed progress 3 times in a row and made none");
	check_not_log("policy liar is asked again");
	wait_for_the_end_of_a_bypass();
	renew_both(hogs);
	ooms(hogs, 4);
	check_log("policy liar is asked again");
	check_int("calls until it is bypassed once more", 6, policy_u64(&liar, "nr_calls"));
	check_bypassed(&liar, 20, "it claimed progress 3 times in a row and made none");
	check_killed(&hogs[BAIT]);
}

/* Who was of use meanwhile is bypassed as for the first time. */
static void bypass_begins_anew_after_progress(void)
{
	struct policy policy = probe("mended", 1, 0);
	struct hog hogs[HOGS];

	start(hogs);
	ooms(hogs, 3);
	check_bypassed(&policy, 10, "it claimed progress 3 times in a row and made none");
	wait_for_the_end_of_a_bypass();
	renew_both(hogs);
	*(int32_t *)policy_data(&policy, "targets") = hogs[BAIT].pid;
	ooms(hogs, 1);
	check_log("oom_policy=mended");
	renew_both(hogs);
	ooms(hogs, 3);
	check(wait_for_ms(klog_count("policy mended is bypassed for 10 s") == 2, 2000), "bypasses of 10 s", "2",
	      "%d", klog_count("policy mended is bypassed for 10 s"));
	check_not_log("policy mended is bypassed for 20 s");
	check_killed(&hogs[BAIT]);
}

/* Three times in a row: who claims in vain every other time is asked on. */
static void bypass_means_in_a_row(void)
{
	struct policy policy = policy_open("probe", "now_and_then");
	bool alternates = true;
	struct hog hogs[HOGS];

	policy_set(&policy, "alternates", &alternates, 1);
	policy_set_u32(&policy, "verdict", 1);
	policy_load(&policy);
	policy_attach(&policy);
	start(hogs);
	ooms(hogs, 7);
	check_killed(&hogs[BAIT]);
	check(policy_u64(&policy, "nr_calls") >= 7, "calls of the policy", "7 or more", "%llu",
	      (unsigned long long)policy_u64(&policy, "nr_calls"));
	check_not_log("is bypassed");
}

/* Of the CPU that this scenario keeps busy. */
static void pin(pid_t pid)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(1, &one);
	require(!sched_setaffinity(pid, sizeof(one), &one), "a process stays on one CPU", "%s", strerror(errno));
}

/*
 * What counts is what a policy takes, not how long it waits for a CPU that others use. In a
 * machine where who runs in the kernel can be made to wait, see BOOT_ARGUMENTS.
 */
static void bypass_not_for_a_busy_host(void)
{
	struct policy policy = probe("waits", 0, 900);
	pid_t busy[4];
	struct hog hogs[HOGS];

	for (unsigned int i = 0; i < ARRAY_SIZE(busy); i++) {
		busy[i] = fork();
		if (!busy[i]) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			pin(0);
			for (;;)
				;
		}
	}
	start(hogs);
	sysctl_write("vm/bpf_oom_budget_ms", "500");
	for (int i = 0; i < 4; i++) {
		if (i)
			renew_both(hogs);
		pin(hogs[GROWER].pid);
		hog_order(&hogs[GROWER], 20 * MIB);
		require(wait_for(hog_filled(&hogs[GROWER]) || hog_reap(&hogs[GROWER])),
			"an OOM is solved", "it is not");
		keep_going();
	}
	sysctl_write("vm/bpf_oom_budget_ms", "1000");
	for (unsigned int i = 0; i < ARRAY_SIZE(busy); i++) {
		kill(busy[i], SIGKILL);
		waitpid(busy[i], NULL, 0);
	}
	check_killed(&hogs[BAIT]);
	check(policy_u64(&policy, "nr_calls") >= 4, "calls of the policy", "4 or more", "%llu",
	      (unsigned long long)policy_u64(&policy, "nr_calls"));
	check_not_log("is bypassed");
}

static void have_sys_admin(bool have)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	require(!syscall(SYS_capget, &header, data), "capabilities can be read", "%s", strerror(errno));
	if (have)
		data[0].effective |= 1U << CAP_SYS_ADMIN;
	else
		data[0].effective &= ~(1U << CAP_SYS_ADMIN);
	require(!syscall(SYS_capset, &header, data), "capabilities can be set", "%s", strerror(errno));
}

/* CAP_BPF can be handed to a container by a token; who decides about the whole host wants more. */
static void registering_wants_sys_admin(void)
{
	static const char * const objects[] = { "probe", "psi_probe" };

	for (unsigned int i = 0; i < ARRAY_SIZE(objects); i++) {
		struct policy policy = policy_open(objects[i], NULL);

		policy_load(&policy);
		have_sys_admin(false);
		check_int("registering without CAP_SYS_ADMIN (-EPERM)", -EPERM, policy_try_attach(&policy));
		have_sys_admin(true);
		check_int("registering with it", 0, policy_try_attach(&policy));
		policy_unload(&policy);
	}
}

/* What nobody holds by a link nobody can find, nor tell what became of it. */
static void registering_wants_a_link(void)
{
	static const char * const objects[] = { "probe", "psi_probe" };

	for (unsigned int i = 0; i < ARRAY_SIZE(objects); i++) {
		struct policy policy = policy_open(objects[i], NULL);

		bpf_map__set_map_flags(policy.map, bpf_map__map_flags(policy.map) & ~BPF_F_LINK);
		policy_load(&policy);
		check_int("registering without a link (-EOPNOTSUPP)", -EOPNOTSUPP, policy_try_attach(&policy));
		policy_unload(&policy);
	}
}

/* A program may run while it is unloaded: unloading waits for it. */
static void unloading_waits_for_handler(void)
{
	struct policy policy = probe("busy", 0, 1500);
	struct hog hogs[HOGS];
	uint64_t now;

	start(hogs);
	hog_order(&hogs[GROWER], 20 * MIB);
	require(wait_for(policy_u64(&policy, "called_ns")), "the policy is called", "it is not");
	check_int("the handler is running", 0, policy_u64(&policy, "left_ns"));
	bpf_link__destroy(policy.link);
	policy.link = NULL;
	now = now_ns();
	check(policy_u64(&policy, "left_ns") && policy_u64(&policy, "left_ns") <= now,
	      "it has returned when unloading does", "an earlier time", "%llu, now is %llu",
	      (unsigned long long)policy_u64(&policy, "left_ns"), (unsigned long long)now);
	check_killed(&hogs[BAIT]);
}

/* A sysctl that is about OOMs of the system: those of a memcg still reach the policies. */
static void sysctl_spares_memcg(const char *sysctl)
{
	struct policy policy = probe("asked", 0, 0);
	struct hog hogs[HOGS];

	sysctl_write(sysctl, "1");
	start(hogs);
	ooms(hogs, 1);
	sysctl_write(sysctl, "0");
	check_killed(&hogs[BAIT]);
	check(policy_u64(&policy, "nr_calls") > 0, "the policy was asked", "1 or more", "%llu",
	      (unsigned long long)policy_u64(&policy, "nr_calls"));
}

static void panic_on_oom_spares_memcg(void)
{
	sysctl_spares_memcg("vm/panic_on_oom");
}

static void allocating_task_spares_memcg(void)
{
	sysctl_spares_memcg("vm/oom_kill_allocating_task");
}

/* sysrq-f asks the policies, as an OOM of the system of order -1. */
static void sysrq_asks_policies(void)
{
	struct policy policy = probe("by_hand", 1, 0);
	struct hog victim = { .name = "victim", .cgroup = "t/victim" };
	struct hog other = { .name = "other", .cgroup = "t/other", .adj = 1000 };
	int32_t *targets = policy_data(&policy, "targets");

	cg_make("t/victim", false);
	cg_make("t/other", false);
	hog_start(&victim);
	hog_start(&other);
	require(hog_fill(&victim, 5 * MIB) && hog_fill(&other, 10 * MIB), "hogs fill", "they do not");
	targets[0] = victim.pid;
	proc_write("sysrq-trigger", "f");
	check_killed(&victim);
	check_alive(&other);
	check_int("the order of the OOM", -1, (int32_t)policy_u32(&policy, "order"));
	check_int("it is global", 1, policy_u32(&policy, "is_global"));
	check_log("oom_policy=by_hand");
}

static int count_dead(struct hog *hogs, int count)
{
	int dead = 0;

	while (count--)
		dead += hog_reap(&hogs[count]);
	return dead;
}

/*
 * The OOM of a memcg that is met with filesystem locks held, thus without __GFP_FS, asks
 * the policies; a global one is left to the allocator before anybody is asked. Making
 * directories on ext4 charges blocks that way.
 */
static void nofs_memcg_oom(void)
{
	struct policy seen = probe("seen", 0, 0), policy = policy_start("first_task", "nofs");
	struct hog maker = { .name = "maker", .cgroup = "t/scope", .adj = -1000, .dirs = "/mnt" };
	struct hog full[16];
	long long kills;
	int i;

	mkdir("/mnt", 0755);
	require(!mount("/dev/vda", "/mnt", "ext4", 0, NULL), "the disk can be mounted", "%s",
		strerror(errno));
	cg_make("t/scope", false);
	cg_set("t/scope", "memory.swap.max", 0);
	hog_start(&maker);
	for (i = 0; i < (int)ARRAY_SIZE(full); i++) {
		full[i] = (struct hog){ .name = "full", .cgroup = "t/scope" };
		hog_start(&full[i]);
		require(hog_fill(&full[i], MIB), "a hog fills", "it does not");
	}
	/* No room left, and nothing that could be reclaimed. */
	cg_set("t/scope", "memory.max", cg_value("t/scope", "memory.current") + 64 * 4096);
	/* Making a directory also allocates with __GFP_FS: which one meets the limit is by chance. */
	for (i = 0; i < 100 && !policy_u32(&seen, "nr_nofs"); i++)
		if (!check(hog_fill(&maker, 50), "the directories get made", "they do", "they do not"))
			break;
	kills = cg_field("t/scope", "memory.events", "oom_kill");
	check(kills > 0, "processes killed for them", "1 or more", "%lld", kills);
	wait_for(count_dead(full, ARRAY_SIZE(full)) >= kills);
	check_int("processes that died", kills, count_dead(full, ARRAY_SIZE(full)));
	check(policy_u32(&seen, "nr_nofs") > 0, "OOMs without __GFP_FS that asked the policies",
	      "1 or more", "%u of %llu", policy_u32(&seen, "nr_nofs"),
	      (unsigned long long)policy_u64(&seen, "nr_calls"));
	check_log("oom_policy=nofs");
	check_int("errors of the policy", 0, policy_u64(&policy, "nr_errors"));
	close(maker.order);
	wait_for(hog_reap(&maker));
	umount("/mnt");
}

/*
 * Make before break: the new policy is attached, then the old one goes. A witness looks at
 * each OOM meanwhile and finds none that nobody was asked about.
 */
static void storm_of_replacements(int rounds, bool gap)
{
	struct policy witness = tracer_open("witness");
	struct policy chain[2], next[2];
	struct spawner spawner = { .cgroup = "t/pool", .children = 3, .mib = 20 };
	uint32_t seen;
	int round;

	tracer_attach(&witness);
	cg_make("t/pool", false);
	cg_set("t/pool", "memory.max", 6 * MIB);
	cg_set("t/pool", "memory.swap.max", 0);
	for (int i = 0; i < 2; i++) {
		bool passes = i == 0;

		chain[i] = policy_open("first_task", i ? "killer" : "passer");
		policy_set(&chain[i], "passes", &passes, 1);
		map_share(&chain[i], &witness, "asked");
		policy_load(&chain[i]);
		policy_attach(&chain[i]);
	}
	spawner_start(&spawner);
	for (round = 0; round < rounds; round++) {
		/*
		 * Every other time the whole chain anew, as for a new order; otherwise its
		 * last policy alone.
		 */
		int from = round % 2;

		if (gap)
			for (int i = from; i < 2; i++)
				bpf_link__destroy(chain[i].link), chain[i].link = NULL;
		if (gap)
			pause_ms(20);
		for (int i = from; i < 2; i++) {
			bool passes = i == 0;

			next[i] = policy_open("first_task", i ? "killer" : "passer");
			policy_set(&next[i], "passes", &passes, 1);
			map_share(&next[i], &witness, "asked");
			policy_load(&next[i]);
			policy_attach(&next[i]);
		}
		for (int i = from; i < 2; i++) {
			policy_unload(&chain[i]);
			chain[i] = next[i];
		}
		seen = policy_u32(&witness, "nr_asked");
		keep_going();
		require(wait_for(policy_u32(&witness, "nr_asked") > seen + 1), "OOMs keep coming",
			"%u so far", seen);
		if (gap && policy_u32(&witness, "nr_missed"))
			break;
	}
	spawner_stop(&spawner);
	if (gap) {
		check(policy_u32(&witness, "nr_missed") > 0, "the witness notices a gap", "1 or more",
		      "%u", policy_u32(&witness, "nr_missed"));
	} else {
		check_int("OOMs that nobody was asked about", 0, policy_u32(&witness, "nr_missed"));
		check(policy_u32(&witness, "nr_asked") > 2u * rounds, "OOMs that a policy was asked about",
		      "more than two a round", "%u", policy_u32(&witness, "nr_asked"));
	}
	note("%d %s, %u OOMs, %u asked about, %u met an earlier victim or room, %u with nobody asked, %llu deaths",
	     round, gap ? "replacements with a gap" : "replacements", policy_u32(&witness, "nr_ooms"),
	     policy_u32(&witness, "nr_asked"), policy_u32(&witness, "nr_waited"),
	     policy_u32(&witness, "nr_missed"), (unsigned long long)spawner_deaths(&spawner));
}

static void replacing_leaves_no_gap(void)
{
	/* A kernel with its own checks on takes several seconds for each. */
	storm_of_replacements(200 / slowness(), false);
}

/* The same the other way round, so that the scenario above can fail. */
static void replacing_witness_sees_gap(void)
{
	storm_of_replacements(100, true);
}

/* A group is killed as one, and each of its tasks counts once. */
static void group_kill_counts_once(void)
{
	struct policy policy = policy_start("first_task", "group");
	struct hog hogs[] = {
		{ .name = "group1", .cgroup = "t/group" }, { .name = "group2", .cgroup = "t/group" },
		{ .name = "group3", .cgroup = "t/group" },
	};

	cg_make("t/group", false);
	cg_write("t/group", "memory.oom.group", "1");
	cg_set("t/group", "memory.max", 30 * MIB);
	cg_set("t/group", "memory.swap.max", 0);
	for (int i = 0; i < 3; i++)
		hog_start(&hogs[i]);
	require(hog_fill(&hogs[1], 8 * MIB) && hog_fill(&hogs[2], 8 * MIB), "hogs fill", "they do not");
	/* The policy takes the first, which runs into the OOM itself: it cannot be gone before the others. */
	hog_order(&hogs[0], 30 * MIB);
	for (int i = 0; i < 3; i++)
		check_killed(&hogs[i]);
	check_int("oom_kill of the group", 3, cg_field("t/group", "memory.events.local", "oom_kill"));
	check_int("oom_group_kill of the group", 1,
		  cg_field("t/group", "memory.events.local", "oom_group_kill"));
	check_int("errors of the policy", 0, policy_u64(&policy, "nr_errors"));
}

/* The series' own selftest, as somebody runs it who has built it in the tree. */
static void selftest_of_the_series(void)
{
	char text[8192] = "", *end;
	int output[2], status;
	size_t used = 0;
	ssize_t got;
	pid_t pid;

	require(!pipe2(output, O_CLOEXEC), "a pipe can be made", "%s", strerror(errno));
	pid = fork();
	if (!pid) {
		dup2(output[1], STDOUT_FILENO);
		dup2(output[1], STDERR_FILENO);
		if (!chdir("/selftest"))
			execl("./bpf_oom", "bpf_oom", NULL);
		_exit(127);
	}
	close(output[1]);
	while ((got = read(output[0], text + used, sizeof(text) - 1 - used)) > 0) {
		used += got;
		keep_going();
	}
	require(pid > 0 && waitpid(pid, &status, 0) == pid, "it ends", "it does not");
	end = used > 700 ? text + used - 700 : text;
	check(!status && strstr(text, "pass:2 fail:0 xfail:0 xpass:0 skip:0 error:0"), "its two tests pass", "status 0",
	      "status 0x%x, %s", status, end);
}

const struct scenario rule_scenarios[] = {
	{ "bypass_false_claims", "common", bypass_false_claims },
	{ "bypass_slow_policy", "common", bypass_slow_policy },
	{ "bypass_lasts_longer_each_time", "common", bypass_lasts_longer_each_time },
	{ "bypass_begins_anew_after_progress", "common", bypass_begins_anew_after_progress },
	{ "bypass_means_in_a_row", "common", bypass_means_in_a_row },
	{ "bypass_not_for_a_busy_host", "swapoff", bypass_not_for_a_busy_host },
	{ "registering_wants_sys_admin", "common", registering_wants_sys_admin },
	{ "registering_wants_a_link", "common", registering_wants_a_link },
	{ "unloading_waits_for_handler", "common", unloading_waits_for_handler },
	{ "panic_on_oom_spares_memcg", "common", panic_on_oom_spares_memcg },
	{ "allocating_task_spares_memcg", "common", allocating_task_spares_memcg },
	{ "sysrq_asks_policies", "common", sysrq_asks_policies },
	{ "nofs_memcg_oom", "common", nofs_memcg_oom },
	{ "group_kill_counts_once", "common", group_kill_counts_once },
	{ "selftest_of_the_series", "common", selftest_of_the_series },
	{ "replacing_leaves_no_gap", "storm", replacing_leaves_no_gap },
	{ "replacing_witness_sees_gap", "storm", replacing_witness_sees_gap },
	{ }
};
