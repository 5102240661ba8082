// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>

#include "decision.h"
#include "harness.h"

#define CGROUPS	"/sys/fs/cgroup"
#define TRACE	"/sys/kernel/tracing/trace"

/* Files */

static bool write_file(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, value, strlen(value)) == (ssize_t)strlen(value);
	close(fd);
	return ok;
}

static char *read_file(const char *path, char *buffer, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t got;

	buffer[0] = 0;
	if (fd < 0)
		return NULL;
	while (used < size - 1 && (got = read(fd, buffer + used, size - 1 - used)) > 0)
		used += got;
	buffer[used] = 0;
	close(fd);
	return buffer;
}

/* The number behind `field` in a file of "field number" lines, -1 when missing. */
static long long field_of(const char *path, const char *field)
{
	char text[8192], *line, *save;
	size_t length = strlen(field);

	read_file(path, text, sizeof(text));
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (!strncmp(line, field, length) && line[length] == ' ')
			return atoll(line + length);
	}
	return -1;
}

long long vmstat(const char *field)
{
	return field_of("/proc/vmstat", field);
}

/* "Field:   number kB" */
long long meminfo_kib(const char *field)
{
	char with_colon[64];

	snprintf(with_colon, sizeof(with_colon), "%s:", field);
	return field_of("/proc/meminfo", with_colon);
}

void proc_write(const char *file, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), "/proc/%s", file);
	require(write_file(path, value), "a file of /proc can be written", "%s < %s: %s", path, value,
		strerror(errno));
}

void sysctl_write(const char *file, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), "sys/%s", file);
	proc_write(path, value);
}

int count_threads(const char *comm)
{
	DIR *dir = opendir("/proc");
	char path[300], text[64];
	struct dirent *entry;
	int found = 0;

	while ((entry = readdir(dir))) {
		if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		if (read_file(path, text, sizeof(text)) && !strncmp(text, comm, strlen(comm)))
			found++;
	}
	closedir(dir);
	return found;
}

int count_struct_ops(void)
{
	struct bpf_map_info info;
	__u32 id = 0, size;
	int found = 0, fd;

	while (!bpf_map_get_next_id(id, &id)) {
		fd = bpf_map_get_fd_by_id(id);
		if (fd < 0)
			continue;
		memset(&info, 0, sizeof(info));
		size = sizeof(info);
		if (!bpf_map_get_info_by_fd(fd, &info, &size))
			found += info.type == BPF_MAP_TYPE_STRUCT_OPS;
		close(fd);
	}
	return found;
}

/* Cgroups */

static const char *cg_path(const char *path, const char *file)
{
	static char full[2][512];
	static int turn;

	turn ^= 1;
	snprintf(full[turn], sizeof(full[turn]), CGROUPS "/%s%s%s", path, *file ? "/" : "", file);
	return full[turn];
}

void cg_make(const char *path, bool controllers)
{
	require(!mkdir(cg_path(path, ""), 0755), "a cgroup can be made", "%s: %s", path,
		strerror(errno));
	if (controllers)
		cg_write(path, "cgroup.subtree_control", "+memory");
}

bool cg_remove(const char *path)
{
	return wait_for(!rmdir(cg_path(path, "")) || errno == ENOENT);
}

void cg_remove_tree(const char *path)
{
	char below[300];
	struct dirent *entry;
	DIR *dir;

	write_file(cg_path(path, "cgroup.kill"), "1");
	write_file(cg_path(path, "cgroup.freeze"), "0");
	dir = opendir(cg_path(path, ""));
	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		snprintf(below, sizeof(below), "%s/%s", path, entry->d_name);
		cg_remove_tree(below);
	}
	closedir(dir);
	wait_for((waitpid(-1, NULL, WNOHANG), !rmdir(cg_path(path, ""))));
}

void cg_write(const char *path, const char *file, const char *value)
{
	require(write_file(cg_path(path, file), value), "a cgroup file can be written",
		"%s < %s: %s", cg_path(path, file), value, strerror(errno));
}

void cg_set(const char *path, const char *file, long long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%lld", value);
	cg_write(path, file, text);
}

long long cg_field(const char *path, const char *file, const char *field)
{
	return field_of(cg_path(path, file), field);
}

long long cg_value(const char *path, const char *file)
{
	char text[64];

	return read_file(cg_path(path, file), text, sizeof(text)) ? atoll(text) : -1;
}

uint64_t cg_id(const char *path)
{
	struct stat st;

	require(!stat(cg_path(path, ""), &st), "a cgroup exists", "%s", path);
	return st.st_ino;
}

void cg_freeze(const char *path, bool frozen)
{
	cg_set(path, "cgroup.freeze", frozen);
	require(wait_for(cg_field(path, "cgroup.events", "frozen") == frozen),
		frozen ? "a cgroup freezes" : "a cgroup thaws", "%s does not", path);
}

void cg_join(const char *path, pid_t pid)
{
	cg_set(path, "cgroup.procs", pid);
}

/* Held pipes */

static struct {
	pthread_t writer;
	int pipe, faults;
	char *page;
} held;

static void *write_pipe(void *arg)
{
	(void)arg;
	return (void *)write(held.pipe, held.page, 1);
}

void pipe_hold(const char *path)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct pollfd fault;

	held.pipe = open(path, O_RDWR | O_CLOEXEC);
	held.faults = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	held.page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	range.range.start = (uintptr_t)held.page;
	range.range.len = 4096;
	require(held.pipe >= 0 && held.faults >= 0 && held.page != MAP_FAILED &&
		!ioctl(held.faults, UFFDIO_API, &api) &&
		!ioctl(held.faults, UFFDIO_REGISTER, &range) &&
		!pthread_create(&held.writer, NULL, write_pipe, NULL),
		"page faults can be held up", "%s", strerror(errno));
	fault = (struct pollfd){ .fd = held.faults, .events = POLLIN };
	require(poll(&fault, 1, LIMIT_MS) == 1, "the writer of a pipe faults", "it does not");
}

void pipe_let_go(void)
{
	struct uffdio_zeropage zero = { .range = { .start = (uintptr_t)held.page, .len = 4096 } };
	void *written;

	require(!ioctl(held.faults, UFFDIO_ZEROPAGE, &zero), "a page fault can be served", "%s",
		strerror(errno));
	pthread_join(held.writer, &written);
	check_int("bytes that the writer of a pipe has written", 1, (long)written);
	close(held.faults);
	close(held.pipe);
}

/* Hogs */

static bool make_dirs(const char *where, uint64_t count)
{
	static uint64_t made;
	char path[256];

	while (count--) {
		snprintf(path, sizeof(path), "%s/%d-%llu", where, getpid(),
			 (unsigned long long)made++);
		if (mkdir(path, 0755))
			return false;
	}
	return true;
}

/* `hog NAME ADJ FILE DIRS PIPE`: for each u64 on stdin use that many bytes, then say so. */
int hog_main(int argc, char **argv)
{
	char *memory, adj[16];
	uint64_t bytes, at;
	int fd = -1;

	if (argc < 7)
		return 1;
	prctl(PR_SET_NAME, argv[2]);
	snprintf(adj, sizeof(adj), "%s", argv[3]);
	if (!write_file("/proc/self/oom_score_adj", adj))
		return 1;
	if (*argv[4] != '0') {
		char name[64];

		snprintf(name, sizeof(name), "%s/hog-%d", *argv[4] == '2' ? DISK : "/tmp", getpid());
		/* Whichever end the kernel begins to close at, the pipe comes before the file. */
		if (*argv[6] && open(argv[6], O_RDWR | O_CLOEXEC) < 0)
			return 1;
		fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		unlink(name);
		if (*argv[6] && open(argv[6], O_RDWR | O_CLOEXEC) < 0)
			return 1;
	}
	if (write(1, "r", 1) != 1)
		return 1;
	while (read(0, &bytes, sizeof(bytes)) == sizeof(bytes)) {
		if (*argv[5]) {
			if (!make_dirs(argv[5], bytes) || write(1, "f", 1) != 1)
				return 1;
			continue;
		}
		if (fd >= 0 && ftruncate(fd, bytes))
			return 1;
		memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, fd >= 0 ?
			      MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, fd, 0);
		if (memory == MAP_FAILED)
			return 1;
		for (at = 0; at < bytes; at += 4096)
			memory[at] = 1;
		/* Or it would be given back before the OOM. */
		if (*argv[4] == '2' && mlock(memory, bytes))
			return 1;
		if (write(1, "f", 1) != 1)
			return 1;
	}
	return 0;
}

/* The machine's disk as swap; an earlier scenario may have had files there. */
void disk_swap_on(int mib)
{
	static char page[4096];
	uint32_t *header = (uint32_t *)(page + 1024);
	int disk;

	wait_for(umount(DISK) == 0 || errno != EBUSY);
	disk = open("/dev/vda", O_RDWR | O_CLOEXEC);
	header[0] = 1;			/* version */
	header[1] = mib * 256 - 1;	/* last page */
	memcpy(page + sizeof(page) - 10, "SWAPSPACE2", 10);
	require(disk >= 0 && pwrite(disk, page, sizeof(page), 0) == sizeof(page) && !fsync(disk) && !close(disk) &&
		!swapon("/dev/vda", 0), "the disk serves as swap", "%s", strerror(errno));
}

void disk_mount(void)
{
	mkdir(DISK, 0755);
	require(!mount("/dev/vda", DISK, "ext4", 0, NULL) || errno == EBUSY, "the disk can be mounted", "%s",
		strerror(errno));
}

static bool read_done(struct hog *hog, char wanted)
{
	struct pollfd fd = { .fd = hog->done, .events = POLLIN };
	char got;

	return poll(&fd, 1, 0) == 1 && read(hog->done, &got, 1) == 1 && got == wanted;
}

void hog_start(struct hog *hog)
{
	int order[2], done[2];
	char adj[16];

	require(!pipe2(order, O_CLOEXEC) && !pipe2(done, O_CLOEXEC), "a pipe can be made",
		"%s", strerror(errno));
	snprintf(adj, sizeof(adj), "%d", hog->adj);
	if (hog->pipe) {
		unlink(hog->pipe);
		require(!mkfifo(hog->pipe, 0600), "a named pipe can be made", "%s: %s", hog->pipe,
			strerror(errno));
	}
	if (hog->disk)
		disk_mount();
	/* exec: a small process without our BPF links and read-only data. */
	hog->pid = fork();
	if (!hog->pid) {
		dup2(order[0], 0);
		dup2(done[1], 1);
		execl("/proc/self/exe", "hog", "hog", hog->name, adj, hog->disk ? "2" : hog->file ? "1" : "0",
		      hog->dirs ?: "", hog->pipe ?: "", NULL);
		_exit(1);
	}
	close(order[0]);
	close(done[1]);
	hog->order = order[1];
	hog->done = done[0];
	hog->filled = false;
	hog->dead = false;
	require(wait_for(read_done(hog, 'r')), "a hog starts", "%s does not", hog->name);
	if (hog->cgroup)
		cg_join(hog->cgroup, hog->pid);
}

void hog_order(struct hog *hog, uint64_t bytes)
{
	hog->filled = false;
	require(write(hog->order, &bytes, sizeof(bytes)) == sizeof(bytes), "a hog listens",
		"%s does not", hog->name);
}

bool hog_filled(struct hog *hog)
{
	if (!hog->filled)
		hog->filled = read_done(hog, 'f');
	return hog->filled;
}

bool hog_fill(struct hog *hog, uint64_t bytes)
{
	hog_order(hog, bytes);
	wait_for(hog_filled(hog) || hog_reap(hog));
	return hog->filled;
}

bool hog_reap(struct hog *hog)
{
	if (!hog->dead && hog->pid && waitpid(hog->pid, &hog->status, WNOHANG) == hog->pid &&
	    !WIFSTOPPED(hog->status)) {
		hog->dead = true;
		close(hog->order);
		close(hog->done);
	}
	return hog->dead;
}

bool hog_alive(struct hog *hog)
{
	return hog->pid && !hog_reap(hog);
}

struct hog *first_dead(struct hog *hogs, int count)
{
	const char *first_at = NULL, *at;
	struct hog *first = NULL, *dead = NULL;
	char line[48];
	int i;

	/* Who was killed first need not be reaped first. */
	for (i = 0; i < count; i++) {
		if (hog_reap(&hogs[i]))
			dead = &hogs[i];
		snprintf(line, sizeof(line), ": Killed process %d (", hogs[i].pid);
		at = strstr(klog(), line);
		if (at && (!first_at || at < first_at)) {
			first = &hogs[i];
			first_at = at;
		}
	}
	return dead && first ? first : dead;
}

static bool victim_marked(pid_t pid)
{
	static char trace[64 * 1024];
	char *at = trace;
	int found;

	read_file(TRACE, trace, sizeof(trace));
	while ((at = strstr(at, "mark_victim: pid="))) {
		at += strlen("mark_victim: pid=");
		found = atoi(at);
		if (found == pid)
			return true;
	}
	return false;
}

static const char *fate(struct hog *hog)
{
	static char text[48];

	if (!hog->dead)
		return "alive";
	snprintf(text, sizeof(text), "dead, wait status 0x%x", hog->status);
	return text;
}

void check_killed(struct hog *hog)
{
	char what[128], line[64];
	bool marked;

	wait_for(hog_reap(hog));
	snprintf(what, sizeof(what), "%s ends by SIGKILL", hog->name);
	check(hog->dead && WIFSIGNALED(hog->status) && WTERMSIG(hog->status) == SIGKILL, what,
	      "dead, wait status 0x9", "%s", fate(hog));
	marked = wait_for_ms(victim_marked(hog->pid), 1000);
	snprintf(what, sizeof(what), "oom:mark_victim fires for %s", hog->name);
	check(marked, what, "an event with its pid", "%s", marked ? "an event" : "no event");
	snprintf(line, sizeof(line), ": Killed process %d (%s)", hog->pid, hog->name);
	check_log(line);
}

void check_alive(struct hog *hog)
{
	char what[128];

	snprintf(what, sizeof(what), "%s lives", hog->name);
	check(hog_alive(hog), what, "alive", "%s", fate(hog));
}

/* Spawners */

#define MAX_CHILDREN	16

struct spawned {
	volatile bool stop;
	volatile uint64_t deaths, odd;
	volatile int odd_status;	/* the last of them, -1: a cgroup */
	volatile bool filled[MAX_CHILDREN];	/* squeezed ones, that have what they want */
};

#define SQUEEZED_PAGES	64

static void spawn_child(const char *cgroup, int mib, volatile bool *filled)
{
	size_t size = filled ? SQUEEZED_PAGES * 4096 : mib * MIB;
	char *memory;

	prctl(PR_SET_NAME, "spawned");
	/* Never protected inside, or a declared OOM would find nobody to kill. */
	if (!write_file("/proc/self/oom_score_adj", "0") ||
	    !write_file(cg_path(cgroup, "cgroup.procs"), "0"))
		_exit(4);
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		_exit(5);
	for (size_t at = 0; at < size; at += 4096)
		memory[at] = 1;
	while (filled) {
		*filled = true;
		pause();
	}
	_exit(3);	/* nobody killed it: there was no OOM */
}

static void odd_end(struct spawned *shared, int status)
{
	shared->odd++;
	shared->odd_status = status;
}

/* Only interrupts the wait for a child, which may live for ever. */
static void told_to_stop(int signal)
{
	(void)signal;
}

/*
 * Take away the memory of children that have filled theirs: many OOMs in a row, without a
 * reclaim before each. The first that is dead by then, waited for if need be.
 */
static pid_t squeeze(struct spawned *shared, const char *cgroup, int children, int *status)
{
	pid_t dead = 0;
	int i;

	for (i = 0; i < children; i++) {
		while (!shared->filled[i]) {
			dead = waitpid(-1, status, WNOHANG);
			if (dead || shared->stop)
				return dead;
			pause_ms(1);
		}
	}
	cg_set(cgroup, "memory.max", MIB);
	cg_write(cgroup, "memory.max", "max");
	/* Not a wait without end: whoever tells us to stop interrupts the write, and nobody dies. */
	while (!shared->stop && !(dead = waitpid(-1, status, WNOHANG)))
		pause_ms(1);
	return dead;
}

/* `spawn CGROUP CHILDREN MIB CHURN FILE`; without MIB they are squeezed */
int spawner_main(int argc, char **argv)
{
	struct { pid_t pid; char cgroup[128]; } slot[MAX_CHILDREN] = {};
	int children = atoi(argv[3]), mib = atoi(argv[4]), churn = atoi(argv[5]), status, i;
	struct spawned *shared;
	unsigned int made = 0;
	pid_t dead;
	int fd;

	if (argc < 7 || children > MAX_CHILDREN)
		return 1;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "spawner");
	sigaction(SIGTERM, &(struct sigaction){ .sa_handler = told_to_stop }, NULL);
	fd = open(argv[6], O_RDWR | O_CLOEXEC);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (shared == MAP_FAILED)
		return 1;
	for (;;) {
		for (i = 0; i < children && !shared->stop; i++) {
			if (slot[i].pid)
				continue;
			if (churn) {
				snprintf(slot[i].cgroup, sizeof(slot[i].cgroup), "%s/%d-%u", argv[2],
					 getpid(), made++);
				/* A full memcg may have no room for a child's structures just now. */
				if (!wait_for(!mkdir(cg_path(slot[i].cgroup, ""), 0755)))
					odd_end(shared, -1);
			} else {
				snprintf(slot[i].cgroup, sizeof(slot[i].cgroup), "%s", argv[2]);
			}
			shared->filled[i] = false;
			slot[i].pid = fork();
			if (!slot[i].pid)
				spawn_child(slot[i].cgroup, mib, mib ? NULL : &shared->filled[i]);
		}
		if (shared->stop)
			for (i = 0; i < children; i++)
				if (slot[i].pid)
					kill(slot[i].pid, SIGKILL);
		if (mib || shared->stop)
			dead = waitpid(-1, &status, 0);
		else
			dead = squeeze(shared, argv[2], children, &status);
		if (!dead || (dead < 0 && errno == EINTR))
			continue;	/* told to stop */
		if (dead < 0)
			return 0;	/* stopped, and all gone */
		/* With all that are dead, as a squeeze takes many. */
		do {
			if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
				shared->deaths++;
			else
				odd_end(shared, status);
			for (i = 0; i < children; i++) {
				if (slot[i].pid != dead)
					continue;
				slot[i].pid = 0;
				if (churn && !wait_for(!rmdir(cg_path(slot[i].cgroup, ""))))
					odd_end(shared, -1);
			}
			dead = waitpid(-1, &status, WNOHANG);
		} while (dead > 0);
	}
}

void spawner_start(struct spawner *spawner)
{
	char name[64], children[16], mib[16];
	static int number;
	int fd;

	snprintf(name, sizeof(name), "/tmp/spawner-%d-%d", getpid(), number++);
	fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	require(fd >= 0 && !ftruncate(fd, sizeof(struct spawned)), "a file can be made", "%s", name);
	spawner->shared = mmap(NULL, sizeof(struct spawned), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	snprintf(children, sizeof(children), "%d", spawner->children);
	snprintf(mib, sizeof(mib), "%d", spawner->mib);
	spawner->pid = fork();
	if (!spawner->pid) {
		execl("/proc/self/exe", "spawner", "spawn", spawner->cgroup, children, mib,
		      spawner->churn ? "1" : "0", name, NULL);
		_exit(1);
	}
}

void spawner_stop(struct spawner *spawner)
{
	int status = 0;
	bool stopped;

	spawner->shared->stop = true;
	kill(spawner->pid, SIGTERM);
	stopped = wait_for(waitpid(spawner->pid, &status, WNOHANG) == spawner->pid);
	if (!stopped)	/* who waits for what, into the log */
		proc_write("sysrq-trigger", "t");
	require(stopped, "a spawner stops", "%s does not", spawner->cgroup);
	check_int("exit status of a spawner", 0, status);
	if (spawner->shared->odd)
		note("%s: the last odd end of %llu has status 0x%x", spawner->cgroup,
		     (unsigned long long)spawner->shared->odd, spawner->shared->odd_status);
}

uint64_t spawner_deaths(struct spawner *spawner)
{
	return spawner->shared->deaths;
}

uint64_t spawner_odd(struct spawner *spawner)
{
	return spawner->shared->odd;
}

/* The kernel log */

static int kmsg = -1;
static char *log_text;
static size_t log_used, log_size;

const char *klog(void)
{
	char record[8192], *text;
	ssize_t got;

	for (;;) {
		got = read(kmsg, record, sizeof(record) - 1);
		if (got < 0 && errno == EPIPE) {
			check(false, "no kernel log record is lost", "", "some were");
			continue;
		}
		if (got <= 0)
			break;
		record[got] = 0;
		text = strchr(record, ';');
		text = text ? text + 1 : record;
		if (log_used + strlen(text) + 1 > log_size) {
			log_size = 2 * log_size + sizeof(record);
			log_text = realloc(log_text, log_size);
		}
		memcpy(log_text + log_used, text, strlen(text) + 1);
		log_used += strlen(text);
	}
	return log_text;
}

bool klog_has(const char *text)
{
	return strstr(klog(), text);
}

int klog_count(const char *text)
{
	const char *at = klog();
	int found = 0;

	while ((at = strstr(at, text))) {
		at += strlen(text);
		found++;
	}
	return found;
}

void check_log(const char *text)
{
	bool found = wait_for_ms(klog_has(text), 2000);

	check(found, "the kernel log has", text, "%s", found ? "it does" : "it does not");
}

void check_constraint(const char *constraint)
{
	char text[96];

	snprintf(text, sizeof(text), has_module() ? "constraint=%s\n" : "oom-kill:constraint=%s,",
		 constraint);
	check_log(text);
}

void check_not_log(const char *text)
{
	bool found = klog_has(text);

	check(!found, "the kernel log does not have", text, "%s", found ? "it does" : "it does not");
}

/* BPF */

char libbpf_log[128 * 1024];

void libbpf_log_start(void)
{
	libbpf_log[0] = 0;
}

static int libbpf_says(enum libbpf_print_level level, const char *format, va_list args)
{
	size_t used = strlen(libbpf_log), length, excess;
	char *text;

	if (level == LIBBPF_DEBUG || vasprintf(&text, format, args) < 0)
		return 0;
	length = strlen(text);
	/* Of what is too long the end. */
	excess = used + length + 1 > sizeof(libbpf_log) ? used + length + 1 - sizeof(libbpf_log) : 0;
	memmove(libbpf_log, libbpf_log + (excess < used ? excess : used), excess < used ? used - excess : 0);
	used = excess < used ? used - excess : 0;
	snprintf(libbpf_log + used, sizeof(libbpf_log) - used, "%s",
		 length < sizeof(libbpf_log) ? text : text + length + 1 - sizeof(libbpf_log));
	free(text);
	return length;
}

/* The end of the verifier's log holds the reason. */
static const char *libbpf_log_tail(void)
{
	size_t length = strlen(libbpf_log);

	return length > 350 ? libbpf_log + length - 350 : libbpf_log;
}

bool has_module(void)
{
	return !access("/sys/module/bpf_oom", F_OK);
}

/* The types of the interface: the kernel's own, or those of the module as well. */
static struct btf *interface_btf(void)
{
	static struct btf *btf;

	if (!btf)
		btf = btf__load_vmlinux_btf();
	if (btf && has_module() && !btf__base_btf(btf))
		btf = btf__load_module_btf("bpf_oom", btf);
	require(btf, "the kernel's BTF can be read", "%s", strerror(errno));
	return btf;
}

/* As the loader of the collection does: leave out a callback that this kernel does not have. */
static void leave_out(struct bpf_map *map, const char *member, size_t offset)
{
	const struct btf *kernel = interface_btf();
	const struct btf_member *members;
	const struct btf_type *type;
	size_t size;
	char *value;
	int id, i;

	id = btf__find_by_name_kind(kernel, "bpf_psi_ops", BTF_KIND_STRUCT);
	require(id > 0, "the kernel has struct bpf_psi_ops", "it has not");
	type = btf__type_by_id(kernel, id);
	members = btf_members(type);
	for (i = 0; i < (int)btf_vlen(type); i++)
		if (!strcmp(btf__name_by_offset(kernel, members[i].name_off), member))
			return;
	value = bpf_map__initial_value(map, &size);
	if (value && size == offset + sizeof(void *))	/* the last one of ours */
		memset(value + offset, 0, sizeof(void *));
}

struct policy policy_open(const char *object, const char *name)
{
	struct policy policy = {};
	struct bpf_map *map;
	char path[128];
	size_t size;

	libbpf_log_start();
	snprintf(path, sizeof(path), "/bpf/%s.o", object);
	policy.object = bpf_object__open_file(path, NULL);
	require(policy.object, "a BPF object opens", "%s: %s", path, libbpf_log_tail());
	bpf_object__for_each_map(map, policy.object) {
		if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS)
			policy.map = map;
	}
	require(policy.map, "a BPF object has a struct_ops map", "%s has none", path);
	leave_out(policy.map, "handle_cgroup_online", 3 * sizeof(void *));
	if (name) {
		/* struct bpf_oom_ops: a pointer, then the name. */
		char *value = bpf_map__initial_value(policy.map, &size);

		require(value && size >= 8 + strlen(name) + 1, "a policy has a name field",
			"%s has none", object);
		memcpy(value + 8, name, strlen(name) + 1);
	}
	return policy;
}

/* Where a global variable lies in .rodata, .bss or .data.*, whose maps libbpf has mapped. */
static void *variable_of(struct policy *policy, const char *variable, size_t *size)
{
	const struct btf *btf = bpf_object__btf(policy->object);
	struct bpf_map *map;
	size_t map_size;

	bpf_object__for_each_map(map, policy->object) {
		const char *section = strchr(bpf_map__name(map), '.');
		const struct btf_var_secinfo *var;
		const struct btf_type *type;
		int id, i;

		if (bpf_map__type(map) != BPF_MAP_TYPE_ARRAY || !section)
			continue;
		id = btf__find_by_name_kind(btf, section, BTF_KIND_DATASEC);
		if (id < 0)
			continue;
		type = btf__type_by_id(btf, id);
		var = btf_var_secinfos(type);
		for (i = 0; i < (int)btf_vlen(type); i++, var++) {
			const struct btf_type *t = btf__type_by_id(btf, var->type);

			if (strcmp(btf__name_by_offset(btf, t->name_off), variable))
				continue;
			*size = var->size;
			return (char *)bpf_map__initial_value(map, &map_size) + var->offset;
		}
	}
	return NULL;
}

static void *variable_at(struct policy *policy, const char *variable, size_t *size)
{
	void *at = variable_of(policy, variable, size);

	require(at, "a BPF object has a variable", "%s is not in %s", variable,
		bpf_object__name(policy->object));
	return at;
}

void policy_set(struct policy *policy, const char *variable, const void *value, size_t size)
{
	size_t room;
	void *at = variable_at(policy, variable, &room);

	require(size <= room, "a value fits its BPF variable", "%s: %zu > %zu", variable, size, room);
	memcpy(at, value, size);
}

void policy_set_u32(struct policy *policy, const char *variable, uint32_t value)
{
	policy_set(policy, variable, &value, sizeof(value));
}

void policy_set_u64(struct policy *policy, const char *variable, uint64_t value)
{
	policy_set(policy, variable, &value, sizeof(value));
}

void policy_select_weight(struct policy *policy, const char *list, const char *text, int weight)
{
	struct selector *selector;
	size_t size;
	char *user;

	selector = variable_at(policy, list, &size);
	while (size && selector->kind)
		selector++, size -= sizeof(*selector);
	require(size, "a list of selectors has room", "%s has none", list);
	selector->weight = weight;
	if (sscanf(text, "uid:%u", &selector->low) == 1) {
		selector->kind = SELECT_UID;
		selector->high = selector->low;
		return;
	}
	selector->kind = text[0] == '/' ? SELECT_CGROUP : text[0] == 'o' ? SELECT_OWN : SELECT_NAME;
	if (selector->kind == SELECT_OWN)
		text += strlen("own:");
	if (selector->kind != SELECT_NAME) {
		strncpy(selector->glob, strcmp(text, "/") ? text : "", sizeof(selector->glob) - 1);
		for (int i = 0; selector->glob[i]; i++)
			if (selector->glob[i] == '/')
				selector->part[selector->nr_parts++] = i + 1;
		return;
	}
	strncpy(selector->glob, text + strlen("name:"), sizeof(selector->glob) - 1);
	user = strchr(selector->glob, '@');
	if (user && sscanf(user, "@%u", &selector->low) == 1) {
		selector->high = selector->low;
		*user = 0;
	}
}

void policy_select(struct policy *policy, const char *list, const char *text)
{
	policy_select_weight(policy, list, text, 0);
}

void policy_settings(struct policy *policy, const char * const *words)
{
	char list[64], text[300];
	unsigned long long number;
	int weight;

	for (; words && *words; words++) {
		if (sscanf(*words, "%63[a-z_]=%llu", list, &number) == 2) {
			uint32_t small = number;

			if (!strcmp(list, "min_usage"))
				policy_set_u64(policy, list, number * MIB);
			else if (strstr(list, "_bytes"))
				policy_set_u64(policy, list, number);
			else if (!strcmp(list, "count_file"))
				policy_set(policy, list, &small, 1);
			else
				policy_set_u32(policy, list, number);
			continue;
		}
		weight = 0;
		require(sscanf(*words, "%63[a-z_]+%299[^=]=%d", list, text, &weight) >= 2,
			"a setting can be read", "%s", *words);
		policy_select_weight(policy, list, text, weight);
	}
}

bool policy_decision(struct policy *policy, uint64_t seq, struct decision *decision)
{
	struct bpf_map *map = bpf_object__find_map_by_name(policy->object, "decisions");
	uint32_t slot = (seq - 1) % MAX_DECISIONS;

	require(map, "a policy records its decisions", "%s does not", bpf_object__name(policy->object));
	return !bpf_map_lookup_elem(bpf_map__fd(map), &slot, decision) && decision->seq == seq;
}

bool policy_watches(struct policy *policy, const char *cgroup)
{
	struct bpf_map *map = bpf_object__find_map_by_name(policy->object, "watched");
	uint64_t id = cg_id(cgroup);
	char value[1024];

	require(map && bpf_map__value_size(map) <= sizeof(value), "a psi policy says what it watches", "it does not");
	return !bpf_map_lookup_elem(bpf_map__fd(map), &id, value);
}

void *policy_data(struct policy *policy, const char *variable)
{
	size_t size;

	return variable_at(policy, variable, &size);
}

uint32_t policy_u32(struct policy *policy, const char *variable)
{
	return *(volatile uint32_t *)policy_data(policy, variable);
}

uint64_t policy_u64(struct policy *policy, const char *variable)
{
	return *(volatile uint64_t *)policy_data(policy, variable);
}

/* As the loader does it; memory.h has the order. Once, before the scenarios begin. */
static uint64_t kernel_numbers[13];

void kernel_numbers_find(void)
{
	static const char * const names[] = {
		"_totalram_pages", "total_swap_pages", "nr_swap_pages", "__per_cpu_offset", "nr_cpu_ids",
		"percpu_counter_batch", "sysctl_bpf_oom_budget_ms", "vm_zone_stat", "vm_node_stat",
		"totalreserve_pages", "node_data", "nr_node_ids", "contig_page_data",
	};
	FILE *file = fopen("/proc/kallsyms", "r");
	char line[600], name[512];
	unsigned long long address;

	_Static_assert(ARRAY_SIZE(names) == ARRAY_SIZE(kernel_numbers), "one address each");
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%llx %*c %511s", &address, name) != 2)
			continue;
		for (unsigned int i = 0; i < ARRAY_SIZE(names); i++)
			if (!strcmp(name, names[i]))
				kernel_numbers[i] = address;
	}
	if (file)
		fclose(file);
}

void policy_load(struct policy *policy)
{
	size_t room;
	void *numbers = variable_of(policy, "kernel_numbers", &room);
	int err;

	if (numbers)
		memcpy(numbers, kernel_numbers, sizeof(kernel_numbers));
	libbpf_log_start();
	err = bpf_object__load(policy->object);
	if (err)	/* the whole of it, on the console */
		printf("%s\n", libbpf_log);
	fflush(stdout);
	require(!err, "a BPF object loads", "%s: %s", bpf_object__name(policy->object),
		libbpf_log_tail());
}

int policy_try_attach(struct policy *policy)
{
	policy->link = bpf_map__attach_struct_ops(policy->map);
	return policy->link ? 0 : -errno;
}

void policy_attach(struct policy *policy)
{
	struct bpf_program *program;
	int err, i = 0;

	bpf_object__for_each_program(program, policy->object) {
		if (bpf_program__type(program) != BPF_PROG_TYPE_TRACING)
			continue;
		policy->tracers[i] = bpf_program__attach(program);
		require(policy->tracers[i++], "a program of a policy attaches", "%s: %s",
			bpf_program__name(program), libbpf_log_tail());
	}
	err = policy_try_attach(policy);
	require(!err, "a policy attaches", "%s: %s", bpf_object__name(policy->object),
		strerror(-err));
}

struct policy policy_start(const char *object, const char *name)
{
	struct policy policy = policy_open(object, name);

	policy_load(&policy);
	policy_attach(&policy);
	return policy;
}

uint32_t policy_registered(struct policy *policy)
{
	struct bpf_link_info info = {};
	__u32 size = sizeof(info);

	require(!bpf_link_get_info_by_fd(bpf_link__fd(policy->link), &info, &size),
		"a link tells about itself", "%s", strerror(errno));
	return info.struct_ops.map_id;
}

struct policy tracer_open(const char *object)
{
	struct policy tracer = {};
	char path[128];

	libbpf_log_start();
	snprintf(path, sizeof(path), "/bpf/%s.o", object);
	tracer.object = bpf_object__open_file(path, NULL);
	require(tracer.object, "a BPF object opens", "%s: %s", path, libbpf_log_tail());
	policy_load(&tracer);
	return tracer;
}

void tracer_attach(struct policy *tracer)
{
	struct bpf_program *program;

	bpf_object__for_each_program(program, tracer->object)
		require(bpf_program__attach(program), "a program attaches", "%s: %s",
			bpf_program__name(program), libbpf_log_tail());
}

/* The policy, not loaded yet, uses this map of `owner` in the place of its own. */
void map_share(struct policy *policy, struct policy *owner, const char *map)
{
	struct bpf_map *theirs = bpf_object__find_map_by_name(owner->object, map);
	struct bpf_map *ours = bpf_object__find_map_by_name(policy->object, map);

	require(theirs && ours && !bpf_map__reuse_fd(ours, bpf_map__fd(theirs)), "a map is shared",
		"%s is not", map);
}

void policy_detach(struct policy *policy)
{
	int i;

	bpf_link__destroy(policy->link);
	policy->link = NULL;
	for (i = 0; i < MAX_TRACERS; i++) {
		bpf_link__destroy(policy->tracers[i]);
		policy->tracers[i] = NULL;
	}
}

void policy_unload(struct policy *policy)
{
	policy_detach(policy);
	bpf_object__close(policy->object);
	memset(policy, 0, sizeof(*policy));
}

void harness_init(void)
{
	int fd;

	prctl(PR_SET_NAME, "scenario");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	require(write_file("/proc/self/oom_score_adj", "-1000"), "we are safe from the OOM killer",
		"%s", strerror(errno));
	fd = open(TRACE, O_WRONLY | O_TRUNC | O_CLOEXEC);
	require(fd >= 0, "tracefs is there", "%s", strerror(errno));
	close(fd);
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	require(kmsg >= 0 && lseek(kmsg, 0, SEEK_END) >= 0, "the kernel log can be read", "%s",
		strerror(errno));
	log_text = calloc(1, 1);
	log_size = 1;
	libbpf_set_print(libbpf_says);
	cg_make("t", true);
}
