/* What an earlier manager left: its sessions, their keepers, their connections. */
#ifndef BERTH_TAKEOVER_H
#define BERTH_TAKEOVER_H

#include "manager/manager.h"

/* Loads every session and brings it to where the table of DESIGN section 2 says. Touches nothing
 * whose lock is held by a keeper that does not answer, but kills it. */
int takeover(struct manager *m, struct err *err) must_check;

#endif
