// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The BTF of the module, and the ids of its kfuncs. pahole and resolve_btfids make neither.
 *
 * pahole describes all that the code of a module mentions, which leads to most types of the
 * kernel, and then has to find out that the kernel has them already. That works or not with
 * the version of libbpf that it uses; where it does not, the module has a struct mem_cgroup
 * of its own, which the verifier tells from the kernel's, and no policy can be loaded.
 *
 * BPF programs need very little of it: interface.h. So it is written down here, as numbers
 * that the compiler knows. Types of the kernel are only named, in .BTF.base, and each kernel
 * since 6.11 puts its own in their place when it loads the module, or refuses to load it. So
 * there is nothing to be looked up in a vmlinux at build time either.
 *
 * The format is that of Documentation/bpf/btf.rst: a header, types, which are rows of u32 and
 * have the ids 1, 2, 3 ... in the order in which they come, and strings.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "bpf_oom.h"

#include <linux/build_bug.h>
#include <linux/stddef.h>
#include <uapi/linux/btf.h>

/* Those of the kernel, by name. Not its integers: ours are as good as its own. */
#ifdef BPF_OOM_MEMCG_KFUNCS
#define MEMCG_KERNEL_TYPES(T)								\
	T(STRUCT, struct, cgroup_subsys_state)						\
	T(ENUM, enum, memcg_memory_event)						\
	T(ENUM, enum, vm_event_item)
#else
#define MEMCG_KERNEL_TYPES(T)
#endif

#define KERNEL_TYPES(T)									\
	T(STRUCT, struct, bpf_struct_ops_common_value)					\
	T(STRUCT, struct, mem_cgroup)							\
	T(STRUCT, struct, oom_control)							\
	T(STRUCT, struct, task_struct)							\
	MEMCG_KERNEL_TYPES(T)

/* What a map holds, as register_bpf_struct_ops() has it */
struct bpf_struct_ops_bpf_oom_ops {
	struct bpf_struct_ops_common_value common;
	struct bpf_oom_ops data ____cacheline_aligned_in_smp;
};

struct bpf_struct_ops_bpf_psi_ops {
	struct bpf_struct_ops_common_value common;
	struct bpf_psi_ops data ____cacheline_aligned_in_smp;
};

/* Nothing may be missing below. */
static_assert(sizeof(struct bpf_oom_ops) == sizeof(void *) + BPF_OOM_NAME_MAX_LEN);
static_assert(sizeof(struct bpf_psi_ops) == 4 * sizeof(void *));
static_assert(sizeof(struct bpf_psi_event) == sizeof(u64));

/* @m of a function @f and of type and name of a parameter, for each of its parameters */
#define EACH_0(m, f)
#define EACH_1(m, f, t, n)	m(f, t, n)
#define EACH_2(m, f, t, n, ...)	m(f, t, n) EACH_1(m, f, __VA_ARGS__)
#define EACH_3(m, f, t, n, ...)	m(f, t, n) EACH_2(m, f, __VA_ARGS__)
#define EACH_4(m, f, t, n, ...)	m(f, t, n) EACH_3(m, f, __VA_ARGS__)
#define EACH_5(m, f, t, n, ...)	m(f, t, n) EACH_4(m, f, __VA_ARGS__)
#define EACH(count, m, f, ...)	EACH_##count(m, f, ##__VA_ARGS__)

#define PLUS_ONE(...)		+ 1

/*
 * Strings: at an offset is what a struct has there. Ours come after those of the base, of
 * which the first is empty.
 */
#define NAMES(N)									\
	N(bool_, "_Bool")								\
	N(char_, "char")								\
	N(int_, "int")									\
	N(uint_, "unsigned int")							\
	N(ulong_, "long unsigned int")							\
	N(ullong_, "long long unsigned int")						\
	N(bpf_kfunc, "bpf_kfunc")							\
	N(bpf_oom_limits, "bpf_oom_limits")						\
	N(max_strikes, "BPF_OOM_MAX_STRIKES")						\
	N(bpf_psi_resource_flags, "bpf_psi_resource_flags")				\
	N(averages, "BPF_PSI_AVERAGES")							\
	N(full, "BPF_PSI_FULL")								\
	N(bpf_psi, "bpf_psi")								\
	N(bpf_psi_event, "bpf_psi_event")						\
	N(cgroup_id, "cgroup_id")							\
	N(bpf_oom_ops, "bpf_oom_ops")							\
	N(handle_out_of_memory, "handle_out_of_memory")					\
	N(name, "name")									\
	N(bpf_psi_ops, "bpf_psi_ops")							\
	N(init, "init")									\
	N(handle_psi_event, "handle_psi_event")						\
	N(handle_cgroup_free, "handle_cgroup_free")					\
	N(handle_cgroup_online, "handle_cgroup_online")					\
	N(bpf_struct_ops_bpf_oom_ops, "bpf_struct_ops_bpf_oom_ops")			\
	N(bpf_struct_ops_bpf_psi_ops, "bpf_struct_ops_bpf_psi_ops")			\
	N(common, "common")								\
	N(data, "data")

#define ROOM_FOR_TYPE(kind, keyword, name) char name[sizeof(#name)];
struct base_strings {
	char empty[1];
	KERNEL_TYPES(ROOM_FOR_TYPE)
};

#define ROOM_FOR_NAME(id, text) char id[sizeof(text)];
#define ROOM_FOR_PARAMETER(f, t, n) char n[sizeof(#n)];
#define ROOM_FOR_FUNCTION(f, flags, ret, count, ...)					\
	struct {									\
		char self[sizeof(#f)];							\
		EACH(count, ROOM_FOR_PARAMETER, f, ##__VA_ARGS__)			\
	} f_##f;
struct own_strings {
	NAMES(ROOM_FOR_NAME)
	BPF_OOM_FUNCTION_LIST(ROOM_FOR_FUNCTION)
};

#define STRING(id)									\
	(u32)(sizeof(struct base_strings) + offsetof(struct own_strings, id))

/* Types: RECORD() of the name of the id, and of what it consists of */
#define INFO(kind, count)	((u32)BTF_KIND_##kind << 24 | (count))
#define INT(id, type, encoding)								\
	STRING(id), INFO(INT, 0), sizeof(type), (encoding) << 24 | 8 * sizeof(type)
#define CONST(of)		0, INFO(CONST, 0), of
#define PTR(to)			0, INFO(PTR, 0), to
#define ARRAY(of, index, size)	0, INFO(ARRAY, 0), 0, of, index, size
#define ENUM(id, count)		STRING(id), INFO(ENUM, count), sizeof(u32)
#define ENUMERATOR(id, value)	STRING(id), (u32)(value)
#define STRUCT(id, size, count)	STRING(id), INFO(STRUCT, count), size
#define MEMBER(type, id, is)	STRING(id), is, 8 * offsetof(struct type, id)
#define PARAMETER(f, t, n)	, STRING(f_##f.n), T_##t
#define FUNCTION(f, flags, ret, count, ...)						\
	RECORD(PROTO_##f, 0, INFO(FUNC_PROTO, count), T_##ret				\
	       EACH(count, PARAMETER, f, ##__VA_ARGS__))				\
	RECORD(FUNC_##f, STRING(f_##f.self), INFO(FUNC, BTF_FUNC_STATIC), PROTO_##f)
#define KFUNC_TAG(f, ...)								\
	RECORD(TAG_##f, STRING(bpf_kfunc), INFO(DECL_TAG, 0), FUNC_##f, (u32)-1)
#define STUB_POINTER(f, ...)	RECORD(PTR_##f, PTR(PROTO_##f))

#ifdef BPF_OOM_MEMCG_KFUNCS
#define MEMCG_TYPES		RECORD(T_css, PTR(KERNEL_cgroup_subsys_state))
#define T_memory_event		KERNEL_memcg_memory_event
#define T_vm_event		KERNEL_vm_event_item
#else
#define MEMCG_TYPES
#endif

#define TYPES										\
	RECORD(T_bool, INT(bool_, bool, BTF_INT_BOOL))					\
	RECORD(CHAR, INT(char_, char, 0))						\
	RECORD(T_int, INT(int_, int, BTF_INT_SIGNED))					\
	RECORD(T_u32, INT(uint_, unsigned int, 0))					\
	RECORD(T_ulong, INT(ulong_, unsigned long, 0))					\
	RECORD(T_u64, INT(ullong_, unsigned long long, 0))				\
	RECORD(CONST_CHAR, CONST(CHAR))							\
	RECORD(T_string, PTR(CONST_CHAR))						\
	RECORD(T_memcg, PTR(KERNEL_mem_cgroup))						\
	RECORD(T_oom, PTR(KERNEL_oom_control))						\
	RECORD(T_task, PTR(KERNEL_task_struct))						\
	MEMCG_TYPES									\
	RECORD(LIMITS, ENUM(bpf_oom_limits, 1),						\
	       ENUMERATOR(max_strikes, BPF_OOM_MAX_STRIKES))				\
	RECORD(FLAGS, ENUM(bpf_psi_resource_flags, 2),					\
	       ENUMERATOR(averages, BPF_PSI_AVERAGES), ENUMERATOR(full, BPF_PSI_FULL))	\
	/* No program looks into it. */							\
	RECORD(PSI, STRUCT(bpf_psi, 0, 0))						\
	RECORD(T_psi, PTR(PSI))								\
	RECORD(PSI_EVENT, STRUCT(bpf_psi_event, sizeof(struct bpf_psi_event), 1),	\
	       MEMBER(bpf_psi_event, cgroup_id, T_u64))					\
	RECORD(T_psi_event, PTR(PSI_EVENT))						\
	BPF_OOM_FUNCTION_LIST(FUNCTION)							\
	BPF_OOM_COMMON_KFUNC_LIST(KFUNC_TAG)						\
	BPF_OOM_OPS_KFUNC_LIST(KFUNC_TAG)						\
	BPF_OOM_STUB_LIST(STUB_POINTER)							\
	RECORD(NAME, ARRAY(CHAR, T_int, BPF_OOM_NAME_MAX_LEN))				\
	RECORD(OOM_OPS, STRUCT(bpf_oom_ops, sizeof(struct bpf_oom_ops), 2),		\
	       MEMBER(bpf_oom_ops, handle_out_of_memory,				\
		      PTR_bpf_oom_ops__handle_out_of_memory),				\
	       MEMBER(bpf_oom_ops, name, NAME))						\
	RECORD(PSI_OPS, STRUCT(bpf_psi_ops, sizeof(struct bpf_psi_ops), 4),		\
	       MEMBER(bpf_psi_ops, init, PTR_bpf_psi_ops__init),			\
	       MEMBER(bpf_psi_ops, handle_psi_event, PTR_bpf_psi_ops__handle_psi_event),	\
	       MEMBER(bpf_psi_ops, handle_cgroup_free, PTR_bpf_psi_ops__handle_cgroup_free), \
	       MEMBER(bpf_psi_ops, handle_cgroup_online,				\
		      PTR_bpf_psi_ops__handle_cgroup_online))				\
	RECORD(OOM_OPS_VALUE, STRUCT(bpf_struct_ops_bpf_oom_ops,			\
				     sizeof(struct bpf_struct_ops_bpf_oom_ops), 2),	\
	       MEMBER(bpf_struct_ops_bpf_oom_ops, common,				\
		      KERNEL_bpf_struct_ops_common_value),				\
	       MEMBER(bpf_struct_ops_bpf_oom_ops, data, OOM_OPS))			\
	RECORD(PSI_OPS_VALUE, STRUCT(bpf_struct_ops_bpf_psi_ops,			\
				     sizeof(struct bpf_struct_ops_bpf_psi_ops), 2),	\
	       MEMBER(bpf_struct_ops_bpf_psi_ops, common,				\
		      KERNEL_bpf_struct_ops_common_value),				\
	       MEMBER(bpf_struct_ops_bpf_psi_ops, data, PSI_OPS))

#define KERNEL_ID(kind, keyword, name) KERNEL_##name,
#define RECORD(id, ...) id,
enum {
	T_void,
	KERNEL_TYPES(KERNEL_ID)
	TYPES
};
#undef RECORD

enum { FIRST_OWN = 1 KERNEL_TYPES(PLUS_ONE) };

/* Without what later kernels have behind it */
struct header {
	u16 magic;
	u8 version;
	u8 flags;
	u32 hdr_len;
	u32 type_off;
	u32 type_len;
	u32 str_off;
	u32 str_len;
};

#define HEADER(of) {									\
	.magic = BTF_MAGIC,								\
	.version = BTF_VERSION,								\
	.hdr_len = sizeof(struct header),						\
	.type_len = sizeof_field(struct of, types),					\
	.str_off = sizeof_field(struct of, types),					\
	.str_len = sizeof_field(struct of, strings),					\
}

/* They must end where the last string ends, hence __packed. */
#define KERNEL_TYPE(kind, keyword, name)						\
	offsetof(struct base_strings, name), INFO(kind, 0), sizeof(keyword name),
#define KERNEL_TYPE_NAME(kind, keyword, name) .name = #name,
static const struct base {
	struct header header;
	u32 types[sizeof((u32[]){ KERNEL_TYPES(KERNEL_TYPE) }) / sizeof(u32)];
	struct base_strings strings;
} __packed base __used __section(".BTF.base") = {
	.header = HEADER(base),
	.types = { KERNEL_TYPES(KERNEL_TYPE) },
	.strings = { KERNEL_TYPES(KERNEL_TYPE_NAME) },
};

#define RECORD(id, ...) __VA_ARGS__,
#define TEXT_OF_NAME(id, text) .id = text,
#define TEXT_OF_PARAMETER(f, t, n) .n = #n,
#define TEXT_OF_FUNCTION(f, flags, ret, count, ...)					\
	.f_##f = { .self = #f, EACH(count, TEXT_OF_PARAMETER, f, ##__VA_ARGS__) },
static const struct own {
	struct header header;
	u32 types[sizeof((u32[]){ TYPES }) / sizeof(u32)];
	struct own_strings strings;
} __packed own __used __section(".BTF") = {
	.header = HEADER(own),
	.types = { TYPES },
	.strings = { NAMES(TEXT_OF_NAME) BPF_OOM_FUNCTION_LIST(TEXT_OF_FUNCTION) },
};
#undef RECORD

/* Sorted by id, as the list is. The kernel knows what has become of our ids. */
#define KFUNC(f, flags, ...) { FUNC_##f, flags },
struct btf_id_set8 bpf_oom_common_kfuncs = {
	.cnt = 0 BPF_OOM_COMMON_KFUNC_LIST(PLUS_ONE),
	.flags = BTF_SET8_KFUNCS,
	.pairs = { BPF_OOM_COMMON_KFUNC_LIST(KFUNC) },
};

struct btf_id_set8 bpf_oom_ops_kfuncs = {
	.cnt = 0 BPF_OOM_OPS_KFUNC_LIST(PLUS_ONE),
	.flags = BTF_SET8_KFUNCS,
	.pairs = { BPF_OOM_OPS_KFUNC_LIST(KFUNC) },
};

/*
 * Does the kernel have this BTF, whose first type is @first by now, and not what pahole made of
 * the module after all?
 */
int bpf_oom_check_types(const struct btf *btf, u32 first)
{
#define NAMED(f, ...) { FUNC_##f, #f },
	static const struct {
		u32 id;
		const char *name;
	} functions[] = { BPF_OOM_FUNCTION_LIST(NAMED) };
	int i;

	for (i = 0; i < ARRAY_SIZE(functions); i++) {
		u32 id = functions[i].id - FIRST_OWN + first;
		const struct btf_type *type = btf_type_by_id(btf, id);

		if (type && btf_type_is_func(type) &&
		    !strcmp(bpf_oom_type_name(btf, id), functions[i].name))
			continue;
		bpf_oom_refuse("the BTF of the module is not its own, %s() is not in its place: it was built without kernel/module/Makefile",
			       functions[i].name);
		return -EOPNOTSUPP;
	}
	return 0;
}
