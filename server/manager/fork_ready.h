/* The layers of heads are unpacked into the cache behind a pause or a snapshot, where the option
 * fork_ready or a session's own choice says so: its first fork finds them there, and starts as fast
 * as it would on its kept upper, which is never another session's lower.
 *
 * One head at a time, beside all else. What fails is logged: a fork unpacks by itself what it
 * misses. */
#ifndef BERTH_FORK_READY_H
#define BERTH_FORK_READY_H

#include "manager/session.h"

/* The session has a head that it did not have, or that no worker of this run has checked. */
void fork_ready_later(struct session *s);
/* Of what session_new_cacher has made. */
void fork_ready_done(struct session *s, const struct err *failure);
/* All sessions that there are: at the start of the server. */
void fork_ready_begin(struct manager *m);
void fork_ready_end(struct manager *m);

#endif
