/* A workspace is prepared in a process of its own: mounts, cgroups and namespaces take milliseconds,
 * in which the manager serves others. */
#ifndef BERTH_BUILDING_H
#define BERTH_BUILDING_H

#include "base/loop.h"
#include "manager/prepare.h"

struct session;
struct building; /* owned by its session; NULL: none */

/* All of w is used before this returns. spill: lent, comes back as KEEPER_SPILL. The end is told by
 * session_run_built. */
int building_begin(struct session *s, const struct workspace *w, int spill,
		   struct err *err) must_check;
/* Kills it, if there is one; its end is waited for by building_end. */
void building_cut(struct session *s);
/* The same, and waits until it is gone, for a bounded time: nothing is told any more, and what it
 * has made goes with prepare_clear. */
void building_end(struct session *s);

#endif
