/* A session for a moment, to prove a rung of isolation: `berthd --check`, and the choice at a start. */
#ifndef BERTH_TRIAL_H
#define BERTH_TRIAL_H

#include "config.h"
#include "manager/rung.h"

#include <stdint.h>

struct trial {
	struct isolation isolation; /* as it was entered */
	uint64_t start_ns, call_ns; /* until pid 1 was ready; one call, from asking to its end */
	char freezes[64];	    /* by what */
	char cgroup_why[128];	    /* why there is no cgroup; empty: there is */
	char limits[3][16];	    /* memory, pids, cpu: by what; empty: nothing */
};

/* In a process of its own, on the filesystem of the state directory: starts a session, runs one call
 * in it, freezes, thaws and kills it. Nothing of it stays.
 *   fails   with the step that failed; AGAIN, TIMEOUT, … as it was */
int trial_run(const struct config *c, const char *libexec, enum rung r, struct trial *out,
	      struct err *err) must_check;
/* berthd --check: prints what was found, a line each. -1: no rung can be had. */
int trial_check(const struct config *c, const char *libexec, struct err *err) must_check;

#endif
