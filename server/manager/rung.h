/* The ladder of isolation: what this node lets us wall a session in with. Chosen once, before
 * anything else is opened, since entering a rung changes what this process is.
 *
 *   root      root with CAP_SYS_ADMIN: namespaces, id-mapped mounts, an id range a session, cgroups
 *   rootless  an ordinary user who may make user namespaces: the same namespaces in one of ours
 *   process   nothing of that: Landlock, seccomp, resource limits, a process group           */
#ifndef BERTH_RUNG_H
#define BERTH_RUNG_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum rung { RUNG_ROOT, RUNG_ROOTLESS, RUNG_PROCESS, RUNGS };

struct isolation {
	enum rung rung;
	bool own_uids;	     /* each session has ids of its own on the node */
	unsigned ids;	     /* ids inside a session, from 0 on; 1: root alone */
	unsigned init_owner; /* owns berth-init: mapped to no session; 0: no such id is left */
	char lacks[400];     /* why it is no better rung; empty on the first */
};

const char *rung_name(enum rung r);
/* What a session has there, for `--check` and `show`: a few words. */
const char *rung_words(enum rung r);
/* What everybody who types into a session should know; NULL: nothing. */
const char *rung_warning(enum rung r);

/* A rung by its name, or RUNGS for auto.
 *   fails   CONFIG */
int rung_parse(const char *wanted, enum rung *out, struct err *err) must_check;

/* Tries a rung for real and in a process of its own; NULL where that is not wanted. */
typedef int (*rung_trial_fn)(void *ctx, enum rung r, struct err *err);

/* By option `isolation`: a name, or auto: the best that can be had. Changes nothing.
 *   fails   DENIED: the named one cannot be had here, with the reason; CONFIG: no such rung */
int rung_choose(const char *wanted, rung_trial_fn trial, void *ctx, struct isolation *out,
		struct err *err) must_check;
/* Whether a rung can be had as far as can be told without trying. */
int rung_look(enum rung r, struct err *err) must_check;
/* Makes this process what the rung says, for good: rootless becomes root of a user namespace of its
 * own (rootless.c). Before any thread, and before files are opened whose owner matters. */
int rung_enter(struct isolation *i, struct err *err) must_check;

/* rootless.c. out_ids: how many ids beside root this user was given (0: none, or no newuidmap); why
 * is filled then. */
int rootless_enter(unsigned *out_ids, char *why, size_t why_bytes, struct err *err) must_check;

#endif
