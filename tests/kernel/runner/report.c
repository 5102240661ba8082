// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Running a scenario and reporting it as one line of JSON. The report lies in shared
 * memory, so that whatever becomes of the scenario's process, init can send it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

#define SCENARIO_LIMIT_MS	90000
#define OOM_RATELIMIT_MS	5500	/* the kernel's: 10 reports in 5 s */
#define OOM_RATELIMIT_KILLS	4

struct check {
	bool ok;
	char what[160], expected[160], actual[400];
};

static struct report {
	int checks, notes;
	bool failed, finished;
	volatile uint64_t going_ms;
	struct check check[200];
	char note[24][300];
} *report;

static int results = -1;

uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ULL + ts.tv_nsec / 1000000;
}

unsigned int slowness(void)
{
	const char *factor = getenv("slow");

	return factor ? atoi(factor) : 1;
}

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

void pause_ms(unsigned int ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

	nanosleep(&ts, NULL);
}

static bool record(bool ok, const char *what, const char *expected, const char *actual)
{
	struct check *check;

	if (!ok)
		report->failed = true;
	if (report->checks == ARRAY_SIZE(report->check)) {
		/* Never lose a failure for want of room. */
		if (ok)
			return ok;
		report->checks--;
	}
	check = &report->check[report->checks++];
	check->ok = ok;
	snprintf(check->what, sizeof(check->what), "%s", what);
	snprintf(check->expected, sizeof(check->expected), "%s", expected);
	snprintf(check->actual, sizeof(check->actual), "%s", actual);
	return ok;
}

bool (check)(bool ok, const char *what, const char *expected, const char *actual, ...)
{
	char text[400];
	va_list args;

	va_start(args, actual);
	vsnprintf(text, sizeof(text), actual, args);
	va_end(args);
	return record(ok, what, expected, text);
}

bool check_int(const char *what, long long expected, long long actual)
{
	char want[32], got[32];

	snprintf(want, sizeof(want), "%lld", expected);
	snprintf(got, sizeof(got), "%lld", actual);
	return record(expected == actual, what, want, got);
}

void (require)(bool ok, const char *what, const char *actual, ...)
{
	char text[400];
	va_list args;

	if (ok)
		return;
	va_start(args, actual);
	vsnprintf(text, sizeof(text), actual, args);
	va_end(args);
	record(false, what, "", text);
	_exit(1);
}

void note(const char *text, ...)
{
	va_list args;

	if (report->notes == ARRAY_SIZE(report->note))
		return;
	va_start(args, text);
	vsnprintf(report->note[report->notes++], sizeof(report->note[0]), text, args);
	va_end(args);
}

static void json_string(FILE *out, const char *text)
{
	fputc('"', out);
	for (; *text; text++) {
		unsigned char c = *text;

		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c < ' ' || c > '~')
			fprintf(out, "\\u%04x", c);
		else
			fputc(c, out);
	}
	fputc('"', out);
}

static void send_report(const struct scenario *scenario, uint64_t ms)
{
	char *line;
	size_t size;
	FILE *out = open_memstream(&line, &size);
	int i;

	fprintf(out, "{\"name\": \"%s\", \"ok\": %s, \"seconds\": %.2f, \"checks\": [",
		scenario->name, report->failed ? "false" : "true", ms / 1000.0);
	for (i = 0; i < report->checks; i++) {
		struct check *check = &report->check[i];

		fprintf(out, "%s{\"ok\": %s, \"what\": ", i ? ", " : "",
			check->ok ? "true" : "false");
		json_string(out, check->what);
		fputs(", \"expected\": ", out);
		json_string(out, check->expected);
		fputs(", \"actual\": ", out);
		json_string(out, check->actual);
		fputc('}', out);
	}
	fputs("], \"notes\": [", out);
	for (i = 0; i < report->notes; i++) {
		fputs(i ? ", " : "", out);
		json_string(out, report->note[i]);
	}
	fputs("]}\n", out);
	fclose(out);

	if (results < 0)
		results = open("/dev/ttyS1", O_WRONLY | O_CLOEXEC | O_NOCTTY);
	for (char *at = line; size; ) {
		ssize_t done = write(results, at, size);

		if (done < 0)
			break;
		at += done;
		size -= done;
	}
	free(line);
}

static void mark(const char *what, const char *name)
{
	int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	char line[128];

	/* dprintf() would seek first, which Linux 7.3 refuses. */
	snprintf(line, sizeof(line), "kernel-tier: %s %s\n", what, name);
	if (fd < 0 || write(fd, line, strlen(line)) < 0)
		printf("kernel-tier: /dev/kmsg cannot be written: %s\n", strerror(errno));
	close(fd);
}

static struct {
	uint64_t ms;
	long long kills;
} sample[64];
static unsigned int samples;

static void sample_kills(void)
{
	sample[samples % ARRAY_SIZE(sample)].ms = now_ms();
	sample[samples++ % ARRAY_SIZE(sample)].kills = vmstat("oom_kill");
}

/* No fewer than in the interval that ends now: since the last sample before it. */
static long long kills_lately(void)
{
	uint64_t begin = now_ms() - OOM_RATELIMIT_MS;
	unsigned int i;

	for (i = 1; i <= samples && i <= ARRAY_SIZE(sample); i++)
		if (sample[(samples - i) % ARRAY_SIZE(sample)].ms <= begin)
			return vmstat("oom_kill") - sample[(samples - i) % ARRAY_SIZE(sample)].kills;
	return vmstat("oom_kill");
}

/*
 * The OOM header is rate-limited: wait until the next scenario's will be printed. Where the
 * kernel's interval begins is not known, so none may have seen too many.
 */
static void make_room_in_log(void)
{
	while (kills_lately() >= OOM_RATELIMIT_KILLS)
		pause_ms(20);
	sample_kills();
}

void keep_going(void)
{
	report->going_ms = now_ms();
}

static bool wait_process(pid_t pid, int *status)
{
	pid_t dead;

	keep_going();
	while (now_ms() < report->going_ms + SCENARIO_LIMIT_MS * slowness()) {
		dead = waitpid(-1, status, WNOHANG);
		if (dead == pid)
			return true;
		if (dead <= 0)
			pause_ms(5);
	}
	return false;
}

static bool nothing_left(void)
{
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	return !count_struct_ops() && !count_threads("psimon");
}

bool run_scenario(const struct scenario *scenario)
{
	uint64_t start;
	int status = 0;
	char text[64];
	pid_t pid;

	if (!report)
		report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memset(report, 0, sizeof(*report));
	make_room_in_log();
	mark("begin", scenario->name);
	start = now_ms();

	pid = fork();
	if (!pid) {
		harness_init();
		scenario->run();
		report->finished = true;
		_exit(0);
	}
	if (!wait_process(pid, &status)) {
		snprintf(text, sizeof(text), "still running after %u s", SCENARIO_LIMIT_MS / 1000 * slowness());
		record(false, "the scenario ends", "", text);
		kill(pid, SIGKILL);
	} else if (!report->finished && !report->failed) {
		snprintf(text, sizeof(text), "wait status 0x%x", status);
		record(false, "the scenario's process runs to its end", "", text);
	}
	if (!report->checks)
		record(false, "the scenario checks something", "a check", "none");

	/* Links go with the process that held them; what is left is the kernel's fault. */
	cg_remove_tree("t");
	if (!wait_for(nothing_left()))
		check(false, "nothing is left behind", "no struct_ops map, no psimon thread",
		      "%d struct_ops maps, %d psimon threads", count_struct_ops(),
		      count_threads("psimon"));
	sample_kills();
	mark("end", scenario->name);
	send_report(scenario, now_ms() - start);
	return !report->failed;
}
