/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two programs that have to run at the same time meet here: the runner gives both the same
 * map. Each says that it is there, and waits for the other, for ten seconds at most.
 */
#ifndef MEET_H
#define MEET_H

#include <bpf_oom/policy.h>

enum { MEET_OOM, MEET_PSI, MEET_DONE, MEETERS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MEETERS);
	__type(key, u32);
	__type(value, u32);
} meet SEC(".maps");

struct meet_wait {
	u64 end;
	u32 who;
};

static __always_inline void meet_here(u32 who)
{
	u32 *there = bpf_map_lookup_elem(&meet, &who);

	if (there)
		*(volatile u32 *)there = 1;
}

static bool meet_is_there(u32 who)
{
	u32 *there = bpf_map_lookup_elem(&meet, &who);

	return there && *(volatile u32 *)there;
}

static long meet_spin(u64 i, struct meet_wait *wait)
{
	return bpf_ktime_get_ns() >= wait->end || meet_is_there(wait->who);
}

/* One loop would be over in moments on a fast machine. */
static long meet_spin_on(u64 i, struct meet_wait *wait)
{
	bpf_loop(1 << 12, meet_spin, wait, 0);
	return meet_spin(i, wait);
}

static __always_inline void meet_wait_ms(u32 who, u32 ms)
{
	struct meet_wait wait = { .end = bpf_ktime_get_ns() + ms * 1000000ULL, .who = who };

	bpf_loop(1 << 23, meet_spin_on, &wait, 0);
}

#endif /* MEET_H */
