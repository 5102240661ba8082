// SPDX-License-Identifier: GPL-2.0-or-later
/* youngest: the process that was started last dies, as it has lost the least work. */
#include <bpf_oom/rank_processes.h>

static s64 rank(struct task_struct *task, u64 usage)
{
	return task->start_time;
}

OOM_POLICY(youngest);
