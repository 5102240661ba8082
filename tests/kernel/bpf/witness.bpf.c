// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Looks on from outside while the kernel handles OOMs: was a policy asked, how long did
 * the choice of a victim take? OOMs are handled one at a time, so globals serve.
 */
#include <bpf_oom/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "asked.h"

char LICENSE[] SEC("license") = "GPL";

#define MAX_TIMES	4096

u32 nr_ooms;		/* policies could be asked */
u32 nr_asked;		/* one was */
u32 nr_waited;		/* nobody was, since there is memory or an earlier victim */
u32 nr_missed;		/* nobody was, and the kernel went on to its own killer */

u32 nr_times;
u64 times[MAX_TIMES];	/* ns from the entry of out_of_memory() to that of oom_kill_process() */

static u64 before, entered;

static u64 asked_by_now(void)
{
	u64 *counter = asked_counter();

	return counter ? *counter : 0;
}

SEC("fentry/bpf_handle_oom")
int BPF_PROG(handle_enter, struct oom_control *oc)
{
	before = asked_by_now();
	return 0;
}

SEC("fexit/bpf_handle_oom")
int BPF_PROG(handle_exit, struct oom_control *oc, bool handled)
{
	nr_ooms++;
	if (asked_by_now() != before)
		nr_asked++;
	else if (handled & 1)
		nr_waited++;
	else
		nr_missed++;
	return 0;
}

SEC("fentry/out_of_memory")
int BPF_PROG(oom_enter, struct oom_control *oc)
{
	entered = bpf_ktime_get_ns();
	return 0;
}

SEC("fentry/oom_kill_process")
int BPF_PROG(kill_enter, struct oom_control *oc, const char *message)
{
	u32 at = nr_times;

	if (!entered)
		return 0;
	if (at < MAX_TIMES) {
		times[at] = bpf_ktime_get_ns() - entered;
		nr_times = at + 1;
	}
	entered = 0;	/* the first kill of an OOM is the decision */
	return 0;
}
