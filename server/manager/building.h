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
/* Ends it, if there is one: nothing is told any more. What it has made goes with prepare_clear. */
void building_stop(struct session *s);

#endif
