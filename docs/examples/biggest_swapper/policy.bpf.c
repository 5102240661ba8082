// SPDX-License-Identifier: GPL-2.0-or-later
/* biggest_swapper: the process with the most pages in the swap dies. */
#include <bpf_oom/rank_processes.h>

static s64 rank(struct task_struct *task, u64 usage)
{
	s64 swapped = process_swapped();

	return swapped > 0 ? swapped : RANK_SKIP;
}

OOM_POLICY(biggest_swapper);
