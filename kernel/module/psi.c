// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Pressure events in BPF
 *
 * A struct bpf_psi_ops owns PSI triggers, for single cgroups or for the whole system, and is
 * told about their events. Its callbacks may sleep: they run on a workqueue of their own, so
 * a slow one delays neither the PSI monitors nor anybody else's events.
 *
 * A trigger is that of a pressure file, without the file: who would be woken in poll() is a
 * callback of ours.
 *
 * What becomes of cgroups is told by tracepoints, which fire under cgroup_mutex where nothing
 * can be allocated, into one ring. A work of each ops reads it, in order. Whoever is late by
 * more than the ring holds looks at all cgroups instead, so that nothing gets lost.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "bpf_oom.h"

#include <linux/anon_inodes.h>
#include <linux/cred.h>
#include <linux/ctype.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/sched/task.h>
#include <linux/security.h>
#include <linux/sysctl.h>
#include <linux/tracepoint.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <trace/events/cgroup.h>

struct bpf_psi {
	struct list_head node;
	const struct bpf_psi_ops *ops;
	struct list_head triggers;
	unsigned int nr_triggers;

	/* Reads the ring from here on, but only after init() */
	u64 next;
	/* What was made up to then has been told of, or was there before init() */
	u64 told_serial;
	struct work_struct ring_work;
	bool ready;

	/* The task in init() or handle_cgroup_online(), which may make triggers */
	struct task_struct *caller;
};

struct bpf_psi_trigger {
	struct bpf_psi_event event;
	struct list_head node;
	struct bpf_psi *psi;
	struct psi_trigger *trigger;
	struct cgroup *cgrp;
	struct wait_queue_entry wait;
	struct work_struct work;
	/* As they were asked for */
	u32 resource;
	u32 threshold_us;
	u32 window_us;
};

/* Protects the list of ops and what hangs off them. */
static DEFINE_MUTEX(bpf_psi_mutex);
static LIST_HEAD(bpf_psi_list);
static atomic_t nr_bpf_psi;

static struct workqueue_struct *bpf_psi_wq;

/* Their credentials decide whether a trigger may poll, or is looked at with the averages. */
static struct file *polling_file, *averages_file;

/*
 * Triggers that one ops may have. Each cgroup with a polling trigger costs a real-time kernel
 * thread, so a wide pattern must not make them without limit.
 */
static unsigned int sysctl_bpf_psi_max_triggers = 256;

static struct ctl_table bpf_psi_sysctls[] = {
	{
		.procname = "bpf_psi_max_triggers",
		.data = &sysctl_bpf_psi_max_triggers,
		.maxlen = sizeof(sysctl_bpf_psi_max_triggers),
		.mode = 0644,
		.proc_handler = proc_douintvec,
	},
};

static struct ctl_table_header *bpf_psi_sysctl_header;

struct workqueue_struct *bpf_psi_workqueue(void)
{
	return bpf_psi_wq;
}

static struct psi_trigger *create_trigger(struct psi_group *group, char *text, enum psi_res res,
					  struct file *file)
{
	struct psi_trigger *trigger;
	bool need_worker = false;
	int ret = 0;

	/* bpf_oom_call() knows no types, so compare those of the header. */
#ifdef BPF_OOM_PSI_SPLIT_CREATE
	BUILD_BUG_ON(!__same_type(psi_trigger_create,
				  struct psi_trigger *(struct psi_group *, char *, enum psi_res,
						       struct file *, struct kernfs_open_file *,
						       bool *)));
	BUILD_BUG_ON(!__same_type(psi_trigger_create_rtpoll_worker, int (struct psi_group *)));
#else
	BUILD_BUG_ON(!__same_type(psi_trigger_create,
				  struct psi_trigger *(struct psi_group *, char *, enum psi_res,
						       struct file *, struct kernfs_open_file *)));
#endif
	BUILD_BUG_ON(!__same_type(psi_trigger_destroy, void (struct psi_trigger *)));

	trigger = (void *)bpf_oom_call(BPF_OOM_LONG(group), BPF_OOM_LONG(text), res,
				       BPF_OOM_LONG(file), 0, BPF_OOM_LONG(&need_worker),
				       bpf_oom_syms.psi_trigger_create);
	if (IS_ERR(trigger))
		return trigger;
#ifdef BPF_OOM_PSI_SPLIT_CREATE
	if (need_worker)
		ret = (int)BPF_OOM_CALL1(psi_trigger_create_rtpoll_worker, group);
#endif
	if (ret) {
		BPF_OOM_CALL1(psi_trigger_destroy, trigger);
		return ERR_PTR(ret);
	}
	return trigger;
}

/*
 * The window of a trigger on the averages begins with the total of the other aggregator: its
 * first look would take all stalls since the cgroup was made for new ones, and fire. Begin
 * with the total that is looked at, and forget what came of the other.
 */
static void forget_the_past(struct psi_trigger *trigger)
{
	struct psi_group *group = trigger->group;

	mutex_lock(&group->avgs_lock);
	trigger->win.start_value = group->total[PSI_AVGS][trigger->state];
	trigger->win.prev_growth = 0;
	trigger->pending_event = false;
	trigger->last_event_time = 0;
	trigger->event = 0;
	mutex_unlock(&group->avgs_lock);
}

static void trigger_work(struct work_struct *work)
{
	struct bpf_psi_trigger *bt = container_of(work, struct bpf_psi_trigger, work);

	/* Before the handler, so that what happens meanwhile is an event of its own. */
	cmpxchg(&bt->trigger->event, 1, 0);
	if (bt->psi->ops->handle_psi_event)
		bt->psi->ops->handle_psi_event(&bt->event);
}

/* A trigger has fired. A function of its own for whoever wants to trace it. */
static noinline void bpf_psi_event(struct psi_trigger *t, struct bpf_psi_trigger *bt)
{
	queue_work(bpf_psi_wq, &bt->work);
}

/* Called by the PSI monitors in the place of waking a task in poll(). */
static int trigger_wake(struct wait_queue_entry *wait, unsigned int mode, int flags, void *key)
{
	struct bpf_psi_trigger *bt = container_of(wait, struct bpf_psi_trigger, wait);

	if (READ_ONCE(bt->trigger->event))
		bpf_psi_event(bt->trigger, bt);
	return 0;
}

/* The trigger must be off the list already. When this returns, its handler is not running. */
static void trigger_destroy(struct bpf_psi_trigger *bt)
{
	remove_wait_queue(&bt->trigger->event_wait, &bt->wait);
	cancel_work_sync(&bt->work);
	BPF_OOM_CALL1(psi_trigger_destroy, bt->trigger);
	if (bt->cgrp)
		cgroup_put(bt->cgrp);
	kfree(bt);
}

static struct cgroup *cgroup_of_id(u64 id)
{
	struct cgroup *cgrp;

	/* in whatever cgroup namespace we are */
	BUILD_BUG_ON(!__same_type(__cgroup_get_from_id, struct cgroup *(u64)));
	cgrp = (struct cgroup *)BPF_OOM_CALL1(__cgroup_get_from_id, id);
	return cgrp;
}

static bool cgroup_online(const struct cgroup *cgrp)
{
	return READ_ONCE(cgrp->self.flags) & CSS_ONLINE;
}

/* What becomes of cgroups. */
#define RING_SIZE 1024

static struct {
	u64 cgroup_id;
	u64 serial;	/* of the cgroup that was made, 0: it is gone */
} ring[RING_SIZE];
/* So many were written; the last RING_SIZE are there. */
static u64 ring_head;
/* Of the cgroup that was made last; the serial numbers of all rise. */
static u64 ring_serial;
static DEFINE_RAW_SPINLOCK(ring_lock);

/* How far the ring is written, and up to which cgroup, all of which can be found by their ids. */
static u64 ring_settled_head(u64 *serial)
{
	u64 head;

	/* cgroup_mkdir() tells of a cgroup before its id can be found, under this lock. */
	mutex_lock(bpf_oom_syms.cgroup_mutex);
	raw_spin_lock_irq(&ring_lock);
	head = ring_head;
	*serial = ring_serial;
	raw_spin_unlock_irq(&ring_lock);
	mutex_unlock(bpf_oom_syms.cgroup_mutex);
	return head;
}

/* Those that were made before anybody looked. */
static void ring_find_serial(void)
{
	struct cgroup_subsys_state *css = NULL, *root = &cgrp_dfl_root.cgrp.self;

	mutex_lock(bpf_oom_syms.cgroup_mutex);
	rcu_read_lock();
	while ((css = css_next_descendant_pre(css, root))) {
		raw_spin_lock_irq(&ring_lock);
		ring_serial = max(ring_serial, css->serial_nr);
		raw_spin_unlock_irq(&ring_lock);
	}
	rcu_read_unlock();
	mutex_unlock(bpf_oom_syms.cgroup_mutex);
}

static void ring_kick(struct work_struct *work)
{
	struct bpf_psi *psi;

	mutex_lock(&bpf_psi_mutex);
	list_for_each_entry(psi, &bpf_psi_list, node)
		if (psi->ready)
			queue_work(bpf_psi_wq, &psi->ring_work);
	mutex_unlock(&bpf_psi_mutex);
}

static DECLARE_WORK(kick_work, ring_kick);

/* From a tracepoint: no sleeping lock, no allocation, which on RT are the same. */
static void ring_write(struct cgroup *cgrp, bool gone)
{
	unsigned long flags;
	bool wanted;

	if (cgrp->root != &cgrp_dfl_root)
		return;

	raw_spin_lock_irqsave(&ring_lock, flags);
	if (!gone)
		ring_serial = max(ring_serial, cgrp->self.serial_nr);
	wanted = atomic_read(&nr_bpf_psi);
	if (wanted) {
		ring[ring_head % RING_SIZE].cgroup_id = cgroup_id(cgrp);
		ring[ring_head % RING_SIZE].serial = gone ? 0 : cgrp->self.serial_nr;
		ring_head++;
	}
	raw_spin_unlock_irqrestore(&ring_lock, flags);
	if (wanted)
		queue_work(bpf_psi_wq, &kick_work);
}

static void cgroup_made(void *data, struct cgroup *cgrp, const char *path)
{
	ring_write(cgrp, false);
}

static void cgroup_removed(void *data, struct cgroup *cgrp, const char *path)
{
	ring_write(cgrp, true);
}

/* False if it was overwritten. */
static bool ring_read(u64 at, u64 *id, u64 *serial)
{
	bool there;

	raw_spin_lock_irq(&ring_lock);
	there = ring_head - at <= RING_SIZE;
	*id = ring[at % RING_SIZE].cgroup_id;
	*serial = ring[at % RING_SIZE].serial;
	raw_spin_unlock_irq(&ring_lock);
	return there;
}

static void set_caller(struct bpf_psi *psi, struct task_struct *caller)
{
	mutex_lock(&bpf_psi_mutex);
	psi->caller = caller;
	mutex_unlock(&bpf_psi_mutex);
}

static void tell_online(struct bpf_psi *psi, u64 id)
{
	struct cgroup *cgrp;
	bool online, told;

	if (!psi->ops->handle_cgroup_online)
		return;
	cgrp = cgroup_of_id(id);
	if (IS_ERR(cgrp))
		return;
	online = cgroup_online(cgrp);
	told = cgrp->self.serial_nr <= psi->told_serial;
	cgroup_put(cgrp);
	if (!online || told)
		return;

	set_caller(psi, current);
	psi->ops->handle_cgroup_online(id);
	set_caller(psi, NULL);
}

/* Destroys the triggers of a cgroup, and tells of its end if there were any. */
static void tell_gone(struct bpf_psi *psi, u64 id)
{
	struct bpf_psi_trigger *bt, *next;
	LIST_HEAD(gone);

	mutex_lock(&bpf_psi_mutex);
	list_for_each_entry_safe(bt, next, &psi->triggers, node) {
		if (bt->event.cgroup_id != id)
			continue;
		list_move_tail(&bt->node, &gone);
		psi->nr_triggers--;
	}
	mutex_unlock(&bpf_psi_mutex);

	if (list_empty(&gone))
		return;
	list_for_each_entry_safe(bt, next, &gone, node)
		trigger_destroy(bt);
	if (psi->ops->handle_cgroup_free)
		psi->ops->handle_cgroup_free(id);
}

/* The id of a cgroup with a trigger that is gone, 0 if there is none. */
static u64 id_of_gone(struct bpf_psi *psi)
{
	struct bpf_psi_trigger *bt;
	u64 id = 0;

	mutex_lock(&bpf_psi_mutex);
	list_for_each_entry(bt, &psi->triggers, node) {
		if (bt->cgrp && !cgroup_online(bt->cgrp)) {
			id = bt->event.cgroup_id;
			break;
		}
	}
	mutex_unlock(&bpf_psi_mutex);
	return id;
}

/*
 * So much has happened that some was overwritten: look at what there is, up to the cgroup from
 * which on the ring tells.
 */
static void look_at_all(struct bpf_psi *psi, u64 serial)
{
	struct cgroup_subsys_state *css = NULL, *root = &cgrp_dfl_root.cgrp.self;
	struct cgroup *cgrp = NULL, *next;
	u64 id;

	while ((id = id_of_gone(psi)))
		tell_gone(psi, id);

	do {
		rcu_read_lock();
		do {
			css = css_next_descendant_pre(css, root);
		} while (css && !cgroup_tryget(css->cgroup));
		next = css ? css->cgroup : NULL;
		rcu_read_unlock();
		/* it was needed to find the next one */
		if (cgrp)
			cgroup_put(cgrp);
		cgrp = next;
		if (cgrp && css != root && css->serial_nr <= serial)
			tell_online(psi, cgroup_id(cgrp));
	} while (cgrp);
	psi->told_serial = serial;
}

static void ring_work(struct work_struct *work)
{
	struct bpf_psi *psi = container_of(work, struct bpf_psi, ring_work);
	u64 serial, id;
	u64 head = ring_settled_head(&serial);

	while (psi->next != head) {
		if (!ring_read(psi->next, &id, &serial)) {
			psi->next = ring_settled_head(&serial);
			look_at_all(psi, serial);
			break;
		}
		psi->next++;
		if (serial) {
			tell_online(psi, id);
			psi->told_serial = serial;
		} else {
			tell_gone(psi, id);
		}
	}
	/* What was written meanwhile has queued this work again. */
}

/* The ops whose init() or handle_cgroup_online() runs in this task. */
static struct bpf_psi *called_ops(void)
{
	struct bpf_psi *psi, *found = NULL;

	mutex_lock(&bpf_psi_mutex);
	list_for_each_entry(psi, &bpf_psi_list, node)
		if (psi->caller == current)
			found = psi;
	mutex_unlock(&bpf_psi_mutex);

	return found;
}

static bool same_trigger(const struct bpf_psi_trigger *a, const struct bpf_psi_trigger *b)
{
	return a->cgrp == b->cgrp && a->resource == b->resource &&
	       a->threshold_us == b->threshold_us && a->window_us == b->window_us;
}

/*
 * May @psi have the trigger @new? Triggers are only added by callbacks of which one at a time
 * runs, so the answer is good until it is there.
 */
static int may_add(struct bpf_psi *psi, const struct bpf_psi_trigger *new)
{
	struct bpf_psi_trigger *bt;
	int ret = 0;

	mutex_lock(&bpf_psi_mutex);
	if (psi->nr_triggers >= READ_ONCE(sysctl_bpf_psi_max_triggers))
		ret = -ENOSPC;
	list_for_each_entry(bt, &psi->triggers, node)
		if (same_trigger(bt, new))
			ret = -EEXIST;
	mutex_unlock(&bpf_psi_mutex);

	return ret;
}

/*
 * The trigger @bt can fire: hand it to its owner. The owner cannot be unloaded meanwhile, the
 * program that is creating the trigger is one of its callbacks.
 */
static int adopt(struct bpf_psi *psi, struct bpf_psi_trigger *bt)
{
	int ret = 0;

	mutex_lock(&bpf_psi_mutex);
	/* The end of a cgroup that is online is still to be written to the ring. */
	if (bt->cgrp && !cgroup_online(bt->cgrp)) {
		ret = -ENODEV;
	} else {
		list_add_tail(&bt->node, &psi->triggers);
		psi->nr_triggers++;
	}
	mutex_unlock(&bpf_psi_mutex);

	return ret;
}

__bpf_kfunc_start_defs();

/**
 * bpf_psi_create_trigger - Create a pressure trigger
 * @bpf_psi__nullable: handed to bpf_psi_ops::init, or NULL for the ops whose
 *	init() or handle_cgroup_online() this is
 * @cgroup_id: the cgroup to watch, 0 for the whole system
 * @resource: 0 IO, 1 memory, 2 CPU, 3 IRQ; with enum bpf_psi_resource_flags
 * @threshold_us: stall time that makes the trigger fire, 1 .. @window_us
 * @window_us: time in which it has to accumulate, 1 .. 10,000,000
 *
 * An event comes at most once in a window. Each cgroup with a trigger has a real-time kernel
 * thread ("psimon"), unless BPF_PSI_AVERAGES is set for all.
 *
 * Return: 0, -EINVAL for a value out of range, -ENOENT or -ENODEV if there is no such cgroup
 * (any more), -EOPNOTSUPP if pressure is not accounted there, -EEXIST if these ops have the
 * same trigger already, -ENOSPC if they have as many as kernel.bpf_psi_max_triggers allows,
 * -ENOMEM.
 */
__bpf_kfunc int bpf_psi_create_trigger(struct bpf_psi *bpf_psi__nullable, u64 cgroup_id,
				       u32 resource, u32 threshold_us, u32 window_us)
{
	struct bpf_psi *psi = bpf_psi__nullable ?: called_ops();
	u32 res = resource & ~(BPF_PSI_FULL | BPF_PSI_AVERAGES);
	struct psi_group *group = bpf_oom_syms.psi_system;
	struct bpf_psi_trigger *bt;
	struct psi_trigger *trigger;
	char text[40];
	int ret;

	if (!psi || res >= NR_PSI_RESOURCES)
		return -EINVAL;

	bt = kzalloc(sizeof(*bt), GFP_KERNEL_ACCOUNT);
	if (!bt)
		return -ENOMEM;

	bt->psi = psi;
	bt->event.cgroup_id = cgroup_id;
	bt->resource = resource;
	bt->threshold_us = threshold_us;
	bt->window_us = window_us;
	INIT_WORK(&bt->work, trigger_work);
	init_waitqueue_func_entry(&bt->wait, trigger_wake);

	if (cgroup_id) {
		bt->cgrp = cgroup_of_id(cgroup_id);
		if (IS_ERR(bt->cgrp)) {
			ret = PTR_ERR(bt->cgrp);
			goto free;
		}
		if (cgroup_ino(bt->cgrp) != 1)
			group = bt->cgrp->psi;
		if (!group || !group->enabled) {
			ret = -EOPNOTSUPP;
			goto put;
		}
	}

	ret = may_add(psi, bt);
	if (ret)
		goto put;

	snprintf(text, sizeof(text), "%s %u %u", resource & BPF_PSI_FULL ? "full" : "some",
		 threshold_us, window_us);
	trigger = create_trigger(group, text, res,
				 resource & BPF_PSI_AVERAGES ? averages_file : polling_file);
	if (IS_ERR(trigger)) {
		ret = PTR_ERR(trigger);
		goto put;
	}
	if (resource & BPF_PSI_AVERAGES)
		forget_the_past(trigger);
	bt->trigger = trigger;
	add_wait_queue(&trigger->event_wait, &bt->wait);

	ret = adopt(psi, bt);
	if (ret) {
		trigger_destroy(bt);
		return ret;
	}
	/* It may have fired when nobody was waiting yet. */
	if (READ_ONCE(trigger->event))
		bpf_psi_event(trigger, bt);
	return 0;
put:
	if (bt->cgrp)
		cgroup_put(bt->cgrp);
free:
	kfree(bt);
	return ret;
}

/**
 * bpf_out_of_memory - Declare an OOM
 * @memcg__nullable: memcg that is out of memory, NULL for the whole system
 * @order: page order, for the report
 * @wait_on_oom_lock: wait for the OOM that is being handled, if any. To be used
 *	for a memcg; for the system, the other OOM will do the work as well.
 * @constraint_text__ign: printed as the constraint in the log; CONSTRAINT_BPF if
 *	it is NULL, empty or cannot be read
 *
 * The OOM is handled as any other: BPF policies first, then the kernel's own killer. As no
 * allocation has failed, a declared OOM never panics for want of a killable task, and
 * panic_on_oom applies to it only with the value 2.
 *
 * Return: what out_of_memory() says, 1 if a task was killed or is already dying, or the OOM
 * notifiers found memory so that nobody had to die,
 * 0 if there is nothing to kill,
 * -EBUSY if another OOM is being handled,
 * -EINVAL for an impossible order.
 */
__bpf_kfunc int bpf_out_of_memory(struct mem_cgroup *memcg__nullable, int order,
				  bool wait_on_oom_lock, const char *constraint_text__ign)
{
	/*
	 * The verifier does not look at the text: it wants constant memory from one kind of
	 * program and writable memory from another. So it may be anything, and is copied.
	 */
	char text[64] = "";
	int i = 0;

	/* Anything may be read by it, so not where programs must not read everything. */
	if (security_locked_down(LOCKDOWN_BPF_READ_KERNEL))
		constraint_text__ign = NULL;
	for (; constraint_text__ign && i < sizeof(text) - 1; i++) {
		if (get_kernel_nofault(text[i], constraint_text__ign + i)) {
			text[i] = 0;
			break;
		}
		if (!text[i])
			break;
		/* it is one word of a log line */
		if (!isascii(text[i]) || !isgraph(text[i]))
			text[i] = '?';
	}
	text[i] = 0;

	return bpf_oom_declare(memcg__nullable, order, wait_on_oom_lock,
			       *text ? text : "CONSTRAINT_BPF");
}

__bpf_kfunc_end_defs();

static const struct bpf_func_proto *
bpf_psi_func_proto(enum bpf_func_id func_id, const struct bpf_prog *prog)
{
	return bpf_base_func_proto(func_id, prog);
}

static bool bpf_psi_is_valid_access(int off, int size, enum bpf_access_type type,
				    const struct bpf_prog *prog,
				    struct bpf_insn_access_aux *info)
{
	return bpf_tracing_btf_ctx_access(off, size, type, prog, info);
}

static const struct bpf_verifier_ops bpf_psi_verifier_ops = {
	.get_func_proto = bpf_psi_func_proto,
	.is_valid_access = bpf_psi_is_valid_access,
};

static int bpf_psi_ops_init(struct btf *btf)
{
	return 0;
}

static int bpf_psi_init_member(const struct btf_type *t, const struct btf_member *member,
			       void *kdata, const void *udata)
{
	return 0;
}

static int bpf_psi_validate(void *kdata)
{
	const struct bpf_psi_ops *ops = kdata;

	return ops->init ? 0 : -EINVAL;
}

/* Returns when no callback of @psi is running nor will ever run again. */
static void bpf_psi_release(struct bpf_psi *psi)
{
	struct bpf_psi_trigger *bt, *next;

	/* From here on cgroups come and go without us. */
	mutex_lock(&bpf_psi_mutex);
	list_del(&psi->node);
	mutex_unlock(&bpf_psi_mutex);
	atomic_dec(&nr_bpf_psi);

	cancel_work_sync(&psi->ring_work);
	list_for_each_entry_safe(bt, next, &psi->triggers, node)
		trigger_destroy(bt);
	kfree(psi);
}

static int bpf_psi_reg(void *kdata, struct bpf_link *link)
{
	struct bpf_psi_ops *ops = kdata;
	struct bpf_psi *psi, *pos;
	bool exists = false;
	int ret;

	ret = bpf_oom_may_register(link);
	if (ret)
		return ret;

	psi = kzalloc(sizeof(*psi), GFP_KERNEL_ACCOUNT);
	if (!psi)
		return -ENOMEM;
	psi->ops = ops;
	INIT_LIST_HEAD(&psi->triggers);
	INIT_WORK(&psi->ring_work, ring_work);
	psi->caller = current;

	mutex_lock(&bpf_psi_mutex);
	list_for_each_entry(pos, &bpf_psi_list, node)
		exists |= pos->ops == ops;
	if (!exists)
		list_add_tail(&psi->node, &bpf_psi_list);
	mutex_unlock(&bpf_psi_mutex);

	if (exists) {
		kfree(psi);
		return -EEXIST;
	}

	/*
	 * Who walks the tree in init() misses none that is made meanwhile: what is not in the
	 * ring from here on can be found.
	 */
	atomic_inc(&nr_bpf_psi);
	psi->next = ring_settled_head(&psi->told_serial);
	ret = ops->init(psi);
	if (ret) {
		bpf_psi_release(psi);
		return ret < 0 && ret >= -MAX_ERRNO ? ret : -EINVAL;
	}

	mutex_lock(&bpf_psi_mutex);
	psi->caller = NULL;
	psi->ready = true;
	queue_work(bpf_psi_wq, &psi->ring_work);
	mutex_unlock(&bpf_psi_mutex);

	return 0;
}

static void bpf_psi_unreg(void *kdata, struct bpf_link *link)
{
	struct bpf_psi *psi, *found = NULL;

	mutex_lock(&bpf_psi_mutex);
	list_for_each_entry(psi, &bpf_psi_list, node)
		if (psi->ops == kdata)
			found = psi;
	mutex_unlock(&bpf_psi_mutex);

	if (found)
		bpf_psi_release(found);
}

int bpf_psi_ops__init(struct bpf_psi *bpf_psi)
{
	return 0;
}

void bpf_psi_ops__handle_psi_event(struct bpf_psi_event *event)
{
}

void bpf_psi_ops__handle_cgroup_free(u64 cgroup_id)
{
}

void bpf_psi_ops__handle_cgroup_online(u64 cgroup_id)
{
}

static struct bpf_psi_ops bpf_psi_cfi_stubs = {
	.init = bpf_psi_ops__init,
	.handle_psi_event = bpf_psi_ops__handle_psi_event,
	.handle_cgroup_free = bpf_psi_ops__handle_cgroup_free,
	.handle_cgroup_online = bpf_psi_ops__handle_cgroup_online,
};

static struct bpf_struct_ops bpf_psi_struct_ops = {
	.verifier_ops = &bpf_psi_verifier_ops,
	.init = bpf_psi_ops_init,
	.init_member = bpf_psi_init_member,
	.validate = bpf_psi_validate,
	.reg = bpf_psi_reg,
	.unreg = bpf_psi_unreg,
	.cfi_stubs = &bpf_psi_cfi_stubs,
	.owner = THIS_MODULE,
	.name = "bpf_psi_ops",
};

/* No owner: it would hold the module for ever, and we close the files ourselves. */
static const struct file_operations no_operations = {};

/* An anonymous file of the kernel itself, with the right to poll or without it. */
static struct file *credentials_file(bool may_poll)
{
	const struct cred *old;
	struct cred *cred;
	struct file *file;

	cred = prepare_kernel_cred(&init_task);
	if (!cred)
		return ERR_PTR(-ENOMEM);
	if (!may_poll)
		cap_lower(cred->cap_effective, CAP_SYS_RESOURCE);
	old = override_creds(cred);
	file = anon_inode_getfile("[bpf_psi]", &no_operations, NULL, O_RDONLY);
	revert_creds(old);
	put_cred(cred);
	return file;
}

static struct tracepoint *mkdir_tracepoint, *rmdir_tracepoint;

int bpf_psi_init(void)
{
	int ret = -ENOMEM;

	/* They fail to compile when the tracepoints have other arguments. */
	check_trace_callback_type_cgroup_mkdir(cgroup_made);
	check_trace_callback_type_cgroup_rmdir(cgroup_removed);
	mkdir_tracepoint = bpf_oom_find_tracepoint("cgroup_mkdir");
	rmdir_tracepoint = bpf_oom_find_tracepoint("cgroup_rmdir");
	if (!mkdir_tracepoint || !rmdir_tracepoint)
		return -EOPNOTSUPP;

	/* its work frees memory, so it must not depend on free memory */
	bpf_psi_wq = alloc_workqueue("bpf_psi_wq", WQ_MEM_RECLAIM | WQ_UNBOUND | WQ_HIGHPRI, 0);
	if (!bpf_psi_wq)
		goto refuse;
	polling_file = credentials_file(true);
	if (IS_ERR(polling_file)) {
		ret = PTR_ERR(polling_file);
		goto workqueue;
	}
	averages_file = credentials_file(false);
	if (IS_ERR(averages_file)) {
		ret = PTR_ERR(averages_file);
		goto polling;
	}
	bpf_psi_sysctl_header = register_sysctl("kernel", bpf_psi_sysctls);
	if (!bpf_psi_sysctl_header)
		goto averages;
	ret = tracepoint_probe_register(mkdir_tracepoint, cgroup_made, NULL);
	if (ret)
		goto sysctl;
	ret = tracepoint_probe_register(rmdir_tracepoint, cgroup_removed, NULL);
	if (ret)
		goto made;
	ring_find_serial();
	ret = register_bpf_struct_ops(&bpf_psi_struct_ops, bpf_psi_ops);
	if (ret)
		goto removed;
	return 0;
removed:
	tracepoint_probe_unregister(rmdir_tracepoint, cgroup_removed, NULL);
made:
	tracepoint_probe_unregister(mkdir_tracepoint, cgroup_made, NULL);
	tracepoint_synchronize_unregister();
sysctl:
	unregister_sysctl_table(bpf_psi_sysctl_header);
averages:
	__fput_sync(averages_file);
polling:
	__fput_sync(polling_file);
workqueue:
	destroy_workqueue(bpf_psi_wq);
refuse:
	bpf_oom_refuse("pressure events cannot be set up (%d)", ret);
	return ret;
}

void bpf_psi_exit(void)
{
	tracepoint_probe_unregister(rmdir_tracepoint, cgroup_removed, NULL);
	tracepoint_probe_unregister(mkdir_tracepoint, cgroup_made, NULL);
	tracepoint_synchronize_unregister();
	unregister_sysctl_table(bpf_psi_sysctl_header);
	__fput_sync(averages_file);
	__fput_sync(polling_file);
	destroy_workqueue(bpf_psi_wq);
}
