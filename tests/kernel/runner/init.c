// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Init of the test machine: mounts what is needed, runs the scenarios of the boot that
 * the kernel command line names (`boot=NAME`, or `scenarios=NAME,NAME`), reboots.
 * `runner --list` prints all scenarios with their boots.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"

static const struct scenario * const all[] = {
	oom_scenarios, chain_scenarios, rule_scenarios, fault_scenarios, psi_scenarios,
	global_scenarios, policy_scenarios, victim_scenarios, hiding_scenarios, case_scenarios, tree_scenarios,
	storm_scenarios, module_scenarios, bench_scenarios, condition_scenarios,
};

static void put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		printf("kernel-tier: cannot write %s\n", path);
	close(fd);
}

/* A kernel of a distribution has drivers, file systems and our interface as modules. */
static void load_modules(void)
{
	char name[64], path[96];
	FILE *order;
	int fd;

	order = fopen("/modules/order", "re");
	if (!order)
		return;
	while (fscanf(order, "%63s", name) == 1) {
		snprintf(path, sizeof(path), "/modules/%s", name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
			printf("kernel-tier: cannot load %s: %s\n", name, strerror(errno));
		close(fd);
	}
	fclose(order);
}

/* The same release may have been built twice. */
static void say_build_id(void)
{
	struct {
		unsigned int name_size, size, type;
		char name[4];
	} note;
	FILE *notes = fopen("/sys/kernel/notes", "re");
	unsigned int i;
	int byte;

	while (notes && fread(&note, sizeof(note), 1, notes) == 1) {
		if (note.type != 3 || memcmp(note.name, "GNU", 4)) {	/* NT_GNU_BUILD_ID */
			fseek(notes, ((note.name_size + 3) & ~3U) - 4 + ((note.size + 3) & ~3U), SEEK_CUR);
			continue;
		}
		printf("kernel-tier: build id ");
		for (i = 0; i < note.size && (byte = fgetc(notes)) != EOF; i++)
			printf("%02x", byte);
		printf("\n");
		break;
	}
	if (notes)
		fclose(notes);
}

static void prepare(void)
{
	static const struct {
		const char *type, *at;
	} mounts[] = {
		{ "devtmpfs", "/dev" }, { "proc", "/proc" }, { "sysfs", "/sys" },
		{ "cgroup2", "/sys/fs/cgroup" }, { "tracefs", "/sys/kernel/tracing" },
		{ "tmpfs", "/tmp" },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(mounts); i++) {
		mkdir(mounts[i].at, 0755);
		if (mount(mounts[i].type, mounts[i].at, mounts[i].type, 0, NULL))
			printf("kernel-tier: cannot mount %s\n", mounts[i].at);
	}
	say_build_id();
	load_modules();
	kernel_numbers_find();
	put("/proc/sys/kernel/printk_devkmsg", "on\n");
	put("/proc/sys/kernel/hung_task_timeout_secs", "30");
	put("/proc/sys/vm/overcommit_memory", "1");
	put("/proc/sys/kernel/pid_max", "32768");
	put("/sys/kernel/tracing/events/oom/mark_victim/enable", "1");
	put("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
}

static bool listed(const char *names, const char *name)
{
	size_t length = strlen(name);
	const char *at;

	for (at = names; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
		if (!strncmp(at, name, length) && (!at[length] || at[length] == ','))
			return true;
	}
	return false;
}

int main(int argc, char **argv)
{
	const char *boot = getenv("boot"), *names = getenv("scenarios");
	const struct scenario *scenario;
	unsigned int i;

	if (argc > 1 && !strcmp(argv[1], "hog"))
		return hog_main(argc, argv);
	if (argc > 1 && !strcmp(argv[1], "act"))
		return actor_main(argc, argv);
	if (argc > 1 && !strcmp(argv[1], "spawn"))
		return spawner_main(argc, argv);
	if (argc > 1 && !strcmp(argv[1], "--list")) {
		for (i = 0; i < ARRAY_SIZE(all); i++)
			for (scenario = all[i]; scenario->name; scenario++)
				printf("%s %s\n", scenario->name, scenario->boot);
		return 0;
	}

	prepare();
	for (i = 0; i < ARRAY_SIZE(all); i++)
		for (scenario = all[i]; scenario->name; scenario++)
			if (names ? listed(names, scenario->name) :
				    boot && !strcmp(boot, scenario->boot))
				run_scenario(scenario);
	sync();
	reboot(RB_AUTOBOOT);
	return 1;
}
