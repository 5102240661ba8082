// SPDX-License-Identifier: GPL-2.0-or-later
/* largest_process: the process that uses the most dies, as with the kernel's own killer. */
#include <bpf_oom/rank_processes.h>

static s64 rank(struct task_struct *task, u64 usage)
{
	return usage;
}

OOM_POLICY(largest_process);
