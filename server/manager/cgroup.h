/* A session's place in the v2 cgroup hierarchy, as the manager makes, watches and clears it:
 * <v2>/berth-<8 hex>/<session id>/box, and the calls' cgroups below box, which the keeper makes. */
#ifndef BERTH_CGROUP_H
#define BERTH_CGROUP_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct cgroup_fds {
	int box, freeze, kill, events; /* owned; box a directory, the switches as wire.h says */
};

/* Our directory in the v2 hierarchy, wherever that is mounted: made when it is absent.
 *   state_path  the state directory, in its one true spelling: it makes the name
 *   out_name    berth-<8 hex>
 *   returns     a directory, or -1 with UNAVAILABLE where there is no v2 hierarchy to write to */
int cgroup_open_node(const char *state_path, char *out_name, size_t name_bytes,
		     struct err *err) must_check;
/* Makes a session's cgroups. box belongs to the keeper's uid and the session root's gid. What is
 * there already must be empty, or become so within half a second: the kernel counts a process that
 * has been waited for a moment longer.
 *   fails   AGAIN when processes of an earlier start live in it */
int cgroup_make(int node, const char *id, unsigned keeper_uid, unsigned session_gid,
		struct cgroup_fds *out, struct err *err) must_check;
void cgroup_close(struct cgroup_fds *c);
bool cgroup_is_populated(int node, const char *id);
/* Kills what lives there, frozen or not, waits until it is gone (at most 10 s), removes all of it.
 * Absent is success. */
int cgroup_clear(int node, const char *id, struct err *err) must_check;

#endif
