/* berthd --reindex: index.db anew from the store alone. Sessions come back as paused, or, where
 * their upper is there that the last start has mounted, as running: the next start takes back what
 * lives, and keeps the files of what does not (takeover.h). Calls, grants and what was seen of
 * uppers do not.
 *
 * Invariants
 *  1. the old index.db is never written to nor removed: it is index.db.old-TIME afterwards;
 *  2. the new one has its name only when it is whole and durable; without an index.db the server
 * does not start on a store that tells of sessions (reindex_check);
 *  3. what cannot be read is told, and hides nothing else. */
#ifndef BERTH_REINDEX_H
#define BERTH_REINDEX_H

#include "manager/manager.h"

/* The state's directories are open, its lock is held, the loop is there. */
int reindex_run(struct manager *m, struct err *err) must_check;
/* CORRUPT: there is no index.db, but a store with sessions. state: STATE's directory. */
int reindex_check(int state, struct err *err) must_check;

#endif
