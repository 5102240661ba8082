// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A PSI policy that declares OOMs with texts of all kinds of memory: programs for the first
 * public version of the interface give writable ones, others constant ones.
 */
#include <bpf_oom/policy.h>

enum { TEXT_CONSTANT, TEXT_WRITABLE, TEXT_ON_STACK, TEXT_NULL, TEXT_NOWHERE, TEXT_ODD };
const volatile u32 kind_of_text;
const volatile u64 watch_id;

POLICY_TEXT(constant) = "CONSTANT";
char writable[] = "WRITABLE";
char odd[] = "TWO WORDS\nAND LINES, AND MORE THAN THE KERNEL HAS A PLACE FOR IN ITS OWN MEMORY";

PSI_INIT_SEC int PSI_INIT(psi_texts_init)
{
	return psi_watch(psi, watch_id, PSI_RESOURCE_MEM, true, 100000, 1000000);
}

PSI_EVENT_SEC void PSI_EVENT(psi_texts_event)
{
	struct mem_cgroup *memcg = memcg_from_cgroup_id(psi_event_cgroup(trigger));
	char stack[16] = "ON_STACK";

	if (!memcg)
		return;
	switch (kind_of_text) {
	case TEXT_CONSTANT:
		psi_declare_oom(memcg, constant);
		break;
	case TEXT_WRITABLE:
		psi_declare_oom(memcg, writable);
		break;
	case TEXT_ON_STACK:
		psi_declare_oom(memcg, stack);
		break;
	case TEXT_NULL:
		psi_declare_oom(memcg, NULL);
		break;
	case TEXT_NOWHERE:
		psi_declare_oom(memcg, (const char *)16);
		break;
	case TEXT_ODD:
		psi_declare_oom(memcg, odd);
		break;
	}
	bpf_put_mem_cgroup(memcg);
}

STRUCT_OPS_SEC
struct bpf_psi_ops psi_texts = {
	.init = (void *)psi_texts_init,
	.handle_psi_event = (void *)psi_texts_event,
};
