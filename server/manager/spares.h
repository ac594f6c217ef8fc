/* Sessions that are started before anybody wants them: id, slot, directory, keeper and pid 1 are
 * there, only the name is missing. A first channel on a new name takes one of them, and is spared
 * the start. Only for sessions that have nothing of their own: the node's image, the standard
 * limits.
 *
 * Invariants
 *  1. a spare has no row, is in no list of sessions, and nobody's bytes are in it;
 *  2. a spare's directory is STATE/spares/<id>. It becomes a session by its row, durably, and then by
 *     the rename to sessions/<id>, which a next manager makes up for: what has a row is never
 *     removed, what has none was never used;
 *  3. spares end with their manager, by whatever death (keeper/spare.c);
 *  4. none is made while a session starts that somebody waits for. */
#ifndef BERTH_SPARES_H
#define BERTH_SPARES_H

#include "manager/session.h"

/* Begins to make them, one after another; there are config.spares of them when nothing happens. */
void spares_begin(struct manager *m);
/* Ends them all; waits until their processes are gone, for a bounded time. */
void spares_end(struct manager *m);

/* Makes a session of this name out of a spare. 1: *out, durable, to be run like a new one; 0: there
 * is no spare; -1 */
int spares_claim(struct manager *m, struct str name, const char *owner, struct session **out,
		 struct err *err) must_check;

/* ---- events of a spare's keeper ---- */
void spares_ready(struct session *s);
/* It failed, or ended: another is made, later each time. */
void spares_lost(struct session *s, const struct err *why);

/* ---- after a restart ---- */
/* Gives a session the directory that its claim was about to give it. */
void spares_settle(struct manager *m, const char *id);
/* Removes what an earlier manager's spares have left. All sessions are loaded. */
void spares_sweep(struct manager *m);

#endif
