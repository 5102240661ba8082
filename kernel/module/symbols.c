// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the kernel does not export, found by name. A wrong guess would be fatal, so everything
 * that is known of a symbol is compared first: the prototype of each function, static ones
 * included, with the kernel's BTF, and the code of out_of_memory() with the calls that the
 * hooks stand on. What is not as it was is refused, in one line that says what.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "bpf_oom.h"

#include <linux/kprobes.h>
#include <linux/sched/signal.h>
#include <linux/tracepoint.h>

struct bpf_oom_syms bpf_oom_syms;

/* Needed here only */
static struct {
	unsigned long kallsyms_lookup_name;
	unsigned long kallsyms_lookup_size_offset;
	unsigned long bpf_get_btf_vmlinux;
	unsigned long btf_name_by_offset;
} finding;

#define TASK_CALLBACK "int (struct task_struct *, void *)"
#define CREATE_ARGUMENTS "struct psi_group *, char *, enum psi_res, struct file *, struct kernfs_open_file *"

struct symbol {
	const char *name;
	unsigned long *address;
	/* As its BTF reads, without qualifiers; NULL for a variable */
	const char *prototype;
	bool found;
};

#define FUNCTION(symbol, is) { #symbol, &bpf_oom_syms.symbol, is }
#define VARIABLE(symbol) { #symbol, (unsigned long *)&bpf_oom_syms.symbol, NULL }

static struct symbol symbols[] = {
	FUNCTION(out_of_memory, "bool (struct oom_control *)"),
	FUNCTION(oom_evaluate_task, TASK_CALLBACK),
	FUNCTION(oom_kill_process, "void (struct oom_control *, char *)"),
	FUNCTION(oom_kill_memcg_member, TASK_CALLBACK),
	VARIABLE(oom_lock),
	VARIABLE(sysctl_panic_on_oom),
	FUNCTION(mem_cgroup_scan_tasks,
		 "void (struct mem_cgroup *, int (*)(struct task_struct *, void *), void *)"),
#ifdef BPF_OOM_MEMCG_KFUNCS
	FUNCTION(memcg_page_state_output, "long unsigned int (struct mem_cgroup *, int)"),
	FUNCTION(memcg_events, "long unsigned int (struct mem_cgroup *, int)"),
	FUNCTION(mem_cgroup_flush_stats, "void (struct mem_cgroup *)"),
#endif
	FUNCTION(__cgroup_get_from_id, "struct cgroup * (u64)"),
	VARIABLE(cgroup_mutex),
#ifdef CONFIG_CPUSETS
	FUNCTION(cpuset_mems_allowed_intersects,
		 "int (struct task_struct *, struct task_struct *)"),
#endif
#ifdef CONFIG_NUMA
	FUNCTION(mempolicy_in_oom_domain, "bool (struct task_struct *, nodemask_t *)"),
#endif
#ifdef BPF_OOM_PSI_SPLIT_CREATE
	FUNCTION(psi_trigger_create, "struct psi_trigger * (" CREATE_ARGUMENTS ", bool *)"),
	FUNCTION(psi_trigger_create_rtpoll_worker, "int (struct psi_group *)"),
#else
	FUNCTION(psi_trigger_create, "struct psi_trigger * (" CREATE_ARGUMENTS ")"),
#endif
	FUNCTION(psi_trigger_destroy, "void (struct psi_trigger *)"),
	VARIABLE(psi_system),
	FUNCTION(task_sched_runtime, "long long unsigned int (struct task_struct *)"),
	VARIABLE(ftrace_enabled),
};

/* The address of a function, without a breakpoint: the probe is never armed. */
static unsigned long probe_address(const char *name)
{
	struct kprobe probe = { .symbol_name = name, .flags = KPROBE_FLAG_DISABLED };
	unsigned long address;

	if (register_kprobe(&probe))
		return 0;
	address = (unsigned long)probe.addr;	/* behind the ENDBR, if there is one */
	unregister_kprobe(&probe);
	return address;
}

static unsigned long lookup(const char *name)
{
	return bpf_oom_call((unsigned long)name, 0, 0, 0, 0, 0, finding.kallsyms_lookup_name);
}

static struct btf *btf_vmlinux(void)
{
	return (struct btf *)bpf_oom_call(0, 0, 0, 0, 0, 0, finding.bpf_get_btf_vmlinux);
}

static const char *btf_name(const struct btf *btf, u32 offset)
{
	BUILD_BUG_ON(!__same_type(btf_name_by_offset, const char *(const struct btf *, u32)));
	return (const char *)bpf_oom_call((unsigned long)btf, offset, 0, 0, 0, 0,
					  finding.btf_name_by_offset);
}

/* The name of a type of a BTF, "?" if it has no such type. */
const char *bpf_oom_type_name(const struct btf *btf, u32 id)
{
	const struct btf_type *type = btf_type_by_id(btf, id);

	return type ? btf_name(btf, type->name_off) : "?";
}

struct text {
	char buffer[256];
	size_t length;
};

static void say(struct text *text, const char *what)
{
	text->length += scnprintf(text->buffer + text->length,
				  sizeof(text->buffer) - text->length, "%s", what);
}

#define MAX_DEPTH 8

static void say_type(struct text *text, const struct btf *btf, u32 id, int depth);

static void say_parameters(struct text *text, const struct btf *btf,
			   const struct btf_type *prototype, int depth)
{
	const struct btf_param *params = (const struct btf_param *)(prototype + 1);
	u32 i;

	say(text, "(");
	for (i = 0; i < BTF_INFO_VLEN(prototype->info); i++) {
		if (i)
			say(text, ", ");
		say_type(text, btf, params[i].type, depth);
	}
	say(text, ")");
}

/* As C has it, without qualifiers, which differ where nobody cares. */
static void say_type(struct text *text, const struct btf *btf, u32 id, int depth)
{
	const struct btf_type *type = btf_type_by_id(btf, id), *target;

	if (!type || depth > MAX_DEPTH) {
		say(text, "?");
		return;
	}
	if (!id) {
		say(text, "void");
		return;
	}

	switch (BTF_INFO_KIND(type->info)) {
	case BTF_KIND_CONST:
	case BTF_KIND_VOLATILE:
	case BTF_KIND_RESTRICT:
	case BTF_KIND_TYPE_TAG:
		say_type(text, btf, type->type, depth + 1);
		break;
	case BTF_KIND_PTR:
		target = btf_type_by_id(btf, type->type);
		if (target && BTF_INFO_KIND(target->info) == BTF_KIND_FUNC_PROTO) {
			say_type(text, btf, target->type, depth + 1);
			say(text, " (*)");
			say_parameters(text, btf, target, depth + 1);
			break;
		}
		say_type(text, btf, type->type, depth + 1);
		say(text, text->length && text->buffer[text->length - 1] == '*' ? "*" : " *");
		break;
	case BTF_KIND_FUNC_PROTO:
		say_type(text, btf, type->type, depth + 1);
		say(text, " ");
		say_parameters(text, btf, type, depth + 1);
		break;
	case BTF_KIND_STRUCT:
		say(text, "struct ");
		say(text, btf_name(btf, type->name_off));
		break;
	case BTF_KIND_FWD:
		say(text, "struct ");
		say(text, btf_name(btf, type->name_off));
		break;
	case BTF_KIND_UNION:
		say(text, "union ");
		say(text, btf_name(btf, type->name_off));
		break;
	case BTF_KIND_ENUM:
	case BTF_KIND_ENUM64:
		say(text, "enum ");
		say(text, btf_name(btf, type->name_off));
		break;
	case BTF_KIND_INT:
		/* C23 has no typedef for it any more */
		say(text, strcmp(btf_name(btf, type->name_off), "_Bool") ?
		    btf_name(btf, type->name_off) : "bool");
		break;
	default:
		say(text, btf_name(btf, type->name_off));
	}
}

static int check_prototype(struct symbol *symbol, const struct btf *btf,
			   const struct btf_type *function)
{
	struct text *text;
	int ret = 0;

	text = kzalloc(sizeof(*text), GFP_KERNEL);
	if (!text)
		return -ENOMEM;
	say_type(text, btf, function->type, 0);
	if (strcmp(text->buffer, symbol->prototype)) {
		bpf_oom_refuse("%s() of this kernel is %s, known is %s", symbol->name,
			       text->buffer, symbol->prototype);
		ret = -EOPNOTSUPP;
	}
	kfree(text);
	return ret;
}

/*
 * Members that are looked at or written here. Their offsets are those of the headers, and a
 * later build of the same release may have moved them.
 */
struct member {
	const char *type;
	const char *name;
	u32 offset;
	bool found;
};

#define MEMBER(type, name) { #type, #name, offsetof(struct type, name) }

static struct member members[] = {
	MEMBER(oom_control, nodemask),
	MEMBER(oom_control, memcg),
	MEMBER(oom_control, gfp_mask),
	MEMBER(oom_control, order),
	MEMBER(oom_control, totalpages),
	MEMBER(oom_control, chosen),
	MEMBER(oom_control, constraint),
	MEMBER(psi_trigger, state),
	MEMBER(psi_trigger, group),
	MEMBER(psi_trigger, event_wait),
	MEMBER(psi_trigger, event),
	MEMBER(psi_trigger, win),
	MEMBER(psi_trigger, last_event_time),
	MEMBER(psi_trigger, pending_event),
	MEMBER(psi_group, enabled),
	MEMBER(psi_group, avgs_lock),
	MEMBER(psi_group, total),
	MEMBER(signal_struct, oom_mm),
	MEMBER(signal_struct, oom_score_adj),
	MEMBER(mem_cgroup, css),
	MEMBER(mem_cgroup, memory),
	MEMBER(mem_cgroup, memory_events),
	MEMBER(cgroup, self),
	MEMBER(cgroup, kn),
	MEMBER(cgroup, root),
	MEMBER(cgroup, psi),
	MEMBER(cgroup_subsys_state, cgroup),
	MEMBER(cgroup_subsys_state, ss),
	MEMBER(cgroup_subsys_state, serial_nr),
	MEMBER(cgroup_subsys_state, flags),
};

static void find_members(const struct btf *btf, const struct btf_type *type, const char *name)
{
	const struct btf_member *member = (const struct btf_member *)(type + 1);
	int i, j;

	for (i = 0; i < ARRAY_SIZE(members); i++) {
		if (strcmp(members[i].type, name))
			continue;
		for (j = 0; j < BTF_INFO_VLEN(type->info); j++)
			if (!strcmp(btf_name(btf, member[j].name_off), members[i].name) &&
			    __btf_member_bit_offset(type, &member[j]) == members[i].offset * 8)
				members[i].found = true;
	}
}

static struct symbol *symbol_named(const char *name)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(symbols); i++)
		if (symbols[i].prototype && !strcmp(symbols[i].name, name))
			return &symbols[i];
	return NULL;
}

/* One pass over all types of the kernel. */
static int check_kernel_btf(void)
{
	const struct btf *btf = btf_vmlinux();
	const struct btf_type *type;
	struct symbol *symbol;
	const char *name;
	int ret, i;
	u32 id;

	if (IS_ERR_OR_NULL(btf)) {
		bpf_oom_refuse("this kernel has no BTF, without which no policy can be loaded");
		return -EOPNOTSUPP;
	}
	for (id = 1; (type = btf_type_by_id(btf, id)); id++) {
		switch (BTF_INFO_KIND(type->info)) {
		case BTF_KIND_STRUCT:
			name = btf_name(btf, type->name_off);
			find_members(btf, type, name);
			if (strcmp(name, "bpf_oom_ops") && strcmp(name, "bpf_psi_ops"))
				break;
			bpf_oom_refuse("this kernel has struct %s itself and needs no module",
				       name);
			return -EEXIST;
		case BTF_KIND_FUNC:
			symbol = symbol_named(btf_name(btf, type->name_off));
			if (!symbol)
				break;
			ret = check_prototype(symbol, btf, type);
			if (ret)
				return ret;
			symbol->found = true;
			break;
		}
		if (!(id % 1024))
			cond_resched();
	}
	for (i = 0; i < ARRAY_SIZE(symbols); i++) {
		if (symbols[i].prototype && !symbols[i].found) {
			bpf_oom_refuse("the BTF of this kernel does not say what %s() is, it may have been changed by the compiler",
				       symbols[i].name);
			return -EOPNOTSUPP;
		}
	}
	for (i = 0; i < ARRAY_SIZE(members); i++) {
		if (!members[i].found) {
			bpf_oom_refuse("%s is not where it was in struct %s of this kernel, the module was built for another build of it",
				       members[i].name, members[i].type);
			return -EOPNOTSUPP;
		}
	}
	return 0;
}

/*
 * Calls of @callee in the code from @start to @end. With some mitigations a call goes to a
 * thunk in the padding before the function.
 */
static int count_calls(unsigned long start, unsigned long end, unsigned long callee)
{
	const int call_size = 5, padding = 32;
	unsigned long at;
	int nr = 0;

	for (at = start; at + call_size <= end; at++) {
		if (*(u8 *)at != 0xe8)
			continue;
		if (callee - (at + call_size + *(s32 *)(at + 1)) < padding)
			nr++;
	}
	return nr;
}

/*
 * The hooks see nothing if the compiler has inlined what they hook, and policies would be
 * asked at a place where nobody expects it if they were called from elsewhere.
 */
static int check_code(void)
{
	static const struct {
		const char *name;
		unsigned long *address;
		int calls;
	} expected[] = {
		{ "oom_evaluate_task", &bpf_oom_syms.oom_evaluate_task, 1 },
		{ "mem_cgroup_scan_tasks", &bpf_oom_syms.mem_cgroup_scan_tasks, 1 },
		/* of the allocating task, and of the one that was chosen */
		{ "oom_kill_process", &bpf_oom_syms.oom_kill_process, 2 },
	};
	unsigned long start = bpf_oom_syms.out_of_memory, size = 0, offset = 0;
	int i, calls;

	if (!bpf_oom_call(start, (unsigned long)&size, (unsigned long)&offset, 0, 0, 0,
			  finding.kallsyms_lookup_size_offset) || !size || offset) {
		bpf_oom_refuse("the size of out_of_memory() cannot be found");
		return -EOPNOTSUPP;
	}
	for (i = 0; i < ARRAY_SIZE(expected); i++) {
		calls = count_calls(start, start + size, *expected[i].address);
		if (calls == expected[i].calls)
			continue;
		bpf_oom_refuse("out_of_memory() of this kernel calls %s() %d times, known is %d: it has another shape",
			       expected[i].name, calls, expected[i].calls);
		return -EOPNOTSUPP;
	}
	return 0;
}

int bpf_oom_find_symbols(void)
{
	static const struct {
		const char *name;
		unsigned long *address;
	} first[] = {
		{ "kallsyms_lookup_size_offset", &finding.kallsyms_lookup_size_offset },
		{ "bpf_get_btf_vmlinux", &finding.bpf_get_btf_vmlinux },
		{ "btf_name_by_offset", &finding.btf_name_by_offset },
	};
	int i, ret;

	BUILD_BUG_ON(!__same_type(bpf_get_btf_vmlinux, struct btf *(void)));

	finding.kallsyms_lookup_name = probe_address("kallsyms_lookup_name");
	if (!finding.kallsyms_lookup_name) {
		bpf_oom_refuse("kprobes are off (/sys/kernel/debug/kprobes, CONFIG_KPROBES), and nothing can be looked up");
		return -EOPNOTSUPP;
	}
	for (i = 0; i < ARRAY_SIZE(first); i++) {
		*first[i].address = lookup(first[i].name);
		if (!*first[i].address) {
			bpf_oom_refuse("this kernel has no %s", first[i].name);
			return -EOPNOTSUPP;
		}
	}
	/* first, so that a kernel that has the interface is told so whatever else it lacks */
	ret = check_kernel_btf();
	if (ret)
		return ret;
	for (i = 0; i < ARRAY_SIZE(symbols); i++) {
		*symbols[i].address = lookup(symbols[i].name);
		if (!*symbols[i].address) {
			bpf_oom_refuse("this kernel has no %s, or the compiler has inlined it",
				       symbols[i].name);
			return -EOPNOTSUPP;
		}
	}
	return check_code();
}

/* Without its own BTF, see types.c, the module would run, and no policy could be loaded. */
int bpf_oom_check_own_btf(struct btf *btf)
{
	const struct btf *base = btf_vmlinux();
	u32 id = 1;

	if (!btf) {
		bpf_oom_refuse("the kernel has not taken the BTF of the module");
		return -EOPNOTSUPP;
	}
	while (btf_type_by_id(base, id))
		id++;
	return bpf_oom_check_types(btf, id);
}

struct wanted_tracepoint {
	const char *name;
	struct tracepoint *tracepoint;
};

static void compare_tracepoint(struct tracepoint *tracepoint, void *data)
{
	struct wanted_tracepoint *wanted = data;

	if (!strcmp(tracepoint->name, wanted->name))
		wanted->tracepoint = tracepoint;
}

struct tracepoint *bpf_oom_find_tracepoint(const char *name)
{
	struct wanted_tracepoint wanted = { .name = name };

	for_each_kernel_tracepoint(compare_tracepoint, &wanted);
	if (!wanted.tracepoint)
		bpf_oom_refuse("this kernel has no tracepoint %s", name);
	return wanted.tracepoint;
}
