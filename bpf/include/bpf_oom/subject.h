/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Processes as selectors see them. A protection cannot be borrowed: a name counts only for
 * who could not forge it.
 */
#ifndef BPF_OOM_SUBJECT_H
#define BPF_OOM_SUBJECT_H

#include <bpf_oom/select.h>

static __always_inline u32 task_uid(struct task_struct *task)
{
	return BPF_CORE_READ(task, real_cred, uid.val);
}

/* The cgroup a process is in, perhaps one below that of its memory; an address. */
static __always_inline u64 task_cgroup(struct task_struct *task)
{
	return (u64)BPF_CORE_READ(task, cgroups, dfl_cgrp);
}

/* Whether the directory of a cgroup is root's: what users are given is theirs. */
static __always_inline bool root_owns(u64 cgroup)
{
	struct kernfs_iattrs *attributes = BPF_CORE_READ((struct cgroup *)cgroup, kn, iattr);

	return !attributes || !BPF_CORE_READ(attributes, ia_uid.val);
}

/*
 * Whether the name of root's process is no user's choice: root in a container is not root,
 * and a cgroup that is not root's was given to somebody.
 */
static __always_inline bool is_trusted(struct task_struct *task)
{
	return !task_uid(task) && !BPF_CORE_READ(task, thread_pid, level) &&
	       root_owns(task_cgroup(task));
}

static __always_inline void subject_of(struct subject *subject, struct task_struct *task)
{
	struct file *program = BPF_CORE_READ(task, mm, exe_file);

	subject->named_only = false;
	subject->uid = task_uid(task);
	subject->trusted = is_trusted(task);
	/* A set-uid program that was run by a link has the name that the user gave the link. */
	if (program && BPF_CORE_READ(program, f_inode, i_mode) & S_ISUID)
		bpf_probe_read_kernel_str(subject->name.text, sizeof(task->comm),
					  BPF_CORE_READ(program, f_path.dentry, d_name.name));
	else
		bpf_probe_read_kernel_str(subject->name.text, sizeof(task->comm), task->comm);
}

/*
 * The process of a login over ssh runs as the user. It is a child of root's process of the
 * same program, and the user could not have started such a one. Whether this is such a
 * child; the subject is the parent then.
 */
static __always_inline bool carries_login(struct subject *subject, struct task_struct *task)
{
	struct task_struct *parent = BPF_CORE_READ(task, real_parent);
	struct inode *program = BPF_CORE_READ(task, mm, exe_file, f_inode);

	/* Whose parent has ended is a child of init, whatever program that is. */
	if (!program || BPF_CORE_READ(parent, tgid) == 1 ||
	    program != BPF_CORE_READ(parent, mm, exe_file, f_inode) ||
	    BPF_CORE_READ(program, i_mode) & S_ISUID)
		return false;
	subject->named_only = true;
	subject->uid = task_uid(parent);
	subject->trusted = is_trusted(parent);
	bpf_probe_read_kernel_str(subject->name.text, sizeof(parent->comm), parent->comm);
	return subject->trusted;
}

#endif /* BPF_OOM_SUBJECT_H */
