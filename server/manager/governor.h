/* The controllers that hold a session to its limits: memory, pids and cpu, each in the v2 hierarchy
 * where its controller is there, else in a v1 hierarchy of its own:
 *
 *   v2   <v2>/berth-<8 hex>/<session id>               above box, which is the keeper's
 *   v1   /sys/fs/cgroup/<controller>/berth-<8 hex>/<session id>
 *
 *  1. limits are written before a process is in it; nobody but the manager can write them;
 *  2. a limit that cannot be enforced is said so by governor_means, and the session runs. */
#ifndef BERTH_CONTROL_H
#define BERTH_CONTROL_H

#include "base/err.h"
#include "manager/limits.h"

#include <stdbool.h>
#include <stdint.h>

enum governor_kind { GOVERNOR_MEMORY, GOVERNOR_PIDS, GOVERNOR_CPU, GOVERNORS };

struct governor {
	int dir; /* owned: berth-<8 hex> in its hierarchy; -1: there is none */
	bool v1;
};

struct governor_fds {
	int join[GOVERNORS];            /* owned: cgroup.procs for writing; -1: nothing to join */
	int memory_events, pids_events; /* owned, for reading; -1: none */
};

/* v2: our directory there, or -1; lent. */
void governor_open(struct governor c[GOVERNORS], int v2, const char *name);
/* Removes the directories when no session is left in them. */
void governor_close(struct governor c[GOVERNORS], const char *name);
int governor_make(const struct governor c[GOVERNORS], const char *id, const struct limits *limits,
		  struct governor_fds *out, struct err *err) must_check;
void governor_fds_close(struct governor_fds *f);
/* Changes one of a live session; what no controller enforces is left alone. */
int governor_set(const struct governor c[GOVERNORS], const char *id, enum limit l, uint64_t value,
		 struct err *err) must_check;
/* What the kernel says that it enforces, and what is used: -1 where it says nothing. */
int governor_read(const struct governor c[GOVERNORS], const char *id, enum limit l,
		  uint64_t *out_value, uint64_t *out_used) must_check;
/* "cgroup v1", "cgroup v2", or NULL: nothing enforces it. */
const char *governor_means(const struct governor c[GOVERNORS], enum limit l);
/* What v1 has of a session that has no process any more. Absent is success. */
int governor_clear(const struct governor c[GOVERNORS], const char *id, struct err *err) must_check;

#endif
