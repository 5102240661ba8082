/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Processes of every kind for the scenarios about who dies, and an OOM among them. */
#ifndef ACTORS_H
#define ACTORS_H

#include "harness.h"

#define CGROUPS "/sys/fs/cgroup/"

/* In a child: ends it where that fails. */
void put_file(const char *path, const char *value);
void *anonymous(uint64_t bytes);

/* Starts one of a kind (see actor_main()) with so much memory, and waits until it has it. */
void actor_start(struct hog *hog, const char *kind, int uid, int mib);
/* Leaves below a cgroup, each with `per` processes of `pages` pages. */
void crowd(const char *name, const char *parent, int count, int pages, int per, int adj);

/* A policy with parameters, and with the collection's own protection. */
struct policy start(const char *object, const char *name, const char * const *words, bool with_defaults);

/* Everybody has what they want; the next MiB that the grower touches is one too many. */
extern struct hog grower;
void limit(void);
void provoke(void);
void provoke_all(void);	/* it wants 24 MiB more than the machine has */
/* What the policy decided and who died, into the notes. */
void tell(struct policy *policy, struct hog *hogs, int count);
/* They fill all that there is, then one that cannot die wants more. */
void oom_among(struct policy *policy, struct hog *hogs, int count);
/* The policy killed, and not the kernel. */
void check_killed_somewhere(struct policy *policy);

#endif /* ACTORS_H */
