// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * OOM policies in BPF
 *
 * struct bpf_oom_ops lets BPF programs choose what is killed on an OOM. Any number of them
 * form a chain: they are asked in the order in which they were loaded, until one says that it
 * handled the OOM and a victim was really marked. In all other cases the kernel's own killer
 * runs, and no program can prevent that.
 *
 * Programs may sleep, since the iterators and the kill may. They run under oom_lock, possibly
 * in the middle of a page fault, so they must neither wait for user memory nor run into
 * another OOM; see call_policy(). One that is slow, or claims progress without making any,
 * again and again is bypassed for a time; see judge().
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "bpf_oom.h"

#include <linux/cpuset.h>
#include <linux/ctype.h>
#include <linux/mempolicy.h>
#include <linux/pid.h>
#include <linux/rculist.h>
#include <linux/ratelimit.h>
#include <linux/sched/cputime.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/srcu.h>
#include <linux/sysctl.h>
#include <linux/tracepoint.h>
#include <linux/uaccess.h>
#include <trace/events/oom.h>

/* The reaper lets a victim exit by itself for 2 s, then it takes the memory. */
#define FREEING_TIMEOUT (5 * HZ)

struct bpf_oom_handler {
	struct list_head node;
	const struct bpf_oom_ops *ops;
	struct bpf_link *link;

	/* Under oom_lock: calls in a row that took too long, that claimed progress in vain */
	unsigned int slow;
	unsigned int idle;
	/* How long the next bypass lasts, in seconds */
	unsigned int bypass_s;
	/* The last one: from when to when, and the budget that was exceeded, 0: no progress */
	u64 bypassed_ns;
	u64 bypassed_until_ns;
	unsigned int bypassed_budget_ms;
	/* It is over, and the log says so; or it has never been */
	bool asked;
};

/* The chain, oldest first. Written under the lock, walked under SRCU. */
static LIST_HEAD(bpf_oom_chain);
static DEFINE_MUTEX(bpf_oom_chain_lock);
DEFINE_STATIC_SRCU(bpf_oom_srcu);

struct bpf_oom_state bpf_oom_now;

/* The CPU time that a policy may take, not counting its kills. 0: as much as it likes. */
static unsigned int sysctl_bpf_oom_budget_ms = 1000;

static int show_bypassed(const struct ctl_table *table, int write, void *buffer, size_t *length,
			 loff_t *position);

static struct ctl_table bpf_oom_sysctls[] = {
	{
		.procname = "bpf_oom_bypassed",
		.mode = 0444,
		.proc_handler = show_bypassed,
	},
	{
		.procname = "bpf_oom_budget_ms",
		.data = &sysctl_bpf_oom_budget_ms,
		.maxlen = sizeof(sysctl_bpf_oom_budget_ms),
		.mode = 0644,
		.proc_handler = proc_douintvec,
	},
};

static struct ctl_table_header *bpf_oom_sysctl_header;

/* Under oom_lock: the CPU time that the kills of the running program took */
static u64 bpf_oom_kill_ns;

/*
 * Victims that may not have freed their memory yet, and since when, under oom_lock. The
 * kernel remembers no such time. By number, not by reference: they are noted where nothing
 * can be allocated or freed.
 */
static struct victim {
	pid_t tgid;
	unsigned long since;
} victims[1024];
static unsigned int nr_victims;
/* Not all victims from before then are there */
static unsigned long victims_lost;

static struct task_struct *find_victim(const struct victim *victim)
{
	struct task_struct *task = pid_task(find_pid_ns(victim->tgid, &init_pid_ns), PIDTYPE_TGID);

	return task && tsk_is_oom_victim(task) ? task : NULL;
}

/* Under rcu_read_lock(). Who cannot be found any more was reaped by its parent. */
static void forget_reaped_victims(void)
{
	unsigned int from, to = 0;

	for (from = 0; from < nr_victims; from++)
		if (find_victim(&victims[from]))
			victims[to++] = victims[from];
	nr_victims = to;
}

static void note_victim(struct task_struct *task)
{
	pid_t tgid = task_tgid_nr(task);
	unsigned int i;

	/* A victim that runs into an OOM itself is marked again. */
	for (i = 0; i < nr_victims; i++)
		if (victims[i].tgid == tgid &&
		    time_before(jiffies, victims[i].since + FREEING_TIMEOUT))
			return;

	rcu_read_lock();
	if (nr_victims == ARRAY_SIZE(victims))
		forget_reaped_victims();
	rcu_read_unlock();
	if (nr_victims == ARRAY_SIZE(victims)) {
		victims_lost = jiffies;
		return;
	}
	victims[nr_victims].tgid = tgid;
	victims[nr_victims].since = jiffies;
	nr_victims++;
}

static const char *constraint_text(enum oom_constraint constraint)
{
	static const char * const text[] = {
		[CONSTRAINT_NONE] = "CONSTRAINT_NONE",
		[CONSTRAINT_CPUSET] = "CONSTRAINT_CPUSET",
		[CONSTRAINT_MEMORY_POLICY] = "CONSTRAINT_MEMORY_POLICY",
		[CONSTRAINT_MEMCG] = "CONSTRAINT_MEMCG",
	};

	return constraint < ARRAY_SIZE(text) ? text[constraint] : "?";
}

/*
 * What the patched kernel says in its report: who chose, and the text of a declared OOM. As
 * often as the kernel reports.
 */
static void report(const char *policy, enum oom_constraint constraint)
{
	static DEFINE_RATELIMIT_STATE(limit, DEFAULT_RATELIMIT_INTERVAL, DEFAULT_RATELIMIT_BURST);

	if (!__ratelimit(&limit))
		return;
	pr_warn("oom_policy=%s constraint=%s\n", policy,
		bpf_oom_now.constraint ?: constraint_text(constraint));
}

/* The tracepoint mark_victim: for each process that is killed, by whomever. */
static void victim_marked(void *data, struct task_struct *task, uid_t uid)
{
	bpf_oom_now.freed = true;
	note_victim(task);
	if (bpf_oom_now.passed_on != current)
		return;
	bpf_oom_now.passed_on = NULL;
	report("default", bpf_oom_now.passed_constraint);
}

static struct tracepoint *mark_victim;

/* Can memory of the task be memory that there is too little of? */
static bool node_eligible(struct task_struct *task, struct oom_control *oc)
{
#ifdef CONFIG_NUMA
	struct task_struct *thread;
	bool eligible = false;

	if (oc->memcg)
		return true;

	rcu_read_lock();
	for_each_thread(task, thread) {
		if (oc->nodemask)
			eligible = (u8)BPF_OOM_CALL2(mempolicy_in_oom_domain, thread, oc->nodemask);
#ifdef CONFIG_CPUSETS
		else
			eligible = (int)BPF_OOM_CALL2(cpuset_mems_allowed_intersects, current,
						      thread);
#else
		else
			eligible = true;
#endif
		if (eligible)
			break;
	}
	rcu_read_unlock();
	return eligible;
#else
	return true;
#endif
}

static bool task_in_scope(struct task_struct *task, struct oom_control *oc)
{
	bool in_scope;

	rcu_read_lock();
	in_scope = !oc->memcg || mem_cgroup_is_descendant(mem_cgroup_from_task(task), oc->memcg);
	rcu_read_unlock();

	return in_scope && node_eligible(task, oc);
}

/*
 * Is there memory that goes with the end of @task, a thread of a victim?
 *
 * exit_mmap() sets MMF_OOM_SKIP before it frees the pages that it has gathered, and clears
 * the tree after. What a victim has in tmpfs goes later still, with the last close of its
 * files, but before the exit state of the thread is set.
 */
static bool thread_pending(struct task_struct *task, unsigned long since)
{
	struct mm_struct *mm = task->signal->oom_mm;

	if (!mm_flags_test(MMF_OOM_SKIP, mm))
		return true;

	/* Reaped, and for a reason: it may never get further. */
	if (atomic_read(&mm->mm_users))
		return false;

	/* The rest takes moments, unless something hangs: then others must die. */
	if (time_after(jiffies, since + FREEING_TIMEOUT))
		return false;

	return !mtree_empty(&mm->mm_mt) || !READ_ONCE(task->exit_state);
}

/* All threads: when one frees the memory of its group at last the leader may be gone. */
static bool process_pending(struct task_struct *leader, struct oom_control *oc, unsigned long since)
{
	struct task_struct *thread;

	for_each_thread(leader, thread)
		if (thread_pending(thread, since) && task_in_scope(thread, oc))
			return true;
	return false;
}

/*
 * An earlier victim in scope is about to free its memory. The kernel's own killer waits for
 * it (see oom_evaluate_task()), and so must the policies, or they would kill more than
 * needed. The reaper and a timeout bound that wait.
 */
static bool wait_for_victim(struct oom_control *oc)
{
	struct task_struct *task;
	bool pending = false;
	unsigned int i;

	rcu_read_lock();
	forget_reaped_victims();
	for (i = 0; i < nr_victims && !pending; i++) {
		task = find_victim(&victims[i]);
		pending = task && process_pending(task, oc, victims[i].since);
	}
	if (!pending && time_before(jiffies, victims_lost + FREEING_TIMEOUT)) {
		for_each_process(task) {
			if (!tsk_is_oom_victim(task))
				continue;
			pending = process_pending(task, oc, victims_lost);
			if (pending)
				break;
		}
	}
	rcu_read_unlock();
	return pending;
}

/*
 * A victim may have freed its memory after the charge path last looked. The legacy hierarchy
 * has a second limit that is not looked at here.
 */
static bool has_room(struct oom_control *oc)
{
	unsigned long usage, max;

	if (!oc->memcg || bpf_oom_now.constraint || !cgroup_subsys_on_dfl(memory_cgrp_subsys))
		return false;

	max = READ_ONCE(oc->memcg->memory.max);
	usage = page_counter_read(&oc->memcg->memory);
	return usage < max && max - usage >= 1UL << oc->order;
}

/*
 * Of the current task. Not the time of day: a program that waits for its turn on a busy CPU
 * is not to blame.
 */
static u64 cpu_time_ns(void)
{
	BUILD_BUG_ON(!__same_type(task_sched_runtime,
				  unsigned long long (struct task_struct *)));
	return BPF_OOM_CALL1(task_sched_runtime, current);
}

/*
 * Whatever the program does, it must not wait for the oom_lock which it runs under.
 * PF_MEMALLOC makes its allocations and charges succeed without reclaim and without another
 * OOM; with page faults disabled, access to user memory fails instead of waiting for
 * mmap_lock or charging a page.
 */
static int call_policy(const struct bpf_oom_ops *ops, struct oom_control *oc, u64 *took_ns)
{
	unsigned int noreclaim;
	u64 start;
	int ret;

	bpf_oom_kill_ns = 0;
	noreclaim = memalloc_noreclaim_save();
	pagefault_disable();
	start = cpu_time_ns();
	ret = ops->handle_out_of_memory(oc);
	*took_ns = cpu_time_ns() - start - bpf_oom_kill_ns;
	pagefault_enable();
	memalloc_noreclaim_restore(noreclaim);

	return ret;
}

static const char *name_in_log(const struct bpf_oom_ops *ops)
{
	return *ops->name ? ops->name : "without a name";
}

static void say_why_bypassed(const struct bpf_oom_handler *handler, char *text, size_t size)
{
	unsigned int budget_ms = READ_ONCE(handler->bypassed_budget_ms);

	if (budget_ms)
		scnprintf(text, size, "%d calls in a row took more than %u ms of CPU time",
			  BPF_OOM_MAX_STRIKES, budget_ms);
	else
		scnprintf(text, size, "it claimed progress %d times in a row and made none",
			  BPF_OOM_MAX_STRIKES);
}

/* Did the policy behave? If it did not for too often, nobody asks it for a while. */
static void judge(struct bpf_oom_handler *handler, bool claimed, u64 took_ns)
{
	unsigned int budget_ms = READ_ONCE(sysctl_bpf_oom_budget_ms);
	bool slow = budget_ms && took_ns > (u64)budget_ms * NSEC_PER_MSEC;
	u64 now_ns = ktime_get_ns();
	char why[80];

	handler->slow = slow ? handler->slow + 1 : 0;
	handler->idle = claimed && !bpf_oom_now.freed ? handler->idle + 1 : 0;
	if (!slow && bpf_oom_now.freed)
		handler->bypass_s = BPF_OOM_BYPASS_S;
	if (handler->slow < BPF_OOM_MAX_STRIKES && handler->idle < BPF_OOM_MAX_STRIKES)
		return;

	WRITE_ONCE(handler->bypassed_budget_ms,
		   handler->slow >= BPF_OOM_MAX_STRIKES ? budget_ms : 0);
	WRITE_ONCE(handler->bypassed_ns, now_ns);
	WRITE_ONCE(handler->bypassed_until_ns, now_ns + (u64)handler->bypass_s * NSEC_PER_SEC);
	say_why_bypassed(handler, why, sizeof(why));
	pr_warn("policy %s is bypassed for %u s: %s\n", name_in_log(handler->ops),
		handler->bypass_s, why);
	handler->bypass_s = min(handler->bypass_s * 2, (unsigned int)BPF_OOM_BYPASS_MAX_S);
	handler->asked = false;
	handler->slow = 0;
	handler->idle = 0;
}

static bool bypassed(struct bpf_oom_handler *handler)
{
	if (ktime_get_ns() < handler->bypassed_until_ns)
		return true;
	if (!handler->asked)
		pr_info("policy %s is asked again\n", name_in_log(handler->ops));
	handler->asked = true;
	return false;
}

/*
 * vm.bpf_oom_bypassed: a line for each policy that was ever bypassed, with the id of its link,
 * the milliseconds since the last bypass began and until it is over, and why. The log has the
 * same, but not for ever, nor by a clock that others have.
 */
static int show_bypassed(const struct ctl_table *table, int write, void *buffer, size_t *length,
			 loff_t *position)
{
	struct ctl_table shown = { .maxlen = PAGE_SIZE };
	struct bpf_oom_handler *handler;
	u64 now_ns, since_ns, until_ns;
	size_t used = 0;
	char why[80];
	int idx, ret;

	shown.data = kzalloc(PAGE_SIZE, GFP_KERNEL);
	if (!shown.data)
		return -ENOMEM;

	idx = srcu_read_lock(&bpf_oom_srcu);
	list_for_each_entry_srcu(handler, &bpf_oom_chain, node,
				 srcu_read_lock_held(&bpf_oom_srcu)) {
		since_ns = READ_ONCE(handler->bypassed_ns);
		until_ns = READ_ONCE(handler->bypassed_until_ns);
		now_ns = ktime_get_ns();
		if (!since_ns)
			continue;
		say_why_bypassed(handler, why, sizeof(why));
		used += scnprintf(shown.data + used, PAGE_SIZE - used, "%s%u %llu %llu %s",
				  used ? "\n" : "", handler->link->id,
				  div_u64(now_ns - since_ns, NSEC_PER_MSEC),
				  div_u64(max(until_ns, now_ns) - now_ns, NSEC_PER_MSEC), why);
	}
	srcu_read_unlock(&bpf_oom_srcu, idx);

	ret = proc_dostring(&shown, write, buffer, length, position);
	kfree(shown.data);
	return ret;
}

static bool ask_policies(struct oom_control *oc)
{
	struct bpf_oom_handler *handler;
	bool handled = false;
	int idx;

	idx = srcu_read_lock(&bpf_oom_srcu);
	list_for_each_entry_srcu(handler, &bpf_oom_chain, node,
				 srcu_read_lock_held(&bpf_oom_srcu)) {
		bool claimed;
		u64 took_ns;

		if (bypassed(handler))
			continue;

		bpf_oom_now.oc = oc;
		bpf_oom_now.policy = *handler->ops->name ? handler->ops->name : "default";
		bpf_oom_now.freed = false;
		claimed = call_policy(handler->ops, oc, &took_ns);
		judge(handler, claimed, took_ns);
		if (claimed && bpf_oom_now.freed) {
			handled = true;
			break;
		}
	}
	bpf_oom_now.oc = NULL;
	bpf_oom_now.policy = NULL;
	srcu_read_unlock(&bpf_oom_srcu, idx);

	return handled;
}

/**
 * bpf_handle_oom - Ask the BPF OOM policies
 * @oc: the OOM
 *
 * Called with oom_lock held, where the kernel would select a victim.
 *
 * Return: true if there is nothing left to do for this OOM.
 */
noinline bool bpf_handle_oom(struct oom_control *oc)
{
	bool declared = oc == bpf_oom_now.declared;
	bool handled = false;

	bpf_oom_now.passed_on = NULL;
	if (declared) {
		if (bpf_oom_now.notified)
			return true;
		/* the kernel took it for a sysrq, see bpf_oom_declare() */
		*(int *)&oc->order = bpf_oom_now.order;
	}

	/* sysrq, order -1, asks for one more whatever happened before */
	if (oc->order != -1 && (declared || !list_empty_careful(&bpf_oom_chain)))
		handled = wait_for_victim(oc);
	if (!list_empty_careful(&bpf_oom_chain) && !handled)
		handled = (oc->order != -1 && has_room(oc)) || ask_policies(oc);

	/* A policy may have killed and passed on. As a sysrq the kernel would kill another. */
	if (!handled && declared && !oc->memcg)
		handled = wait_for_victim(oc);
	if (!handled) {
		bpf_oom_now.passed_constraint = oc->constraint;
		bpf_oom_now.passed_on = current;
		/* the kernel must not panic for want of a victim */
		if (declared && !oc->memcg && *bpf_oom_syms.sysctl_panic_on_oom != 2)
			*(int *)&oc->order = -1;
	}
	return handled;
}

__bpf_kfunc_start_defs();

/**
 * bpf_oom_kill_process - Kill a task the way the OOM killer does
 * @oc: the OOM that is being handled
 * @task: any thread of the process to be killed
 * @message__str: start of the line "<message>: Killed process ..."
 *
 * The victim is reported, counted and handed to the OOM reaper; where memory.oom.group is
 * set, its whole group dies with it.
 *
 * Return: 0 if memory will be freed,
 * -EPERM for init, kernel threads, oom_score_adj -1000 and vfork() children,
 * -ESRCH for a task outside the scope of the OOM or without memory to free,
 * -EBUSY for a task that is being killed already.
 */
__bpf_kfunc int bpf_oom_kill_process(struct oom_control *oc, struct task_struct *task,
				     const char *message__str)
{
	struct mm_struct *oom_mm;
	bool freed_before, killed;
	u64 start;

	if (oc != bpf_oom_now.oc)
		return -EINVAL;

	if (is_global_init(task) || (task->flags & PF_KTHREAD))
		return -EPERM;

	if (READ_ONCE(task->signal->oom_score_adj) == OOM_SCORE_ADJ_MIN)
		return -EPERM;

	/* Its memory is its parent's, which may be anywhere. */
	if (in_vfork(task))
		return -EPERM;

	if (!task_in_scope(task, oc))
		return -ESRCH;

	oom_mm = READ_ONCE(task->signal->oom_mm);
	if (oom_mm)
		return mm_flags_test(MMF_OOM_SKIP, oom_mm) ? -ESRCH : -EBUSY;

	report(bpf_oom_now.policy, oc->constraint);
	freed_before = bpf_oom_now.freed;
	bpf_oom_now.freed = false;
	get_task_struct(task);
	oc->chosen = task;
	start = cpu_time_ns();
	BPF_OOM_CALL2(oom_kill_process, oc, message__str);
	bpf_oom_kill_ns += cpu_time_ns() - start;
	oc->chosen = NULL;
	killed = bpf_oom_now.freed;
	bpf_oom_now.freed |= freed_before;

	return killed ? 0 : -ESRCH;
}

/**
 * bpf_oom_get_memcg - The memcg whose OOM this is
 * @oc: the OOM that is being handled
 *
 * The verifier of a kernel that does not know OOM policies does not trust oc->memcg.
 *
 * Return: a reference, to be dropped with bpf_put_mem_cgroup(), or NULL for an OOM of the
 * system.
 */
__bpf_kfunc struct mem_cgroup *bpf_oom_get_memcg(struct oom_control *oc)
{
	if (oc->memcg)
		css_get(&oc->memcg->css);
	return oc->memcg;
}

/**
 * bpf_oom_is_declared - Was the OOM declared by a BPF program?
 * @oc: the OOM that is being handled
 *
 * Return: 1 if so, 0 if an allocation failed or somebody asked for it by sysrq.
 */
__bpf_kfunc int bpf_oom_is_declared(struct oom_control *oc)
{
	return oc == bpf_oom_now.declared;
}

__bpf_kfunc_end_defs();

static bool call_out_of_memory(struct oom_control *oc)
{
	BUILD_BUG_ON(!__same_type(out_of_memory, bool (struct oom_control *)));
	return (u8)BPF_OOM_CALL1(out_of_memory, oc);
}

struct declaration {
	struct work_struct work;
	struct mem_cgroup *memcg;
	int order;
	bool wait;
	const char *text;
	int ret;
};

static void declare(struct work_struct *work)
{
	struct declaration *declaration = container_of(work, struct declaration, work);
	struct oom_control oc = {
		.memcg = declaration->memcg,
		.gfp_mask = GFP_KERNEL,
		.order = -1,
	};

	if (declaration->wait) {
		mutex_lock(bpf_oom_syms.oom_lock);
	} else if (!mutex_trylock(bpf_oom_syms.oom_lock)) {
		declaration->ret = -EBUSY;
		return;
	}

	/*
	 * As sysrq, or the kernel would panic if there is nobody to kill: no allocation failed.
	 * Not where it shall panic whatever the OOM is.
	 */
	if (*bpf_oom_syms.sysctl_panic_on_oom == 2)
		*(int *)&oc.order = declaration->order;
	bpf_oom_now.constraint = declaration->text;
	bpf_oom_now.declared = &oc;
	bpf_oom_now.order = declaration->order;
	bpf_oom_now.notified = false;
	declaration->ret = call_out_of_memory(&oc);
	bpf_oom_now.passed_on = NULL;
	bpf_oom_now.constraint = NULL;
	bpf_oom_now.declared = NULL;
	mutex_unlock(bpf_oom_syms.oom_lock);
}

/* See bpf_out_of_memory() */
int bpf_oom_declare(struct mem_cgroup *memcg, int order, bool wait, const char *text)
{
	struct declaration declaration = {
		/* an OOM of the root memcg is one of the system */
		.memcg = memcg && memcg->css.parent ? memcg : NULL,
		.order = order,
		.wait = wait,
		.text = text,
	};

	/* -1 means sysrq */
	if (order < 0 || order > MAX_PAGE_ORDER)
		return -EINVAL;

	/*
	 * Who declares an OOM is not who could not allocate, and must not die for it by
	 * oom_kill_allocating_task: it is done by somebody without memory of its own.
	 */
	INIT_WORK_ONSTACK(&declaration.work, declare);
	if (current->mm) {
		queue_work(bpf_psi_workqueue(), &declaration.work);
		flush_work(&declaration.work);
	} else {
		declare(&declaration.work);
	}
	destroy_work_on_stack(&declaration.work);

	return declaration.ret;
}

/* The last of the OOM notifiers: have the others found memory? */
static int last_notifier(struct notifier_block *block, unsigned long action, void *data)
{
	unsigned long *freed = data;

	/* A new OOM of the system: what became of an earlier one is over. */
	bpf_oom_now.passed_on = NULL;
	if (*freed && bpf_oom_now.declared)
		bpf_oom_now.notified = true;
	return NOTIFY_OK;
}

static struct notifier_block notifier = { .notifier_call = last_notifier, .priority = INT_MIN };

/*
 * An allow-list: a helper that is added to the base set later might wait for user memory or
 * take locks that are held around an OOM.
 */
static const struct bpf_func_proto *
bpf_oom_func_proto(enum bpf_func_id func_id, const struct bpf_prog *prog)
{
	switch (func_id) {
	case BPF_FUNC_map_lookup_elem:
	case BPF_FUNC_map_update_elem:
	case BPF_FUNC_map_delete_elem:
	case BPF_FUNC_map_push_elem:
	case BPF_FUNC_map_pop_elem:
	case BPF_FUNC_map_peek_elem:
	case BPF_FUNC_map_lookup_percpu_elem:
	case BPF_FUNC_for_each_map_elem:
	case BPF_FUNC_get_prandom_u32:
	case BPF_FUNC_get_smp_processor_id:
	case BPF_FUNC_get_numa_node_id:
	case BPF_FUNC_ktime_get_ns:
	case BPF_FUNC_ktime_get_boot_ns:
	case BPF_FUNC_ktime_get_tai_ns:
	case BPF_FUNC_jiffies64:
	case BPF_FUNC_ringbuf_output:
	case BPF_FUNC_ringbuf_reserve:
	case BPF_FUNC_ringbuf_submit:
	case BPF_FUNC_ringbuf_discard:
	case BPF_FUNC_ringbuf_query:
	case BPF_FUNC_strncmp:
	case BPF_FUNC_spin_lock:
	case BPF_FUNC_spin_unlock:
	case BPF_FUNC_per_cpu_ptr:
	case BPF_FUNC_this_cpu_ptr:
	case BPF_FUNC_kptr_xchg:
	case BPF_FUNC_loop:
	case BPF_FUNC_dynptr_from_mem:
	case BPF_FUNC_dynptr_read:
	case BPF_FUNC_dynptr_write:
	case BPF_FUNC_dynptr_data:
	case BPF_FUNC_cgrp_storage_get:
	case BPF_FUNC_cgrp_storage_delete:
	case BPF_FUNC_get_current_pid_tgid:
	case BPF_FUNC_get_current_task_btf:
	case BPF_FUNC_get_current_cgroup_id:
	case BPF_FUNC_probe_read_kernel:
	case BPF_FUNC_probe_read_kernel_str:
	case BPF_FUNC_snprintf:
	case BPF_FUNC_trace_printk:
	case BPF_FUNC_trace_vprintk:
		return bpf_base_func_proto(func_id, prog);
	default:
		return NULL;
	}
}

static bool bpf_oom_is_valid_access(int off, int size, enum bpf_access_type type,
				    const struct bpf_prog *prog,
				    struct bpf_insn_access_aux *info)
{
	return bpf_tracing_btf_ctx_access(off, size, type, prog, info);
}

static const struct bpf_verifier_ops bpf_oom_verifier_ops = {
	.get_func_proto = bpf_oom_func_proto,
	.is_valid_access = bpf_oom_is_valid_access,
};

static int bpf_oom_ops_init(struct btf *btf)
{
	bpf_oom_btf = btf;
	return 0;
}

static int bpf_oom_check_member(const struct btf_type *t, const struct btf_member *member,
				const struct bpf_prog *prog)
{
	bpf_oom_ops_id = prog->aux->attach_btf_id;
	return bpf_oom_check_kfuncs(prog);
}

static int bpf_oom_init_member(const struct btf_type *t, const struct btf_member *member,
			       void *kdata, const void *udata)
{
	const struct bpf_oom_ops *uops = udata;
	struct bpf_oom_ops *ops = kdata;
	size_t len, i;

	if (__btf_member_bit_offset(t, member) / 8 != offsetof(struct bpf_oom_ops, name))
		return 0;

	len = strnlen(uops->name, BPF_OOM_NAME_MAX_LEN);
	if (len == BPF_OOM_NAME_MAX_LEN)
		return -EINVAL;

	/* it is one word of a log line */
	for (i = 0; i < len; i++)
		if (!isascii(uops->name[i]) || !isgraph(uops->name[i]))
			return -EINVAL;

	memcpy(ops->name, uops->name, len);
	return 1;
}

static int bpf_oom_validate(void *kdata)
{
	const struct bpf_oom_ops *ops = kdata;

	return ops->handle_out_of_memory ? 0 : -EINVAL;
}

static int bpf_oom_reg(void *kdata, struct bpf_link *link)
{
	struct bpf_oom_handler *handler, *pos;
	int ret;

	ret = bpf_oom_may_register(link);
	if (ret)
		return ret;

	handler = kzalloc(sizeof(*handler), GFP_KERNEL_ACCOUNT);
	if (!handler)
		return -ENOMEM;
	handler->ops = kdata;
	handler->link = link;
	handler->bypass_s = BPF_OOM_BYPASS_S;
	handler->asked = true;

	mutex_lock(&bpf_oom_chain_lock);
	list_for_each_entry(pos, &bpf_oom_chain, node)
		if (pos->ops == kdata)
			ret = -EEXIST;
	if (!ret)
		list_add_tail_rcu(&handler->node, &bpf_oom_chain);
	mutex_unlock(&bpf_oom_chain_lock);

	if (ret)
		kfree(handler);
	return ret;
}

static void bpf_oom_unreg(void *kdata, struct bpf_link *link)
{
	struct bpf_oom_handler *handler, *found = NULL;

	mutex_lock(&bpf_oom_chain_lock);
	list_for_each_entry(handler, &bpf_oom_chain, node) {
		if (handler->ops == kdata) {
			list_del_rcu(&handler->node);
			found = handler;
			break;
		}
	}
	mutex_unlock(&bpf_oom_chain_lock);

	/* When this returns no handler is running nor will one. */
	synchronize_srcu(&bpf_oom_srcu);
	kfree(found);
}

int bpf_oom_ops__handle_out_of_memory(struct oom_control *oc)
{
	return 0;
}

static struct bpf_oom_ops bpf_oom_cfi_stubs = {
	.handle_out_of_memory = bpf_oom_ops__handle_out_of_memory,
};

static struct bpf_struct_ops bpf_oom_struct_ops = {
	.verifier_ops = &bpf_oom_verifier_ops,
	.init = bpf_oom_ops_init,
	.check_member = bpf_oom_check_member,
	.init_member = bpf_oom_init_member,
	.validate = bpf_oom_validate,
	.reg = bpf_oom_reg,
	.unreg = bpf_oom_unreg,
	.cfi_stubs = &bpf_oom_cfi_stubs,
	.owner = THIS_MODULE,
	.name = "bpf_oom_ops",
};

int bpf_oom_init(void)
{
	int ret;

	/* It fails to compile when the tracepoint has other arguments. */
	check_trace_callback_type_mark_victim(victim_marked);
	mark_victim = bpf_oom_find_tracepoint("mark_victim");
	if (!mark_victim)
		return -EOPNOTSUPP;

	/* Victims from before nobody has told us about. */
	victims_lost = jiffies;
	ret = tracepoint_probe_register(mark_victim, victim_marked, NULL);
	if (ret) {
		bpf_oom_refuse("the tracepoint mark_victim cannot be used (%d)", ret);
		return ret;
	}
	ret = register_oom_notifier(&notifier);
	if (ret)
		goto tracepoint;
	bpf_oom_sysctl_header = register_sysctl("vm", bpf_oom_sysctls);
	if (!bpf_oom_sysctl_header) {
		bpf_oom_refuse("sysctl vm.bpf_oom_budget_ms cannot be made");
		ret = -ENOMEM;
		goto notifier;
	}
	ret = register_bpf_struct_ops(&bpf_oom_struct_ops, bpf_oom_ops);
	if (ret) {
		bpf_oom_refuse("the kernel does not take struct bpf_oom_ops (%d)", ret);
		goto sysctl;
	}
	return 0;
sysctl:
	unregister_sysctl_table(bpf_oom_sysctl_header);
notifier:
	unregister_oom_notifier(&notifier);
tracepoint:
	tracepoint_probe_unregister(mark_victim, victim_marked, NULL);
	tracepoint_synchronize_unregister();
	return ret;
}

void bpf_oom_exit(void)
{
	unregister_sysctl_table(bpf_oom_sysctl_header);
	unregister_oom_notifier(&notifier);
	tracepoint_probe_unregister(mark_victim, victim_marked, NULL);
	tracepoint_synchronize_unregister();
}
