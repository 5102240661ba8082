// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * old_flags: an OOM policy that passes on, after a look at a field which later kernels have
 * made something else. It loads on Linux 6.12 and not on 7.3.
 */
#include <bpf_oom/policy.h>

struct mm_struct___number {
	unsigned long flags;
} __attribute__((preserve_access_index));

OOM_SEC int OOM_HANDLER(old_flags_handle)
{
	struct mm_struct___number *mm = (void *)bpf_get_current_task_btf()->mm;
	volatile unsigned long flags = BPF_CORE_READ(mm, flags);

	(void)flags;
	return 0;
}

STRUCT_OPS_SEC
struct bpf_oom_ops old_flags = {
	.handle_out_of_memory = (void *)old_flags_handle,
	.name = "old_flags",
};
