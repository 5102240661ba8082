/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Selectors: which cgroups, processes and users a parameter speaks of.
 *
 * A glob of paths is compared name by name, from the root on: '*' stands for any bytes of
 * one name, '?' for one byte, everything else for itself, also the backslash of systemd's
 * names. So there is neither a longest path nor a deepest one. What the globs of a list say
 * of a cgroup's ancestors is kept for the next cgroup, most often its neighbour.
 */
#ifndef BPF_OOM_SELECT_H
#define BPF_OOM_SELECT_H

#include <bpf_oom/policy.h>
#include <bpf_oom/record.h>

#define SELECTORS(list) const volatile struct selector list[MAX_SELECTORS]

#define NODE_NAME_SIZE	256	/* NAME_MAX and the final 0 */

/* The longest name against the longest glob, from each of its bytes. */
#define GLOB_STEPS	(NODE_NAME_SIZE * GLOB_SIZE)

/*
 * How a comparison stands. It lies in memory, of which the verifier assumes nothing: so it
 * looks at the loop once.
 */
struct comparison {
	u32 glob_at;
	u32 text_at;
	u32 star_at;	/* of the last star, GLOB_SIZE: there was none */
	u32 star_text;	/* where what it stands for ends */
	char text[NODE_NAME_SIZE];
};

#define PATH_STATES	64	/* the root's, one for each level of a glob; a power of two */

/* What a list says of the cgroups on one path, by their level. Bits are places in the list. */
struct path_state {
	u64 id[PATH_STATES];	/* of the cgroup that this is about */
	u32 begun[PATH_STATES];	/* its path is the beginning of what the glob stands for */
	u32 covered[PATH_STATES];	/* the glob stands for it or for one above it */
	u32 whole[PATH_STATES];	/* the glob stands for it */
	u32 level;		/* where the walk is, and where it goes to */
	u32 depth;
	struct comparison comparison;
};

/*
 * Whether the glob, up to `end` or its end, stands for the whole of the text. Bytes are
 * compared, not characters.
 */
static __always_inline bool glob_matches(const volatile struct selector *selector, u32 from,
					 char end, volatile struct comparison *comparison)
{
	char wanted, have;
	int step;

	wanted = selector->glob[from & (GLOB_SIZE - 1)];
	/* Most differ here. */
	if (wanted != '*' && wanted != '?' && wanted != comparison->text[0])
		return false;
	comparison->glob_at = from;
	comparison->text_at = 0;
	comparison->star_at = GLOB_SIZE;
	bpf_for(step, 0, GLOB_STEPS) {
		wanted = selector->glob[comparison->glob_at & (GLOB_SIZE - 1)];
		have = comparison->text[comparison->text_at & (NODE_NAME_SIZE - 1)];
		if (wanted == end)
			wanted = 0;
		if (!wanted && !have)
			return true;
		if (wanted == '*') {
			comparison->star_at = comparison->glob_at++;
			comparison->star_text = comparison->text_at;
			continue;
		}
		if (have && (wanted == have || wanted == '?')) {
			comparison->glob_at++;
			comparison->text_at++;
			continue;
		}
		/* Let the last star stand for one byte more. */
		if (comparison->star_at == GLOB_SIZE ||
		    !comparison->text[comparison->star_text & (NODE_NAME_SIZE - 1)])
			return false;
		comparison->star_text++;
		comparison->text_at = comparison->star_text;
		comparison->glob_at = comparison->star_at + 1;
	}
	return false;
}

static __always_inline bool is_path(const volatile struct selector *selector)
{
	return selector->kind == SELECT_CGROUP || selector->kind == SELECT_OWN;
}

/* What globs say of the root; whose path has no names. */
static __always_inline void match_root(const volatile struct selector list[MAX_SELECTORS],
				       volatile struct path_state *state, u64 id)
{
	int i;

	state->begun[0] = 0;
	state->whole[0] = 0;
	bpf_for(i, 0, MAX_SELECTORS) {
		const volatile struct selector *selector = &list[bounded(i, MAX_SELECTORS)];

		if (!selector->kind)
			break;
		if (!is_path(selector))
			continue;
		if (selector->nr_parts)
			state->begun[0] |= 1U << i;
		else
			state->whole[0] |= 1U << i;
	}
	state->covered[0] = state->whole[0];
	state->id[0] = id;
}

/*
 * The same of the cgroup at state->level, whose parent's is known; its name is in the
 * comparison. Indices are bounded anew in each round, for what a loop holds in its registers
 * is unknown to the verifier in the next one.
 */
#define AT_LEVEL(array, level)	((array)[bounded(level, PATH_STATES)])

static __always_inline void match_level(const volatile struct selector list[MAX_SELECTORS],
					volatile struct path_state *state, u64 id)
{
	int i;

	AT_LEVEL(state->begun, state->level) = 0;
	AT_LEVEL(state->whole, state->level) = 0;
	bpf_for(i, 0, MAX_SELECTORS) {
		const volatile struct selector *selector = &list[bounded(i, MAX_SELECTORS)];
		u32 begun = AT_LEVEL(state->begun, state->level - 1) >> i, part;

		if (!begun)
			break;
		if (!(begun & 1))
			continue;
		part = selector->part[bounded(state->level - 1, MAX_PARTS)];
		if (!glob_matches(selector, part, '/', &state->comparison))
			continue;
		if (selector->nr_parts == state->level)
			AT_LEVEL(state->whole, state->level) |= 1U << i;
		else
			AT_LEVEL(state->begun, state->level) |= 1U << i;
	}
	AT_LEVEL(state->covered, state->level) = AT_LEVEL(state->covered, state->level - 1) |
						 AT_LEVEL(state->whole, state->level);
	AT_LEVEL(state->id, state->level) = id;
}

static __always_inline struct cgroup *ancestor_at(struct cgroup *cgrp, u32 level)
{
	struct cgroup *ancestor = NULL;

	bpf_probe_read_kernel(&ancestor, sizeof(ancestor),
			      (void *)cgrp + bpf_core_field_offset(struct cgroup, ancestors) +
			      level * sizeof(ancestor));
	return ancestor;
}

/*
 * Of a cgroup, given by its address: in the low half which globs of the list stand for it or
 * for one above it, in the high half which stand for itself. What changes from step to step
 * lies in memory: there the verifier does not follow it.
 */
static __always_inline u64 match_path(const volatile struct selector list[MAX_SELECTORS],
				      volatile struct path_state *state, u64 address)
{
	struct cgroup *cgrp = (void *)address, *at;
	u32 depth;
	int step;

	if (!list[0].kind)
		return 0;
	depth = BPF_CORE_READ(cgrp, level);
	/* No glob has more names: further down what it is in is all that counts. */
	state->depth = depth > MAX_PARTS ? MAX_PARTS : depth;
	state->level = state->depth;
	bpf_for(step, 0, MAX_PARTS + 1) {
		at = ancestor_at(cgrp, state->level);
		if (AT_LEVEL(state->id, state->level) == BPF_CORE_READ(at, kn, id))
			break;
		if (!state->level) {
			match_root(list, state, BPF_CORE_READ(at, kn, id));
			break;
		}
		state->level--;
	}
	bpf_for(step, 0, MAX_PARTS) {
		if (state->level >= state->depth)
			break;
		state->level++;
		at = ancestor_at(cgrp, state->level);
		bpf_probe_read_kernel_str((void *)state->comparison.text, NODE_NAME_SIZE,
					  BPF_CORE_READ(at, kn, name));
		match_level(list, state, BPF_CORE_READ(at, kn, id));
	}
	return (depth > MAX_PARTS ? 0 : (u64)AT_LEVEL(state->whole, state->depth) << 32) |
	       AT_LEVEL(state->covered, state->depth);
}

/* What LIST_path() says of the globs that cover all below a cgroup as well. */
#define COVERED		0xffffffffULL

/*
 * The place of the first selector that holds of a cgroup, -1 for none, from what LIST_path()
 * says of it. SELECT_OWN holds of the cgroup itself only.
 */
static __always_inline int first_path(const volatile struct selector list[MAX_SELECTORS],
				      u64 matched)
{
	u32 covered = matched, whole = matched >> 32;
	int i;

	if (!covered)
		return -1;
	bpf_for(i, 0, MAX_SELECTORS) {
		if (!(covered >> i))
			break;
		if (!(covered >> i & 1))
			continue;
		if (whole >> i & 1 || list[bounded(i, MAX_SELECTORS)].kind == SELECT_CGROUP)
			return i;
	}
	return -1;
}

/* LIST_path(): what a list says of the cgroup at that address, see match_path(). */
#define SELECTS_PATHS(list)						\
static struct path_state list##_paths;					\
									\
__noinline u64 list##_path(u64 cgroup)					\
{									\
	return match_path(list, &list##_paths, cgroup);			\
}

/*
 * A process as selectors see it. Root's name can be trusted where nobody else could have
 * taken it; see subject.h.
 */
struct subject {
	u32 uid;
	bool trusted;
	bool named_only;	/* no user id stands for it */
	struct comparison name;
};

/* The first selector of a list that names the process by its user or its name, -1: none. */
static __always_inline int first_process(const volatile struct selector list[MAX_SELECTORS],
					 struct subject *subject, bool forgeable)
{
	int i;

	bpf_for(i, 0, MAX_SELECTORS) {
		const volatile struct selector *selector = &list[bounded(i, MAX_SELECTORS)];
		bool user = selector->low <= subject->uid && subject->uid <= selector->high;

		if (!selector->kind)
			break;
		if (selector->kind == SELECT_UID && user && !subject->named_only)
			return i;
		if (selector->kind != SELECT_NAME)
			continue;
		if (!forgeable && !(user && (subject->uid || subject->trusted)))
			continue;
		if (glob_matches(selector, 0, 0, &subject->name))
			return i;
	}
	return -1;
}

/*
 * LIST_process(): the first selector of a list that names a process. A name that spares
 * counts only for the users that the selector gives it to; where it only harms, for all.
 */
#define SELECTS_PROCESSES(list, forgeable)				\
__noinline int list##_process(struct subject *subject)			\
{									\
	return subject ? first_process(list, subject, forgeable) : -1;	\
}

#endif /* BPF_OOM_SELECT_H */
