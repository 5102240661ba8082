// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Hooks into out_of_memory(), and who may call which kfunc.
 *
 * The place is that of the patched kernel: right before a victim is selected, so after the
 * OOM notifiers, a dying current, an allocation without __GFP_FS, panic_on_oom and
 * oom_kill_allocating_task. Direct calls of ftrace get there, one for each kind of OOM:
 *
 *   mem_cgroup_scan_tasks(memcg, oom_evaluate_task, oc)	OOM of a memcg
 *   oom_evaluate_task(init, oc), nobody chosen yet		OOM of the system
 *
 * When a policy has acted, the function is left at once, with "a victim is dying" as what it
 * found, for which out_of_memory() does nothing but say that there is progress.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "bpf_oom.h"

#include <linux/capability.h>
#include <linux/ftrace.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

/* Tasks in a hook. Who is not counted yet, or no more, has not slept. */
static atomic_t in_flight;

/*
 * Kills the others of memory.oom.group. The kernel meets the first victim among them again,
 * and counts and reports it a second time unless it has got rid of its memory by then.
 */
static int kill_group_member(struct task_struct *task, void *message)
{
	if (tsk_is_oom_victim(task))
		return 0;
	return (int)BPF_OOM_CALL2(oom_kill_memcg_member, task, message);
}

int bpf_oom_hook_scan(struct mem_cgroup *memcg, void *fn, void *arg)
{
	struct oom_control *oc = arg;
	int ret = 0;

	BUILD_BUG_ON(!__same_type(mem_cgroup_scan_tasks,
				  void (struct mem_cgroup *,
					int (*)(struct task_struct *, void *), void *)));

	if ((unsigned long)fn == bpf_oom_syms.oom_evaluate_task) {
		atomic_inc(&in_flight);
		if (bpf_handle_oom(oc)) {
			oc->chosen = (void *)-1UL;
			ret = 1;
		}
		atomic_dec(&in_flight);
	} else if ((unsigned long)fn == bpf_oom_syms.oom_kill_memcg_member) {
		atomic_inc(&in_flight);
		BPF_OOM_CALL3(mem_cgroup_scan_tasks, memcg, kill_group_member, arg);
		ret = 1;
		atomic_dec(&in_flight);
	}
	return ret;
}

/* Another thread of init may have become its leader by an exec() meanwhile. */
static bool still_leads(struct task_struct *init)
{
	return pid_task(find_pid_ns(1, &init_pid_ns), PIDTYPE_TGID) == init;
}

/*
 * The caller holds rcu_read_lock() and walks all processes, of which init is the first. So the
 * lock may be dropped there to sleep, but not if somebody holds another.
 */
int bpf_oom_hook_evaluate(struct task_struct *task, void *arg)
{
	struct oom_control *oc = arg;
	int ret = 0;

	if (oc->memcg)
		return 0;

	/*
	 * With order -1 a declared OOM does not panic for want of a victim. As soon as there is
	 * one, what is reported is the order that was declared.
	 */
	if (oc == bpf_oom_now.declared && oc->chosen)
		*(int *)&oc->order = bpf_oom_now.order;

	if (oc->chosen || !is_global_init(task))
		return 0;
#ifdef CONFIG_PREEMPT_RCU
	if (WARN_ON_ONCE(rcu_preempt_depth() != 1))
		return 0;
#endif

	atomic_inc(&in_flight);
	get_task_struct(task);
	rcu_read_unlock();
	if (bpf_handle_oom(oc))
		ret = 1;
	rcu_read_lock();
	/* The walk cannot go on from who is not on the list any more: have it begin anew. */
	if (!still_leads(task))
		ret = 1;
	if (ret)
		oc->chosen = (void *)-1UL;
	put_task_struct(task);
	atomic_dec(&in_flight);
	return ret;
}

/* Live patches of the same function may come and go: the trampolines return to either. */
#ifdef BPF_OOM_OPS_FUNC_IP
static int share_function(struct ftrace_ops *ops, unsigned long ip, enum ftrace_ops_cmd cmd)
#else
static int share_function(struct ftrace_ops *ops, enum ftrace_ops_cmd cmd)
#endif
{
	return 0;
}

static struct hook {
	struct ftrace_ops ops;
	const char *name;
	unsigned long *address;
	void (*trampoline)(void);
	bool set;
} hooks[] = {
	{
		.ops.ops_func = share_function,
		.name = "mem_cgroup_scan_tasks",
		.address = &bpf_oom_syms.mem_cgroup_scan_tasks,
		.trampoline = bpf_oom_tramp_scan,
	},
	{
		.ops.ops_func = share_function,
		.name = "oom_evaluate_task",
		.address = &bpf_oom_syms.oom_evaluate_task,
		.trampoline = bpf_oom_tramp_evaluate,
	},
};

static void remove_hooks(void)
{
	int i;

	for (i = ARRAY_SIZE(hooks) - 1; i >= 0; i--) {
		if (!hooks[i].set)
			continue;
		/* A call that stays must not lead into memory that is freed: stay, too. */
		while (unregister_ftrace_direct(&hooks[i].ops,
						(unsigned long)hooks[i].trampoline, true)) {
			pr_err_once("%s() cannot be unhooked: ftrace is broken, the module stays\n",
				    hooks[i].name);
			schedule_timeout_idle(HZ);
		}
		hooks[i].set = false;
	}

	/* Who is in a trampoline but not counted yet has not slept in it ... */
	synchronize_rcu_tasks();
	while (atomic_read(&in_flight))
		schedule_timeout_uninterruptible(1);
	/* ... nor has who is not counted any more. */
	synchronize_rcu_tasks();
}

static int set_hooks(void)
{
	int i, ret;

	/* Registering succeeds, and nobody calls the hook. */
	if (!READ_ONCE(*bpf_oom_syms.ftrace_enabled)) {
		bpf_oom_refuse("ftrace is off: sysctl kernel.ftrace_enabled=1 turns it on");
		return -EBUSY;
	}
	for (i = 0; i < ARRAY_SIZE(hooks); i++) {
		struct hook *hook = &hooks[i];

		ret = ftrace_set_filter_ip(&hook->ops, *hook->address, 0, 0);
		ret = ret ?: register_ftrace_direct(&hook->ops,
						    (unsigned long)hook->trampoline);
		if (ret) {
			ftrace_free_filter(&hook->ops);
			bpf_oom_refuse("%s() cannot be hooked (%d): %s", hook->name, ret,
				       ret == -EBUSY ? "somebody else has, such as a BPF program" :
				       "ftrace does not know it");
			remove_hooks();
			return ret;
		}
		hook->set = true;
		/* From now on kernel.ftrace_enabled=0 is refused, as with live patches. */
		hook->ops.flags |= FTRACE_OPS_FL_PERMANENT;
	}
	return 0;
}

__bpf_kfunc_start_defs();

/**
 * bpf_task_is_oom_victim - Is a task being killed by the OOM killer?
 * @task: the task
 */
__bpf_kfunc bool bpf_task_is_oom_victim(struct task_struct *task)
{
	return tsk_is_oom_victim(task);
}

__bpf_kfunc_end_defs();

static const char * const for_oom_policies[] = {
	"bpf_oom_kill_process", "bpf_oom_get_memcg", "bpf_oom_is_declared",
};

/* An OOM policy would wait for itself. */
static const char * const for_psi_policies[] = {
	"bpf_out_of_memory", "bpf_psi_create_trigger",
};

/*
 * The kfuncs of the kernel that an OOM policy may call, as with helpers an allow-list: others
 * take locks that are held around an allocation, or wait for user memory.
 */
static const char * const for_oom_policies_too[] = {
	"bpf_get_root_mem_cgroup", "bpf_get_mem_cgroup", "bpf_put_mem_cgroup",
	"bpf_mem_cgroup_usage", "bpf_mem_cgroup_page_state", "bpf_mem_cgroup_memory_events",
	"bpf_mem_cgroup_vm_events", "bpf_mem_cgroup_flush_stats",
	"bpf_iter_num_new", "bpf_iter_num_next", "bpf_iter_num_destroy",
	"bpf_iter_task_new", "bpf_iter_task_next", "bpf_iter_task_destroy",
	"bpf_iter_css_new", "bpf_iter_css_next", "bpf_iter_css_destroy",
	"bpf_iter_css_task_new", "bpf_iter_css_task_next", "bpf_iter_css_task_destroy",
	"bpf_rcu_read_lock", "bpf_rcu_read_unlock",
	"bpf_task_acquire", "bpf_task_release", "bpf_task_from_pid", "bpf_task_under_cgroup",
	"bpf_cgroup_acquire", "bpf_cgroup_release", "bpf_cgroup_ancestor", "bpf_cgroup_from_id",
	"bpf_cast_to_kern_ctx", "bpf_rdonly_cast",
};

static bool listed(const char * const *list, size_t nr, const char *name)
{
	size_t i;

	for (i = 0; i < nr; i++)
		if (!strcmp(list[i], name))
			return true;
	return false;
}

/*
 * May the current task register a policy? CAP_BPF can be handed to a container by a token, but
 * who decides what dies on the whole host must be its administrator. And without a link nobody
 * could find what is registered, nor its owner be known.
 */
int bpf_oom_may_register(struct bpf_link *link)
{
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	return link ? 0 : -EOPNOTSUPP;
}

struct btf *bpf_oom_btf;
u32 bpf_oom_ops_id;

/*
 * By name: the ids of BTF_ID_LIST() are those of link time, and the kernel relocates the BTF
 * of a module.
 */
static int filter_ops_kfunc(const struct bpf_prog *prog, u32 kfunc_id)
{
	const char *name = bpf_oom_type_name(bpf_oom_btf, kfunc_id);
	bool of_oom = listed(for_oom_policies, ARRAY_SIZE(for_oom_policies), name);
	bool of_psi = listed(for_psi_policies, ARRAY_SIZE(for_psi_policies), name);

	if (!of_oom && !of_psi)
		return 0;
	if (prog->type != BPF_PROG_TYPE_STRUCT_OPS || prog->aux->attach_btf != bpf_oom_btf)
		return -EACCES;
	return of_oom == (prog->aux->attach_btf_id == bpf_oom_ops_id) ? 0 : -EACCES;
}

/*
 * Nobody asks a module about the kernel's own kfuncs, but the verifier asks whether a program
 * may be a member before it looks at what it calls.
 */
int bpf_oom_check_kfuncs(const struct bpf_prog *prog)
{
	const char *name;
	u32 i;

	for (i = 0; i < prog->len; i++) {
		const struct bpf_insn *insn = &prog->insnsi[i];

		if (insn->code != (BPF_JMP | BPF_CALL) ||
		    insn->src_reg != BPF_PSEUDO_KFUNC_CALL)
			continue;
		/*
		 * What a module exports to struct_ops is that module's business. And old
		 * libbpf leaves a weak one that is not there as 0, in code that is not reached.
		 */
		if (insn->off || !insn->imm)
			continue;
		name = bpf_oom_type_name(bpf_oom_btf, insn->imm);
		if (!listed(for_oom_policies_too, ARRAY_SIZE(for_oom_policies_too), name)) {
			pr_info_ratelimited("the kfunc %s is not for OOM policies\n", name);
			return -EACCES;
		}
	}
	return 0;
}

/* A module may register one set for each kind of program, and no more. */
static const struct btf_kfunc_id_set common_set = {
	.owner = THIS_MODULE,
	.set = &bpf_oom_common_kfuncs,
};

static const struct btf_kfunc_id_set ops_set = {
	.owner = THIS_MODULE,
	.set = &bpf_oom_ops_kfuncs,
	.filter = filter_ops_kfunc,
};

static int __init bpf_oom_module_init(void)
{
	int ret;

	ret = bpf_oom_find_symbols();
	if (ret)
		return ret;
	ret = bpf_psi_init();
	if (ret)
		return ret;
	ret = bpf_oom_init();
	if (ret)
		goto psi;
	/* Registering succeeds without BTF, so whether there is some is asked after it. */
	ret = bpf_oom_check_own_btf(bpf_oom_btf);
	if (ret)
		goto oom;
	ret = register_btf_kfunc_id_set(BPF_PROG_TYPE_UNSPEC, &common_set);
	ret = ret ?: register_btf_kfunc_id_set(BPF_PROG_TYPE_STRUCT_OPS, &ops_set);
	if (ret) {
		bpf_oom_refuse("the kernel does not take its kfuncs (%d)", ret);
		goto oom;
	}
	ret = set_hooks();
	if (ret)
		goto oom;
	pr_info("loaded, version %s, source %s\n", THIS_MODULE->version, BPF_OOM_SOURCE_DIGEST);
	return 0;
oom:
	bpf_oom_exit();
psi:
	bpf_psi_exit();
	return ret;
}

/* No policy is loaded: each holds a reference to the module. */
static void __exit bpf_oom_module_exit(void)
{
	remove_hooks();
	bpf_oom_exit();
	bpf_psi_exit();
	pr_info("unloaded\n");
}

module_init(bpf_oom_module_init);
module_exit(bpf_oom_module_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("OOM policies and pressure events in BPF, for kernels without them");
MODULE_VERSION("0.1.0");
MODULE_INFO(source, BPF_OOM_SOURCE_DIGEST);
