/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the scenarios of the kernel tier are made of: checks, cgroups, hogs (processes
 * that use memory when told), the kernel log and BPF policies.
 *
 * Every scenario runs in a process of its own, unkillable by OOM. It states what it
 * expects with check_*(); require_*() also ends it when there is no point in going on.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <bpf/libbpf.h>

#define MIB	(1024 * 1024ULL)
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

/*
 * How long to wait for what should take moments: emulated machines are slow, kernels with
 * their own checks on are slower, by a factor that the kernel command line says: slow=N.
 */
#define LIMIT_MS	(20000 * slowness())
unsigned int slowness(void);

struct scenario {
	const char *name;
	const char *boot;	/* scenarios that share a boot */
	void (*run)(void);
};

extern const struct scenario oom_scenarios[];
extern const struct scenario chain_scenarios[];
extern const struct scenario rule_scenarios[];
extern const struct scenario fault_scenarios[];
extern const struct scenario psi_scenarios[];
extern const struct scenario global_scenarios[];
extern const struct scenario policy_scenarios[];
extern const struct scenario tree_scenarios[];
extern const struct scenario storm_scenarios[];
extern const struct scenario module_scenarios[];
extern const struct scenario bench_scenarios[];
extern const struct scenario victim_scenarios[];
extern const struct scenario hiding_scenarios[];
extern const struct scenario case_scenarios[];
extern const struct scenario condition_scenarios[];
int actor_main(int argc, char **argv);

/* Checks: `what` reads as a statement, expected and actual go into the report. */
#define __printf(a, b)	__attribute__((format(printf, a, b)))
__printf(4, 5) bool check(bool ok, const char *what, const char *expected, const char *actual, ...);
bool check_int(const char *what, long long expected, long long actual);
__printf(3, 4) void require(bool ok, const char *what, const char *actual, ...);
__printf(1, 2) void note(const char *text, ...);
/* The condition first: what the text says of errno is about it. */
#define check(ok, ...)		({ bool __ok = (ok); (check)(__ok, __VA_ARGS__); })
#define require(ok, ...)	({ bool __ok = (ok); (require)(__ok, __VA_ARGS__); })

/* A long scenario that sees progress says so, and is not taken for a hanging one. */
void keep_going(void);

uint64_t now_ms(void);
uint64_t now_ns(void);
void pause_ms(unsigned int ms);

/* Wait for a condition; its value at the end. */
#define wait_for_ms(condition, limit)					\
({									\
	uint64_t __end = now_ms() + (limit);				\
	bool __ok;							\
	while (!(__ok = (condition)) && now_ms() < __end)		\
		pause_ms(2);						\
	__ok;								\
})
#define wait_for(condition)	wait_for_ms(condition, LIMIT_MS)

/* Cgroups, by path below /sys/fs/cgroup. Scenarios make theirs below "t". */
void cg_make(const char *path, bool controllers);
bool cg_remove(const char *path);
void cg_remove_tree(const char *path);
void cg_write(const char *path, const char *file, const char *value);
void cg_set(const char *path, const char *file, long long value);
long long cg_field(const char *path, const char *file, const char *field);
long long cg_value(const char *path, const char *file);
uint64_t cg_id(const char *path);
void cg_freeze(const char *path, bool frozen);
void cg_join(const char *path, pid_t pid);

long long vmstat(const char *field);
long long meminfo_kib(const char *field);
void proc_write(const char *file, const char *value);	/* below /proc */
void sysctl_write(const char *file, const char *value);	/* below /proc/sys */
int count_threads(const char *comm);
int count_struct_ops(void);
bool has_module(void);		/* the interface is that of the module for stock kernels */

/*
 * Nobody can open or close a named pipe any more: a writer of ours holds its lock, in a page
 * fault that is not served until the pipe is let go.
 */
void pipe_hold(const char *path);
void pipe_let_go(void);

/* Hogs. */
struct hog {
	const char *name;
	const char *cgroup;
	int adj;
	bool file;		/* fill tmpfs instead of anonymous memory */
	bool disk;		/* fill page cache of a file on a disk, and lock it */
	const char *pipe;	/* made, and open around that file, so closed before it */
	const char *dirs;	/* an order is a number of directories to make there */
	pid_t pid;
	int order, done;	/* pipes */
	bool filled, dead;
	int status;
};

#define DISK	"/disk"
#define SWAP_MIB	16

void disk_mount(void);		/* the machine's disk there, unless it is */
void disk_swap_on(int mib);	/* ... as swap */
void hog_start(struct hog *hog);
void hog_order(struct hog *hog, uint64_t bytes);	/* and do not wait */
bool hog_fill(struct hog *hog, uint64_t bytes);		/* false when it died or hangs */
bool hog_filled(struct hog *hog);
bool hog_alive(struct hog *hog);
bool hog_reap(struct hog *hog);				/* true once dead */
struct hog *first_dead(struct hog *hogs, int count);	/* by the kernel log's order */
int hog_main(int argc, char **argv);

/*
 * A spawner keeps a number of children in a cgroup that all want more memory than there
 * is, and replaces each that dies.
 */
struct spawner {
	const char *cgroup;
	int children;
	int mib;
	bool churn;		/* each child in a cgroup of its own, made and removed with it */
	pid_t pid;
	struct spawned *shared;
};

void spawner_start(struct spawner *spawner);
void spawner_stop(struct spawner *spawner);
uint64_t spawner_deaths(struct spawner *spawner);	/* by SIGKILL */
uint64_t spawner_odd(struct spawner *spawner);		/* any other end, or no cgroup */
int spawner_main(int argc, char **argv);

/* Check that the hog was killed as an OOM victim, by all signals we have. */
void check_killed(struct hog *hog);
void check_alive(struct hog *hog);

/* The kernel log since the scenario began. */
const char *klog(void);
bool klog_has(const char *text);
int klog_count(const char *text);
void check_log(const char *text);
/* In the kernel's report, or in the line of the module that stands for it. */
void check_constraint(const char *constraint);
void check_not_log(const char *text);

/* BPF policies. */
#define MAX_TRACERS	4

struct policy {
	struct bpf_object *object;
	struct bpf_map *map;
	struct bpf_link *link;
	struct bpf_link *tracers[MAX_TRACERS];	/* of the record of victims */
};

struct policy policy_open(const char *object, const char *name);
void policy_set(struct policy *policy, const char *variable, const void *value, size_t size);
void policy_set_u32(struct policy *policy, const char *variable, uint32_t value);
void policy_set_u64(struct policy *policy, const char *variable, uint64_t value);
/* One more selector of a list: "/glob", "name:glob" or "uid:number". */
void policy_select(struct policy *policy, const char *list, const char *text);
void policy_select_weight(struct policy *policy, const char *list, const char *text, int weight);
/* A word each: "knob=number" (min_usage in MiB), "list+selector", "list+selector=weight"; NULL ends. */
void policy_settings(struct policy *policy, const char * const *words);
void kernel_numbers_find(void);
void policy_load(struct policy *policy);
int policy_try_attach(struct policy *policy);
void policy_attach(struct policy *policy);
struct policy policy_start(const char *object, const char *name);
void policy_detach(struct policy *policy);
void policy_unload(struct policy *policy);
uint32_t policy_registered(struct policy *policy);	/* the id of its link's map, 0: detached */
struct policy tracer_open(const char *object);		/* loaded, not attached */
void tracer_attach(struct policy *tracer);
void map_share(struct policy *policy, struct policy *owner, const char *map);
void *policy_data(struct policy *policy, const char *variable);
uint32_t policy_u32(struct policy *policy, const char *variable);
uint64_t policy_u64(struct policy *policy, const char *variable);

/* What a policy decided; false when there is no such decision. The newest has the last seq. */
struct decision;
bool policy_decision(struct policy *policy, uint64_t seq, struct decision *decision);
/* Whether a psi policy says that it watches a cgroup. */
bool policy_watches(struct policy *policy, const char *cgroup);

/* All that libbpf said, with the verifier's log. */
extern char libbpf_log[];
void libbpf_log_start(void);

/* harness.c's part of init. */
void harness_init(void);
bool run_scenario(const struct scenario *scenario);

#endif /* HARNESS_H */
