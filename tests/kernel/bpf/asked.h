/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A policy counts here that it was asked, and the witness reads it: the runner gives both
 * the same map.
 */
#ifndef ASKED_H
#define ASKED_H

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} asked SEC(".maps");

static __always_inline u64 *asked_counter(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&asked, &zero);
}

#endif /* ASKED_H */
