// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rejected: an OOM policy that declares an OOM. It would wait for the lock that it
 * runs under, so the verifier does not let it use that kfunc.
 */
#include <bpf_oom/policy.h>

OOM_SEC int OOM_HANDLER(rejected_handle)
{
	return psi_declare_oom(NULL, NULL);
}

STRUCT_OPS_SEC
struct bpf_oom_ops rejected = {
	.handle_out_of_memory = (void *)rejected_handle,
	.name = "rejected",
};
