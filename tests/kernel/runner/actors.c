// SPDX-License-Identifier: GPL-2.0-or-later
/* Processes of every kind, and an OOM among them. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "actors.h"
#include "decision.h"

/* ---- processes of every kind: `act KIND NAME ADJ CGROUP UID MIB` */

void put_file(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		_exit(21);
	close(fd);
}

static void touch(char *memory, uint64_t bytes)
{
	if (memory == MAP_FAILED)
		_exit(22);
	for (uint64_t at = 0; at < bytes; at += 4096)
		memory[at] = 1;
}

void *anonymous(uint64_t bytes)
{
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	touch(memory, bytes);
	return memory;
}

static uint64_t act_bytes;

static void ready(void)
{
	if (write(1, "rf", 2) != 2)
		_exit(23);
}

static void *fill_in_thread(void *arg)
{
	(void)arg;
	pause_ms(200);	/* the leader ends meanwhile */
	anonymous(act_bytes);
	ready();
	for (;;)
		pause();
	return NULL;
}

static void *fill_elsewhere(void *arg)
{
	(void)arg;
	pause_ms(200);	/* the leader ends meanwhile */
	put_file(CGROUPS "t/b/cgroup.procs", "0");
	anonymous(act_bytes);
	ready();
	for (;;)
		pause();
	return NULL;
}

static void *only_pause(void *arg)
{
	(void)arg;
	for (;;)
		pause();
	return NULL;
}

static int clone_vm_main(void *arg)
{
	(void)arg;
	put_file(CGROUPS "t/b/cgroup.procs", "0");
	prctl(PR_SET_NAME, "worker");
	ready();
	for (;;)
		pause();
	return 0;
}

/* `act crowd NAME ADJ PARENT COUNT PAGES PER` */
static int crowd_main(char **argv)
{
	const char *name = argv[3], *parent = argv[5];
	int count = atoi(argv[6]), pages = atoi(argv[7]), per = atoi(argv[8]), i, j, fd;
	char path[300];

	put_file("/proc/self/oom_score_adj", argv[4]);
	prctl(PR_SET_NAME, "crowd");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (i = 0; i < count; i++) {
		snprintf(path, sizeof(path), CGROUPS "%s/%s-%d", parent, name, i);
		if (mkdir(path, 0755))
			return 1;
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		for (j = 0; j < per; j++) {
			struct clone_args args = { .flags = CLONE_INTO_CGROUP, .cgroup = fd, .exit_signal = SIGCHLD };
			pid_t pid = syscall(SYS_clone3, &args, sizeof(args));

			if (pid < 0)
				return 1;
			if (!pid) {
				prctl(PR_SET_NAME, name);
				if (pages)
					anonymous(pages * 4096ULL);
				for (;;)
					pause();
			}
			if (j % 100 == 99 && write(1, "m", 1) != 1)
				return 1;
		}
		close(fd);
		if (i % 100 == 99 && write(1, "m", 1) != 1)
			return 1;
	}
	pause_ms(1000);
	if (write(1, "f", 1) != 1)
		return 1;
	for (;;)
		waitpid(-1, NULL, 0);
}

int actor_main(int argc, char **argv)
{
	const char *kind = argv[2];
	pthread_attr_t attr;
	char path[4200];
	pthread_t thread;
	int uid, fd, i;

	if (argc < 8)
		return 1;
	if (!strcmp(kind, "crowd"))
		return crowd_main(argv);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 * 1024);
	put_file("/proc/self/oom_score_adj", argv[4]);
	snprintf(path, sizeof(path), CGROUPS "%s/cgroup.procs", argv[5]);
	put_file(path, "0");
	prctl(PR_SET_NAME, argv[3]);
	uid = atoi(argv[6]);
	if (uid && setuid(uid))
		return 1;
	act_bytes = atoll(argv[7]) * MIB;
	if (!strcmp(kind, "anon")) {
		anonymous(act_bytes);
	} else if (!strcmp(kind, "mlock")) {
		if (mlock(anonymous(act_bytes), act_bytes))
			return 1;
	} else if (!strcmp(kind, "memfd") || !strcmp(kind, "memfd_write") || !strcmp(kind, "tmpfs_stays")) {
		fd = strcmp(kind, "tmpfs_stays") ? (int)syscall(SYS_memfd_create, "x", 0) :
			open("/tmp/stays", O_RDWR | O_CREAT, 0600);
		if (fd < 0 || ftruncate(fd, act_bytes))
			return 1;
		if (!strcmp(kind, "memfd_write")) {
			static char page[4096] = "x";

			for (uint64_t at = 0; at < act_bytes; at += 4096)
				if (pwrite(fd, page, 4096, at) != 4096)
					return 1;
		} else {
			touch(mmap(NULL, act_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), act_bytes);
		}
	} else if (!strcmp(kind, "shmanon")) {
		touch(mmap(NULL, act_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), act_bytes);
	} else if (!strcmp(kind, "zombie_leader")) {
		pthread_create(&thread, &attr, fill_in_thread, NULL);
		/* pthread_exit() wants a library that is loaded then. */
		syscall(SYS_exit, 0);
	} else if (!strcmp(kind, "zombie_leader_moves")) {
		/* What is left of it goes to t/b and fills there. */
		pthread_create(&thread, &attr, fill_elsewhere, NULL);
		syscall(SYS_exit, 0);
	} else if (!strcmp(kind, "forks")) {
		/* A child with the same pages as long as nobody writes to them. */
		anonymous(act_bytes);
		if (!fork()) {
			prctl(PR_SET_PDEATHSIG, 0);
			ready();
			for (;;)
				pause();
		}
		for (;;)
			pause();
	} else if (!strcmp(kind, "family")) {
		/* Four processes of one name, and all touch the same memory. */
		char *memory = mmap(NULL, act_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

		for (i = 0; i < 3; i++)
			if (!fork()) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				touch(memory, act_bytes);
				for (;;)
					pause();
			}
		touch(memory, act_bytes);
		pause_ms(500);
	} else if (!strcmp(kind, "threads")) {
		for (i = 0; i < 400; i++)
			if (pthread_create(&thread, &attr, only_pause, NULL))
				break;
		anonymous(act_bytes);
	} else if (!strcmp(kind, "login")) {
		/* As sshd has it: root's process, and a child of the same program that is the user's. */
		pid_t child = fork();

		if (!child) {
			if (setuid(1000))
				_exit(1);
			anonymous(act_bytes);
			ready();
			for (;;)
				pause();
		}
		waitpid(child, NULL, 0);
		return 1;
	} else if (!strcmp(kind, "container")) {
		/* Root, but in a pid namespace of its own. */
		pid_t child;

		if (unshare(CLONE_NEWPID))
			return 1;
		prctl(PR_SET_NAME, "shim");
		child = fork();
		if (!child) {
			prctl(PR_SET_NAME, argv[3]);
			anonymous(act_bytes);
			ready();
			for (;;)
				pause();
		}
		waitpid(child, NULL, 0);
		return 1;
	} else if (!strcmp(kind, "leaves_tmpfs")) {
		/* The file stays when the process has gone. */
		fd = open("/tmp/left", O_RDWR | O_CREAT, 0600);
		if (fd < 0 || ftruncate(fd, act_bytes))
			return 1;
		touch(mmap(NULL, act_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), act_bytes);
		ready();
		return 0;
	} else if (!strcmp(kind, "vfork")) {
		/* the parent is in D until the child, which uses its memory, ends */
		static char *memory;

		memory = anonymous(act_bytes);
		if (!vfork()) {
			ready();
			for (;;)
				pause();
		}
		(void)memory;
	} else if (!strcmp(kind, "bomb")) {
		/* children that come and go, each with a bit of memory */
		anonymous(act_bytes);
		ready();
		for (i = 0;; i++) {
			pid_t pid = fork();

			if (!pid) {
				anonymous(MIB / 4);
				usleep(20000);
				_exit(0);
			}
			while (waitpid(-1, NULL, WNOHANG) > 0)
				;
		}
	} else if (!strcmp(kind, "dstate")) {
		/* in D, as the file system is frozen */
		anonymous(act_bytes);
		fd = open("/mnt/file", O_RDWR);
		if (fd < 0)
			return 1;
		ready();
		if (write(fd, "x", 1) != 1)
			return 1;
	} else if (!strcmp(kind, "clone_vm")) {
		/* a second process, of another name and in another cgroup, with the same memory */
		static char stack[65536] __attribute__((aligned(16)));

		anonymous(act_bytes);
		if (clone(clone_vm_main, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL) < 0)
			return 1;
		for (;;)
			pause();
	} else {
		return 1;
	}
	ready();
	for (;;)
		pause();
}

void crowd(const char *name, const char *parent, int count, int pages, int per, int adj)
{
	int done[2];
	char adj_text[16], count_text[16], pages_text[16], per_text[16], byte;
	pid_t pid;

	require(!pipe2(done, O_CLOEXEC), "a pipe", "none");
	snprintf(adj_text, sizeof(adj_text), "%d", adj);
	snprintf(count_text, sizeof(count_text), "%d", count);
	snprintf(pages_text, sizeof(pages_text), "%d", pages);
	snprintf(per_text, sizeof(per_text), "%d", per);
	pid = fork();
	if (!pid) {
		dup2(done[1], 1);
		execl("/proc/self/exe", "act", "act", "crowd", name, adj_text, parent, count_text, pages_text, per_text, NULL);
		_exit(1);
	}
	close(done[1]);
	for (;;) {
		struct pollfd fd = { .fd = done[0], .events = POLLIN };

		keep_going();
		require(poll(&fd, 1, 60000) == 1 && read(done[0], &byte, 1) == 1, "a crowd comes", "%s does not", name);
		if (byte == 'f')
			break;
	}
	close(done[0]);
}

void actor_start(struct hog *hog, const char *kind, int uid, int mib)
{
	int done[2], order[2];
	char adj[16], user[16], size[16], got[2];
	struct pollfd fd;

	require(!pipe2(done, O_CLOEXEC) && !pipe2(order, O_CLOEXEC), "a pipe can be made", "%s", strerror(errno));
	snprintf(adj, sizeof(adj), "%d", hog->adj);
	snprintf(user, sizeof(user), "%d", uid);
	snprintf(size, sizeof(size), "%d", mib);
	hog->pid = fork();
	if (!hog->pid) {
		dup2(order[0], 0);
		dup2(done[1], 1);
		execl("/proc/self/exe", "act", "act", kind, hog->name, adj, hog->cgroup, user, size, NULL);
		_exit(1);
	}
	close(order[0]);
	close(done[1]);
	hog->order = order[1];
	hog->done = done[0];
	hog->dead = false;
	fd = (struct pollfd){ .fd = hog->done, .events = POLLIN };
	require(poll(&fd, 1, 60000) == 1 && read(hog->done, got, 2) == 2, "an actor fills", "%s (%s) does not",
		hog->name, kind);
	hog->filled = true;
}

/* ---- */

static const char * const defaults[] = {
	"protect+/init.scope", "protect+name:sshd", "protect+name:sshd-session", "protect+name:dropbear",
	"protect+/system.slice/systemd-journald.service", "protect+/system.slice/systemd-logind.service",
	"protect+/system.slice/systemd-udevd.service", "protect+/system.slice/dbus.service",
	"protect+/system.slice/dbus-broker.service", "protect+own:/system.slice/containerd.service",
	"protect+own:/system.slice/docker.service", "protect+own:/system.slice/crio.service",
	"protect+own:/system.slice/kubelet.service", "protect+own:/system.slice/k3s.service",
	"protect+/system.slice/bpf-oom-kill-log.service", NULL,
};

struct policy start(const char *object, const char *name, const char * const *words, bool with_defaults)
{
	struct policy policy = policy_open(object, name);

	if (with_defaults)
		policy_settings(&policy, defaults);
	policy_settings(&policy, words);
	policy_load(&policy);
	policy_attach(&policy);
	return policy;
}

void limit(void)
{
	cg_set("t", "memory.swap.max", 0);
	cg_set("t", "memory.max", cg_value("t", "memory.current") + MIB);
}

struct hog grower = { .name = "grower", .cgroup = "t/grower", .adj = -1000 };

void provoke(void)
{
	cg_make("t/grower", false);
	hog_start(&grower);
	hog_order(&grower, 4 * MIB);
}

void provoke_all(void)
{
	cg_make("t/grower", false);
	hog_start(&grower);
	hog_order(&grower, meminfo_kib("MemAvailable") * 1024 + 24 * MIB);
}

/* What the policy decided and who died, into the notes. */
void tell(struct policy *policy, struct hog *hogs, int count)
{
	static const char * const outcomes[] = {
		"?", "killed", "observed", "no_victim", "cooldown", "declared", "nobody_died", "recorded", "spared", "failed",
	};
	uint64_t seq, last = policy ? policy_u64(policy, "nr_decisions") : 0;
	struct decision decision;
	char text[280] = "";
	size_t at = 0;
	int i;

	pause_ms(300);
	for (i = 0; i < count && at < sizeof(text) - 40; i++)
		at += snprintf(text + at, sizeof(text) - at, "%s=%s ", hogs[i].name, hog_alive(&hogs[i]) ? "lives" : "DEAD");
	note("%s| killed lines %d", text, klog_count("Killed process"));
	for (seq = last > 4 ? last - 3 : 1; seq <= last; seq++) {
		if (!policy_decision(policy, seq, &decision))
			continue;
		note("decision %llu/%llu %s trigger %u considered %u protected %u unkillable %u killed %u died %u %.3f ms ranked0 %s score %lld usage %lld verdict %u; died0 %s in %s",
		     (unsigned long long)seq, (unsigned long long)last, outcomes[decision.outcome % 10], decision.trigger,
		     decision.nr_considered, decision.nr_protected, decision.nr_unkillable, decision.nr_killed,
		     decision.nr_died, decision.spent_ns / 1e6, decision.ranked[0].path,
		     (long long)decision.ranked[0].who.score, (long long)decision.ranked[0].who.usage,
		     decision.ranked[0].who.verdict, decision.died[0].comm, decision.died[0].path);
	}
}

/* They fill all that there is, then one that cannot die wants more. */
void oom_among(struct policy *policy, struct hog *hogs, int count)
{
	limit();
	provoke();
	check(wait_for(hog_filled(&grower)), "the grower gets its memory", "it does", "it does not");
	tell(policy, hogs, count);
}

/* The policy killed, and not the kernel. */
void check_killed_somewhere(struct policy *policy)
{
	check(policy_u64(policy, "nr_kills") > 0, "kills of the policy", "1 or more", "none");
}
